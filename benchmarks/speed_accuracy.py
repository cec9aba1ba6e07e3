"""Fit the speed model to published and measured rates, and print how far it is off.

    python -m benchmarks.speed_accuracy            # tables; fails when a promise is broken
    python -m benchmarks.speed_accuracy --fit      # the constants the data gives

The promises (docs/speed.md): decode within 6 % (median) of the published rates, within 12 % on
devices that were left out of the fit, 90 % of the table inside the interval and 90 % of what was
published elsewhere of other models and machines, and on the reference CPU within 15 % after one
calibration. The run fails too when the constants in the code are not what the data gives. Data:
benchmarks/data/speed_published.csv (llama.cpp's users), speed_elsewhere.csv (others, never fitted),
cpu_reference.csv (measured for this project) and quant_ftypes.csv (llama.cpp's own table).
"""

import statistics
import sys
from collections.abc import Sequence

from benchmarks.speed_elsewhere import Elsewhere, decode_errors, elsewhere, prompt_errors, spreads
from benchmarks.speed_fit import (
    TESTED_DEPTH,
    CpuRow,
    Row,
    balance,
    by,
    cpu_prompt_ps,
    cpu_rows,
    cpu_share,
    fit_backend,
    fit_cpu,
    left_out,
    prompt_key,
    published,
    slowdowns,
)
from localllm.core.hardware import Backend
from localllm.core.model.quants import GgmlType
from localllm.core.speed import calibrated, decode_tps, prefill_tps
from localllm.core.speed import constants as fitted
from localllm.core.speed.gpus import Generation

TOLERANCE = 0.02  # between the constants in the code and a fresh fit


def print_fit(rows: Sequence[Row]) -> None:
    decode, prompt = [r for r in rows if r.decode], [r for r in rows if not r.decode]
    for backend, mine in by(decode, lambda r: r.backend).items():
        fit = fit_backend(mine)
        print(f"{backend}: efficiency {fit.efficiency:.3f}")
        for group, layer_us in fit.layer_us.items():
            print(f"  {group:18} layer {layer_us:6.1f} us")
    for group, mine in by(prompt, prompt_key).items():
        values = [balance(row) for row in mine]
        middle = statistics.median(values)
        print(f"prompt {group:28} {middle:8.1f} FLOP/byte   n {len(values)}")
    others = elsewhere()
    for name, errors, least in (
        ("decode", decode_errors(rows, others), fitted.LEAST_SPREAD),
        ("prompt", prompt_errors(rows, others), fitted.LEAST_PROMPT_SPREAD),
    ):
        for kind, spread in spreads(errors, least).items():
            devices = len(errors[kind])
            print(
                f"{name} spread {kind:9} fast {spread.fast:.2f}  slow {spread.slow:.2f}"
                f"  devices {devices}"
            )
    layer_us, weights = fit_cpu(cpu_rows())
    print(f"cpu: layer {layer_us:.1f} us")
    print("  decode", {kind.name: round(value, 1) for kind, value in weights.items()})
    prompts = {
        r.work.weights[0].type.name: round(cpu_prompt_ps(r), 1)
        for r in cpu_rows()
        if r.prompt_tps is not None and r.model == "synthetic 12 x 1024"
    }
    print("  prompt", prompts)
    low_bit = {kind.name: round(value, 2) for kind, value in slowdowns().items()}
    print("gpu slowdowns", low_bit)


def print_accuracy(rows: Sequence[Row]) -> list[str]:
    """The table; returns the promises that are broken."""
    broken: list[str] = []
    decode = [row for row in rows if row.decode]
    print("decode              rows  fitted  left out  roofline  inside")
    everything: list[tuple[float, float, float, bool]] = []
    for backend, mine in [*by(decode, lambda r: r.backend).items(), ("all", [])]:
        held = {id(row): 1 / (fit.seconds(row) * row.tps) for row, fit in left_out(mine)}
        errors = [_errors(row, held[id(row)]) for row in mine] or everything
        everything += errors if mine else []
        within, out, naive = (statistics.median(e[i] for e in errors) for i in range(3))
        inside = sum(e[3] for e in errors) / len(errors)
        print(
            f"{backend:18} {len(errors):5}  {within:6.1%}  {out:8.1%}  {naive:8.1%}  {inside:6.0%}"
        )
    if within > 0.06:
        broken.append(f"median error of decode is {within:.1%}, promised 6 %")
    if out > 0.12:
        broken.append(f"median error on left-out devices is {out:.1%}, promised 12 %")
    if inside < 0.90:
        broken.append(f"{inside:.0%} of the rows lie inside their interval, promised 90 %")
    return broken


def _errors(row: Row, held_out: float) -> tuple[float, float, float, bool]:
    estimate = decode_tps([row.share], depth=TESTED_DEPTH)
    return (
        abs(estimate.likely / row.tps - 1),
        abs(held_out - 1),
        abs(row.bandwidth / row.size_bytes / row.tps - 1),
        estimate.low <= row.tps <= estimate.high,
    )


def print_elsewhere(rows: Sequence[Elsewhere]) -> list[str]:
    """What was published of other models, by what the rows were used for and by backend."""
    broken: list[str] = []
    for kind, decode in (("decode", True), ("prompt", False)):
        print(f"\nelsewhere, {kind:8} rows  median  roofline  inside  high/low")
        mine = [row for row in rows if row.decode is decode and row.role != "broken"]
        tables = {**by(mine, lambda r: r.role), **by(mine, lambda r: r.backend), "all": mine}
        for name, each in tables.items():
            estimates = [(row, row.estimate) for row in each]
            middle = statistics.median(abs(e.likely / r.tps - 1) for r, e in estimates)
            naive = statistics.median(abs(r.roofline / r.tps - 1) for r in each)
            inside = sum(e.low <= r.tps <= e.high for r, e in estimates) / len(each)
            width = statistics.median(e.high / e.low for _, e in estimates)
            roofline = f"{naive:8.1%}" if decode else "       -"
            print(
                f"{name:18} {len(each):5}  {middle:6.1%}  {roofline}  {inside:6.0%}  {width:8.1f}"
            )
        if inside < 0.90:
            broken.append(f"{inside:.0%} of the {kind} rates elsewhere are inside, promised 90 %")
    return broken


def print_prompt_accuracy(rows: Sequence[Row]) -> None:
    print("\nprompt (pp512)      rows  median  inside")
    for backend, mine in by([r for r in rows if not r.decode], lambda r: r.backend).items():
        estimates = [(row, prefill_tps([row.share])) for row in mine]
        middle = statistics.median(abs(e.likely / r.tps - 1) for r, e in estimates)
        inside = sum(e.low <= r.tps <= e.high for r, e in estimates) / len(estimates)
        print(f"{backend:18} {len(mine):5}  {middle:6.1%}  {inside:6.0%}")


def print_cpu_accuracy(rows: Sequence[CpuRow]) -> list[str]:
    """Every real model of the CPU, calibrated on one of them."""
    real = [row for row in rows if not row.synthetic and row.threads == 2]
    anchor = next(row for row in real if row.quant == "Q4_1")
    known = decode_tps([cpu_share(anchor)]).likely
    fit = fit_cpu([row for row in rows if row.synthetic])
    print("\nreference CPU, calibrated on SmolLM2-135M Q4_1 (constants fitted to all models;")
    print("in brackets: to the synthetic models only)")
    worst = 0.0
    for row in real:
        wanted = 1e3 / row.ms
        estimate = calibrated(decode_tps([cpu_share(row)]), [1e3 / anchor.ms], [known])
        blind = _seconds_with(row, fit) / _seconds_with(anchor, fit) * anchor.ms
        error, alone = estimate.likely / wanted - 1, row.ms / blind - 1
        worst = max(worst, abs(error))
        print(
            f"  {row.model:14} {row.quant:7} {wanted:6.1f} tok/s  "
            f"estimate {estimate.likely:6.1f}  {error:+6.1%}  ({alone:+6.1%})"
        )
    return [f"the worst calibrated CPU estimate is {worst:.1%} off"] if worst > 0.15 else []


def _seconds_with(row: CpuRow, fit: tuple[float, dict[GgmlType, float]]) -> float:
    layer_us, weights = fit
    arithmetic = sum(r.elements * weights.get(r.type, 40.0) for r in row.work.weights)
    moved = row.work.weight_bytes / fitted.CPU_REFERENCE_BANDWIDTH
    return moved + arithmetic * 1e-12 / row.threads + row.layers * layer_us * 1e-6


def stale(rows: Sequence[Row]) -> list[str]:
    """Constants of the code that are not what the data gives."""
    found: list[str] = []

    def compare(name: str, code: float, fresh: float, slack: float = 0.0) -> None:
        if abs(code - fresh) > TOLERANCE * abs(fresh) + slack:
            found.append(f"{name} is {code:g} in the code; the fit gives {fresh:g}")

    for backend, mine in by([r for r in rows if r.decode], lambda r: r.backend).items():
        fit = fit_backend(mine)
        compare(f"{backend} efficiency", fitted.EFFICIENCY[Backend(backend)], fit.efficiency)
        for group, layer_us in fit.layer_us.items():
            compare(f"{group} layer time", fitted.LAYER_US[group], layer_us, 0.5)
    others = elsewhere()
    for group, fresh in spreads(decode_errors(rows, others), fitted.LEAST_SPREAD).items():
        compare(f"{group} fast spread", fitted.DECODE_SPREAD[group].fast, fresh.fast, 0.006)
        compare(f"{group} slow spread", fitted.DECODE_SPREAD[group].slow, fresh.slow, 0.006)
    for group, fresh in spreads(prompt_errors(rows, others), fitted.LEAST_PROMPT_SPREAD).items():
        compare(f"{group} fast prompt", fitted.PROMPT_SPREAD[group].fast, fresh.fast, 0.006)
        compare(f"{group} slow prompt", fitted.PROMPT_SPREAD[group].slow, fresh.slow, 0.006)
    for key, mine in by([r for r in rows if not r.decode], prompt_key).items():
        backend, family = key.split()
        fit_at = fitted.PROMPT_FLOP_PER_BYTE[Backend(backend), Generation(family)]
        compare(f"{key} prompt", fit_at, statistics.median(balance(r) for r in mine), 0.1)
    layer_us, weights = fit_cpu(cpu_rows())
    compare("CPU layer time", fitted.CPU_LAYER_S * 1e6, layer_us, 0.5)
    for kind, value in weights.items():
        compare(f"CPU decode of {kind.name}", fitted.cpu_decode_s(kind) * 1e12, value, 0.2)
    for kind, value in slowdowns().items():
        compare(f"GPU slowdown of {kind.name}", fitted.gpu_slowdown(kind), max(1.0, value), 0.006)
    return found


def main() -> int:
    rows = published()
    if "--fit" in sys.argv[1:]:
        print_fit(rows)
        return 0
    broken = print_accuracy(rows)
    print_prompt_accuracy(rows)
    broken += print_elsewhere(elsewhere())
    broken += print_cpu_accuracy(cpu_rows())
    broken += stale(rows)
    for line in broken:
        print(f"BROKEN: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
