"""The table of the bench place: what was measured of each model here, beside what was predicted.

Pure: measurements in, rows and lines out.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from textual.content import Content

from localllm.core.recommend import READING_TPS
from localllm.core.speed import Estimate
from localllm.core.speed.measured import MeasuredMachine, MeasuredModel, Measurement
from localllm.core.text import single_line
from localllm.core.units import format_rate
from localllm.library.store.installed import InstalledModel
from localllm.translation import _
from localllm.tui.figures import ranged

_NAME, _QUANT, _NUMBER, _READS, _PREDICTED, _OFF = 18, 8, 7, 7, 14, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """A model and what was measured of it on this machine.

    `decode` is of one conversation, None: not measured. `reads` are tokens/s of a prompt.
    `predicted` is the estimate that no measurement corrects. `installed` None: it left the library.
    """

    name: str
    quant: str
    size_bytes: int
    decode: Measurement | None = None
    reads: Measurement | None = None
    predicted: Estimate | None = None
    installed: InstalledModel | None = None

    @property
    def off(self) -> float | None:
        """How far the measured rate is from the predicted one, as a part of it; None: one of the
        two is not known."""
        if self.decode is None or self.predicted is None or self.predicted.likely <= 0:
            return None
        return self.decode.tps_mean / self.predicted.likely - 1

    @property
    def model(self) -> MeasuredModel | None:
        """The file that was measured; None when it was not."""
        measured = self.decode or self.reads
        return None if measured is None else measured.model


def bench_rows(
    installed: Sequence[InstalledModel],
    measured: Iterable[Measurement],
    here: MeasuredMachine,
    predicted: Mapping[str, Estimate],
) -> tuple[BenchRow, ...]:
    """Return the installed models and those that were measured here, the fastest first, then those
    that were not measured. Of several measurements of a thing the newest counts."""
    newest: dict[tuple[str, str, int], dict[bool, Measurement]] = {}
    for one in sorted(measured, key=lambda one: one.measured_at):
        if one.parallel == 1 and one.machine.comparable(here):
            key = one.model.name, one.model.quant or "?", one.model.size_bytes
            newest.setdefault(key, {})[one.n_gen > 0] = one
    rows = []
    for model in installed:
        key = model.name, model.quant or "?", model.size_bytes
        found = newest.pop(key, {})
        rows.append(
            BenchRow(
                name=model.name,
                quant=model.quant or "?",
                size_bytes=model.size_bytes,
                decode=found.get(True),
                reads=found.get(False),
                predicted=predicted.get(model.name),
                installed=model,
            )
        )
    rows += [
        BenchRow(name=name, quant=quant, size_bytes=size, decode=f.get(True), reads=f.get(False))
        for (name, quant, size), f in newest.items()
    ]
    return tuple(
        sorted(rows, key=lambda row: (-(row.decode.tps_mean if row.decode else 0), row.name))
    )


def fastest(rows: Iterable[BenchRow]) -> float:
    """Return the rate at the right end of the bars."""
    tops = [row.decode.tps_mean for row in rows if row.decode is not None]
    tops += [row.predicted.high for row in rows if row.predicted is not None]
    return max(tops, default=0.0)


def row_lines(row: BenchRow, width: int, *, top: float) -> tuple[Content, ...]:
    """Write a row: `top` is the rate at the right end of its bar."""
    decode, predicted = row.decode, row.predicted
    rate = "-" if decode is None else format_rate(decode.tps_mean).removesuffix(" tok/s")
    reads = "-" if row.reads is None else f"{row.reads.tps_mean:.0f}"
    guess = _("not known")
    if predicted is not None:
        guess = f"{predicted.likely:.0f} ({predicted.low:.0f}-{predicted.high:.0f})"
    off = "" if row.off is None else f"{row.off:+.0%}"
    unsteady = decode is not None and not decode.steady
    head = f"{single_line(row.name)[:_NAME]:{_NAME}} {single_line(row.quant)[:_QUANT]:{_QUANT}}"
    numbers = f"{reads:>{_READS}} {guess:>{_PREDICTED}} {off:>{_OFF}}"
    space = max(width - len(head) - _NUMBER - len(numbers) - 5, 0)
    line = Content(f"{head} {rate:>{_NUMBER}} ")
    if decode is None:
        words = _("not measured")
        words = words if len(words) <= space else ""  # the dash before it says so too
        line += Content.styled(words.ljust(space), "$text-muted")
    else:
        low, high = decode.tps_mean, decode.tps_mean
        if predicted is not None:
            low, high = predicted.low, predicted.high
        style = "$warning" if unsteady else "$primary"
        line += Content.styled(ranged(low, decode.tps_mean, high, top, space), style)
    line += Content(f" {numbers}")
    if unsteady:
        line += Content.styled(" ~", "$text-warning")
    return (line,)


def head_line(width: int) -> Content:
    """Write the head of the table."""
    head = f" {_('model'):{_NAME}} {_('quant'):{_QUANT}} {_('tok/s'):>{_NUMBER}} "
    numbers = f"{_('reads'):>{_READS}} {_('predicted'):>{_PREDICTED}} {_('diff.'):>{_OFF}}"
    space = max(width - len(head) - len(numbers) - 3, 0)
    return Content.styled(f"{head}{'':{space}} {numbers}", "$text-muted")


def reading_line(width: int, top: float) -> Content:
    """Mark how fast a person reads, where the bars are."""
    head = _NAME + _QUANT + _NUMBER + 4
    space = max(width - head - _READS - _PREDICTED - _OFF - 6, 0)
    at = head + (round(READING_TPS / top * space) if top > 0 else 0)
    text = _("┊ you read about {rate} tok/s").format(rate=f"{READING_TPS:.0f}")
    return Content.styled(" " * min(at, max(width - len(text), 0)) + text, "$text-muted")


def as_json(rows: Iterable[BenchRow], here: MeasuredMachine) -> str:
    """Write what was measured as one JSON document, for a program."""
    return json.dumps(
        {
            "machine": {
                "cpu": here.cpu,
                "threads": here.threads,
                "devices": list(here.devices),
                "engine": here.engine_version,
            },
            "models": [
                {
                    "model": row.name,
                    "quant": row.quant,
                    "size_bytes": row.size_bytes,
                    "decode_tps": row.decode.tps_mean,
                    "decode_tps_stdev": row.decode.tps_stdev,
                    "prompt_tps": None if row.reads is None else row.reads.tps_mean,
                    "predicted_tps": None
                    if row.predicted is None
                    else {
                        "low": row.predicted.low,
                        "likely": row.predicted.likely,
                        "high": row.predicted.high,
                    },
                    "steady": row.decode.steady,
                    "measured_at": row.decode.measured_at,
                }
                for row in rows
                if row.decode is not None
            ],
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        indent=2,
        ensure_ascii=False,
    )
