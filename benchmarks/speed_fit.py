"""The data behind the speed model, and the fits to it (run speed_accuracy.py)."""

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from localllm.core.hardware import Backend
from localllm.core.model.quants import GgmlType
from localllm.core.speed import AttentionReads, DeviceSpeed, DeviceWork, WeightRead, Workload
from localllm.core.speed import constants as fitted
from localllm.core.speed.gpus import generation

DATA = Path(__file__).parent / "data"
TESTED_DEPTH = 64  # tg128 starts from an empty cache: 63.5 tokens on average
GIB = 1 << 30

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published rate of the 7B model."""

    hardware: str
    backend: Backend
    bandwidth: float
    quant: str
    size_bytes: float
    decode: bool
    tps: float

    @property
    def group(self) -> str:
        return fitted.group(self.backend, generation(self.hardware))

    @property
    def share(self) -> DeviceWork:
        device = DeviceSpeed(
            bandwidth_bytes_per_s=self.bandwidth,
            backend=self.backend,
            generation=generation(self.hardware),
        )
        return DeviceWork(device=device, work=llama_7b(self.quant))


def llama_7b(quant: str) -> Workload:
    """LLaMA-7B as llama.cpp quantizes it: 32 layers, 4096 wide, 11008 inner, 32,000 tokens; the
    output matrix of Q4_0 is Q6_K."""
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008
    body, output = GgmlType[quant], GgmlType["Q6_K" if quant == "Q4_0" else quant]
    head = 32000 * 4096
    return Workload(
        layers=32,
        weights=(
            WeightRead(type=body, elements=32 * layer, elements_loaded=32 * layer),
            WeightRead(type=output, elements=head, elements_loaded=head, last_only=True),
        ),
        attention=(
            AttentionReads(
                bytes_per_cell=32 * 2 * 4096 * 2,
                elements_per_cell=32 * 2 * 4096,
                macs_per_cell=32 * 2 * 4096,
            ),
        ),
    )


def published() -> list[Row]:
    with (DATA / "speed_published.csv").open(newline="") as file:
        return [
            Row(
                hardware=line["hardware"],
                backend=Backend(line["backend"].split("(")[0].lower()),
                bandwidth=float(line["nominal_bw_GBs"]) * 1e9,
                quant=line["quant"],
                size_bytes=float(line["size_GiB"]) * GIB,
                decode=line["test"] == "tg128",
                tps=float(line["tok_s"]),
            )
            for line in csv.DictReader(file)
        ]


# fitting


def descend(loss: Callable[[list[float]], float], start: list[float]) -> list[float]:
    """Minimise by scaling one number at a time, in ever smaller steps."""
    best, at, step = loss(start), list(start), 0.5
    while step > 1e-4:
        improved = False
        for i in range(len(at)):
            for factor in (1 + step, 1 / (1 + step)):
                trial = [*at[:i], at[i] * factor, *at[i + 1 :]]
                value = loss(trial)
                if value < best - 1e-12:
                    best, at, improved = value, trial, True
        if not improved:
            step /= 2
    return at


def seconds_by(row: Row, efficiency: float, layer_s: float) -> float:
    work = row.share.work
    moved = work.weight_bytes + work.kv_bytes(TESTED_DEPTH)
    return moved / (efficiency * row.bandwidth) + work.layers * layer_s


@dataclass(frozen=True, slots=True)
class BackendFit:
    efficiency: float
    layer_us: dict[str, float]

    def layer_s(self, group: str) -> float:
        return self.layer_us.get(group, statistics.median(self.layer_us.values())) * 1e-6

    def seconds(self, row: Row) -> float:
        return seconds_by(row, self.efficiency, self.layer_s(row.group))


def fit_backend(rows: Sequence[Row]) -> BackendFit:
    """Least absolute error of the logarithm: one efficiency, one layer time a group.

    For each efficiency the best layer times are independent, so only one number is searched.
    """
    groups = sorted({row.group for row in rows})

    def layers(efficiency: float) -> dict[str, float]:
        return {g: _layer_us([r for r in rows if r.group == g], efficiency) for g in groups}

    def loss(efficiency: float) -> float:
        fit = BackendFit(efficiency, layers(efficiency))
        return sum(abs(math.log(fit.seconds(row) * row.tps)) for row in rows)

    best = min((e / 200 for e in range(90, 191)), key=loss)
    return BackendFit(best, layers(best))


def _layer_us(rows: Sequence[Row], efficiency: float) -> float:
    """The layer time with the least absolute logarithmic error lies at one row's exact value."""
    exact = {
        max(0.0, (1 / r.tps - seconds_by(r, efficiency, 0.0)) / r.share.work.layers) for r in rows
    }

    def loss(layer_s: float) -> float:
        return sum(abs(math.log(seconds_by(r, efficiency, layer_s) * r.tps)) for r in rows)

    return min(sorted(exact), key=loss) * 1e6


def left_out(rows: Sequence[Row]) -> list[tuple[Row, BackendFit]]:
    """Each row with the fit that never saw its device."""
    found = []
    for device in sorted({row.hardware for row in rows}):
        fit = fit_backend([row for row in rows if row.hardware != device])
        found += [(row, fit) for row in rows if row.hardware == device]
    return found


def by(rows: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(sorted(found.items()))


def balance(row: Row) -> float:
    """Prompt operations per byte of nominal bandwidth that this row reached."""
    work = row.share.work
    macs = sum(r.elements * (1 if r.last_only else 512) for r in work.weights)
    macs += sum(p.macs_per_cell * p.cells_of_prompt(512) for p in work.attention)
    fixed = work.layers * fitted.gpu_fit(row.backend, generation(row.hardware)).layer_s
    return 2 * macs / (512 / row.tps - fixed) / row.bandwidth


def prompt_key(row: Row) -> str:
    return f"{row.backend.value} {(generation(row.hardware) or 'unknown')}"


# the reference CPU


@dataclass(frozen=True, slots=True)
class CpuRow:
    model: str
    quant: str
    threads: int
    layers: int
    ms: float
    prompt_tps: float | None
    work: Workload

    @property
    def synthetic(self) -> bool:
        return self.model.startswith("synthetic")


def cpu_rows() -> list[CpuRow]:
    with (DATA / "cpu_reference.csv").open(newline="") as file:
        return [_cpu_row(line) for line in csv.DictReader(file)]


def _cpu_row(line: dict[str, str]) -> CpuRow:
    reads = [
        WeightRead(type=GgmlType[kind], elements=int(n), elements_loaded=int(n), last_only=last)
        for column, last in (("layer_weights", False), ("output_weights", True))
        for kind, n in (part.split("=") for part in line[column].split(";"))
    ]
    return CpuRow(
        line["model"],
        line["quant"],
        int(line["threads"]),
        int(line["layers"]),
        float(line["ms_per_token"]),
        float(line["pp256_tps"]) if line["pp256_tps"] else None,
        Workload(layers=int(line["layers"]), weights=tuple(reads)),
    )


def fit_cpu(rows: Sequence[CpuRow]) -> tuple[float, dict[GgmlType, float]]:
    """Microseconds a layer, and picoseconds a weight and core, at the reference bandwidth."""
    kinds = sorted({read.type for row in rows for read in row.work.weights})
    position = {kind: i + 1 for i, kind in enumerate(kinds)}
    reads = [
        (
            row,
            row.work.weight_bytes / fitted.CPU_REFERENCE_BANDWIDTH,
            [(position[r.type], r.elements * 1e-12 / row.threads) for r in row.work.weights],
        )
        for row in rows
    ]

    def loss(x: list[float]) -> float:
        total = 0.0
        for row, moved, parts in reads:
            seconds = moved + row.layers * x[0] * 1e-6 + sum(x[i] * n for i, n in parts)
            total += math.log(seconds / (row.ms * 1e-3)) ** 2
        return total

    x = descend(loss, [60.0, *(40.0 for _ in kinds)])
    return x[0], {kind: x[position[kind]] for kind in kinds}


def cpu_share(row: CpuRow) -> DeviceWork:
    device = DeviceSpeed(bandwidth_bytes_per_s=fitted.CPU_REFERENCE_BANDWIDTH, cores=row.threads)
    return DeviceWork(device=device, work=row.work)


def cpu_prompt_ps(row: CpuRow) -> float:
    """Picoseconds a weight and core of a 256-token prompt."""
    assert row.prompt_tps is not None
    body = sum(read.elements for read in row.work.weights if not read.last_only)
    return row.threads / row.prompt_tps / body * 1e12


def slowdowns() -> dict[GgmlType, float]:
    """How much longer than its bytes each type takes on a GPU, from llama.cpp's own table of one
    8B model in every quant on one machine (tools/quantize/README.md): the straight line through
    F16 and Q8_0 is what bytes cost there. A mix is counted as its main type."""
    with (DATA / "quant_ftypes.csv").open(newline="") as file:
        lines = {
            line["ftype"]: (float(line["llama31_8b_bpw"]), 1 / float(line["llama31_8b_tg128_tps"]))
            for line in csv.DictReader(file)
            if line["llama31_8b_tg128_tps"]
        }
    (full, full_s), (eight, eight_s) = lines["F16"], lines["Q8_0"]
    per_bit = (full_s - eight_s) / (full - eight)
    fixed = full_s - per_bit * full
    found = {}
    for kind, mix in fitted.SLOWDOWN_FROM.items():
        bits, seconds = lines[mix]
        found[kind] = (seconds - fixed) / (per_bit * bits)
    return found
