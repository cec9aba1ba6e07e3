"""A picture of the measurements to show to others: machine, models, tokens per second, date.

Pure: an SVG as text, without scripts, fonts or anything that is loaded. Nothing personal is in it:
no name of a user, a computer or a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.translation import _
from localllm.tui.screens.bench.rows import BenchRow, fastest

WIDTH, ROW = 860, 44
_LEFT, _BAR_LEFT, _BAR_WIDTH, _TOP = 32, 300, 360, 132
_BACKGROUND, _TEXT, _MUTED, _BAR, _RANGE = "#11151a", "#d5dbe1", "#8b96a1", "#7fc8b2", "#e6b673"
_MAX_NAME = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMachine:
    """What a card says of the machine."""

    processor: str
    cores: int
    memory_bytes: int
    devices: tuple[str, ...]
    engine: str


def card_svg(rows: Sequence[BenchRow], machine: CardMachine, *, date: str) -> str:
    """Draw the rows that were measured; `date` is written as it is."""
    shown = [row for row in rows if row.decode is not None]
    top = fastest(shown)
    height = _TOP + ROW * max(len(shown), 1) + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="ui-monospace, monospace">',
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="{_BACKGROUND}"/>',
        _text(_LEFT, 48, _("Language models on this machine"), size=24, color=_BAR),
        _text(_LEFT, 78, _machine(machine), size=15),
        _text(_LEFT, 102, _engine(machine), size=13, color=_MUTED),
    ]
    for index, row in enumerate(shown):
        parts += _row(row, _TOP + ROW * index, top)
    note = _("measured with localllm, {date}").format(date=date)
    parts += [_text(_LEFT, height - 22, note, size=13, color=_MUTED), "</svg>"]
    return "\n".join(parts) + "\n"


def _machine(machine: CardMachine) -> str:
    cores = _("{count} cores").format(count=machine.cores)
    facts = [machine.processor, cores, format_bytes(machine.memory_bytes), *machine.devices]
    return " · ".join(facts)


def _engine(machine: CardMachine) -> str:
    return _("one conversation, tokens per second; engine: {engine}").format(engine=machine.engine)


def _row(row: BenchRow, y: int, top: float) -> list[str]:
    assert row.decode is not None
    rate = row.decode.tps_mean
    name = single_line(row.name)[:_MAX_NAME]
    facts = f"{single_line(row.quant)} · {format_bytes(row.size_bytes)}"
    length = _length(rate, top)
    parts = [
        _text(_LEFT, y + 16, name, size=16),
        _text(_LEFT, y + 33, facts, size=12, color=_MUTED),
        f'<rect x="{_BAR_LEFT}" y="{y + 6}" width="{length}" height="18" rx="3" fill="{_BAR}"/>',
        _text(_BAR_LEFT + _BAR_WIDTH + 16, y + 21, f"{rate:.1f} tok/s", size=16),
    ]
    if row.predicted is not None:
        low, high = _length(row.predicted.low, top), _length(row.predicted.high, top)
        parts.append(
            f'<path d="M{_BAR_LEFT + low} {y + 30}H{_BAR_LEFT + high}" stroke="{_RANGE}" '
            'stroke-width="2"/>'
        )
        expected = _("predicted {low}-{high}").format(
            low=f"{row.predicted.low:.0f}", high=f"{row.predicted.high:.0f}"
        )
        parts.append(_text(_BAR_LEFT + _BAR_WIDTH + 16, y + 36, expected, size=12, color=_MUTED))
    return parts


def _length(rate: float, top: float) -> int:
    return max(round(_BAR_WIDTH * rate / top), 1) if top > 0 else 1


def _text(x: int, y: int, text: str, *, size: int, color: str = _TEXT) -> str:
    shown = escape(single_line(text))
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}">{shown}</text>'
