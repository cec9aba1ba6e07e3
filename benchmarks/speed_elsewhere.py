"""Rates that others published of other models, and how wide the intervals must be for them.

No constant of the likely estimate is fitted to these. benchmarks/data/speed_elsewhere.csv says of
each row what it was used for (`role`):

    spread   with the table's own left-out devices it decides how wide the intervals are
    design   it was looked at while the shape of the bounds was chosen, and sets no number of a fit
    blind    it was added when shape and widths were settled, and changed neither
    broken   nothing: F16 prompts at a tenth and at 40 % of a sibling's rate

All are whole models on one device, decoded by one conversation, mostly Q4_K_M. `tg300` at depth 0
decodes 300 tokens after an almost empty prompt, so half of them lie before the average one.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from benchmarks.speed_fit import (
    DATA,
    TESTED_DEPTH,
    BackendFit,
    Row,
    balance,
    by,
    fit_backend,
    left_out,
    prompt_key,
)
from localllm.core.catalogue.catalogue import Entry
from localllm.core.hardware import Backend
from localllm.core.speed import (
    DeviceSpeed,
    DeviceWork,
    Estimate,
    Workload,
    decode_tps,
    prefill_tps,
    workload_of,
)
from localllm.core.speed import constants as fitted
from localllm.core.speed.gpus import generation, lookup
from localllm.core.speed.rates import gpu_token
from localllm.library.files.catalogue_file import read_catalogue

LEVEL = 0.95
"""Of each side: nine of ten lie between the two."""

Errors = dict[str, dict[str, list[fitted.Spread]]]
"""By class of devices, by device, one a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """One published rate of a model of the catalogue."""

    role: str
    hardware: str
    backend: Backend
    model: str
    quant: str
    decode: bool
    tokens: int
    depth: int
    tps: float

    @property
    def device(self) -> DeviceSpeed:
        known = lookup(self.hardware)
        assert known is not None, self.hardware
        return DeviceSpeed(
            bandwidth_bytes_per_s=known.bandwidth_bytes_per_s,
            backend=self.backend,
            generation=generation(self.hardware),
        )

    @property
    def work(self) -> Workload:
        return _work(self.model, self.quant)

    @property
    def middle(self) -> int:
        """Tokens before the average one."""
        return self.depth + self.tokens // 2

    @property
    def estimate(self) -> Estimate:
        """What the product says."""
        shares = [DeviceWork(device=self.device, work=self.work)]
        if self.decode:
            return decode_tps(shares, depth=self.middle)
        return prefill_tps(shares, tokens=self.tokens)

    @property
    def roofline(self) -> float:
        """Bandwidth over the bytes of the file, as the simple rule has it."""
        entry = _entries()[self.model]
        return self.device.bandwidth_bytes_per_s / entry.file_bytes(self.quant)


@cache
def _entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in read_catalogue()}


@cache
def _work(model: str, quant: str) -> Workload:
    return workload_of(_entries()[model].spec(quant))


def elsewhere() -> list[Elsewhere]:
    with (DATA / "speed_elsewhere.csv").open(newline="") as file:
        return [
            Elsewhere(
                role=line["role"],
                hardware=line["hardware"],
                backend=Backend(line["backend"].lower()),
                model=line["model"],
                quant=line["quant"],
                decode=line["test"].startswith("tg"),
                tokens=int(line["test"][2:]),
                depth=int(line["depth"]),
                tps=float(line["tok_s"]),
            )
            for line in csv.DictReader(file)
        ]


def decode_errors(table: Sequence[Row], others: Sequence[Elsewhere]) -> Errors:
    """How far each rate lies outside the bounds of a fit that never saw its device."""
    errors: Errors = defaultdict(lambda: defaultdict(list))
    fits: dict[tuple[Backend, str], BackendFit] = {}
    for backend, mine in by([r for r in table if r.decode], lambda r: r.backend).items():
        fits[Backend(backend), ""] = fit_backend(mine)
        for row, fit in left_out(mine):
            fits[row.backend, _same(row.hardware)] = fit
            kind = fitted.spread_class(row.backend, generation(row.hardware))
            error = _token_error(row.share, 1 / row.tps, fit, row.group, TESTED_DEPTH)
            errors[kind][_same(row.hardware)].append(error)
    for one in others:
        if one.role == "spread" and one.decode:
            fit = fits.get((one.backend, _same(one.hardware))) or fits[one.backend, ""]
            group = fitted.group(one.backend, one.device.generation)
            share = DeviceWork(device=one.device, work=one.work)
            kind = fitted.spread_class(one.backend, one.device.generation)
            error = _token_error(share, 1 / one.tps, fit, group, one.middle)
            errors[kind][_same(one.hardware)].append(error)
    return errors


def _same(hardware: str) -> str:
    """One name for a device however it is spelt."""
    known = lookup(hardware)
    return known.name if known is not None else hardware


def _token_error(
    share: DeviceWork, seconds: float, fit: BackendFit, group: str, depth: int
) -> fitted.Spread:
    backend = share.device.backend
    assert backend is not None
    found = fitted.GpuFit(fit.efficiency, fit.layer_s(group), fitted.Spread(0, 0))
    bandwidth = share.device.bandwidth_bytes_per_s
    token = gpu_token(share.work, backend, bandwidth, found, depth=depth)
    return fitted.Spread(fast=math.log(token.fast / seconds), slow=math.log(seconds / token.slow))


def prompt_errors(table: Sequence[Row], others: Sequence[Elsewhere]) -> Errors:
    """The same for prompts: operations per byte from the other devices of the generation."""
    errors: Errors = defaultdict(lambda: defaultdict(list))
    prompts = by([r for r in table if not r.decode], prompt_key)
    for mine in prompts.values():
        for row in mine:
            share = replace(row.share, device=_without(row.share.device, row.hardware, mine))
            kind = fitted.spread_class(row.backend, generation(row.hardware))
            errors[kind][_same(row.hardware)].append(_prompt_error(share, 512, row.tps))
    for one in others:
        if one.role == "spread" and not one.decode:
            mine = prompts.get(f"{one.backend.value} {one.device.generation}", [])
            share = DeviceWork(device=_without(one.device, one.hardware, mine), work=one.work)
            kind = fitted.spread_class(one.backend, one.device.generation)
            errors[kind][_same(one.hardware)].append(_prompt_error(share, one.tokens, one.tps))
    return errors


def _without(device: DeviceSpeed, hardware: str, rows: Iterable[Row]) -> DeviceSpeed:
    """The device as a fit sees it that had only the others."""
    others = sorted(balance(row) for row in rows if _same(row.hardware) != _same(hardware))
    middle = others[len(others) // 2] if others else fitted.UNKNOWN_PROMPT
    return replace(device, compute_flops=middle * device.bandwidth_bytes_per_s)


def _prompt_error(share: DeviceWork, tokens: int, tps: float) -> fitted.Spread:
    assert not share.work.is_routed
    error = math.log(tps / prefill_tps([share], tokens=tokens).likely)
    return fitted.Spread(fast=error, slow=-error)


def spreads(errors: Errors, least: float) -> dict[str, fitted.Spread]:
    """Each side's 95th percentile, raised as split conformal prediction has it for few devices."""
    return {
        kind: fitted.Spread(
            fast=max(least, _percentile(devices, "fast")),
            slow=max(least, _percentile(devices, "slow")),
        )
        for kind, devices in sorted(errors.items())
    }


def _percentile(devices: dict[str, list[fitted.Spread]], side: str) -> float:
    """Every device counts once, however many models were run on it."""
    weighed = sorted(
        (float(getattr(error, side)), 1 / len(mine)) for mine in devices.values() for error in mine
    )
    wanted = min(1.0, LEVEL * (len(devices) + 1) / len(devices)) * len(devices)
    reached = 0.0
    for value, weight in weighed:
        reached += weight
        if reached >= wanted - 1e-9:
            return value
    return weighed[-1][0]
