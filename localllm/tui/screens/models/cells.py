"""The lines of the list as cells: which columns a width has room for, and what stands in them.

Pure; the widget (`table.py`) only colours the pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rich.cells import cell_len, set_cell_size

from localllm.core.recommend.quant_sizes import QuantSize
from localllm.core.speed import Estimate
from localllm.core.text import single_line
from localllm.translation import _
from localllm.tui.figures import loss_text, rate_range
from localllm.tui.screens.models.filtering import (
    SORT_LABELS,
    KnownSizes,
    ListLine,
    Order,
    SortKey,
    lost_percent,
)
from localllm.tui.screens.models.groups import Ability, ModelGroup, QuantRow, Source
from localllm.tui.widgets.memory_bar import (
    MachineMemory,
    MemoryUse,
    bar_cells,
    load_memory,
    runs,
)

_GIB = 2**30
_BEYOND: Final = 5
"""Cells of a bar right of the machine's limit."""


class Tone(StrEnum):
    """How a piece of a line is coloured; the value is the name of the style."""

    PLAIN = "plain"
    NAME = "name"
    QUIET = "quiet"
    GOOD = "good"
    PARTLY = "partly"
    BAD = "bad"
    HEAD = "head"
    OTHERS = "others"
    WEIGHTS = "weights"
    KV = "kv"
    COMPUTE = "compute"
    RESERVE = "reserve"
    FREE = "free"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a line; a click on one of the head with a `sort` orders by it."""

    text: str
    tone: Tone = Tone.PLAIN
    sort: SortKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The widths of the columns, 0 for one that has no room; `bar` is the whole bar."""

    name: int
    size: int
    licence: int
    quant: int
    file: int
    bar: int
    need: int
    speed: int
    lost: int


def columns_for(width: int) -> Columns:
    """Divide a width. The name and the bar share what is left; the others come as there is room."""
    wide = width >= 132
    size = 7 if width >= 96 else 0
    licence = 13 if width >= 116 else 0
    file = 7 if width >= 88 else 0
    lost = 9 if width >= 104 else 0
    quant, need, speed = 10, 8, 8 if width >= 72 else 0
    fixed = 4 + size + licence + quant + file + need + speed + lost
    left = max(0, width - fixed)
    name = min(34 if wide else 28, max(10, left * 2 // 5))
    name = min(name, left)
    return Columns(
        name=name,
        size=size,
        licence=licence,
        quant=quant,
        file=file,
        bar=max(0, left - name - 1),
        need=need,
        speed=speed,
        lost=lost,
    )


def head_pieces(columns: Columns, order: Order, memory: MachineMemory | None) -> tuple[Piece, ...]:
    """Write the head: the titles, with a sign beside the one that orders."""
    machine = ""
    if memory is not None:
        machine = _("this machine, {size} GiB").format(size=_gib(memory.total_bytes))
    cells = (
        (columns.name, SortKey.NAME, None, False),
        (columns.size, SortKey.SIZE, None, True),
        (columns.licence, SortKey.LICENCE, None, False),
        (columns.quant, SortKey.QUANT, None, False),
        (columns.file, SortKey.FILE, None, True),
        (columns.bar + 1, None, machine, False),
        (columns.need, SortKey.NEED, None, True),
        (columns.speed, SortKey.SPEED, None, True),
        (columns.lost, SortKey.LOST, None, True),
    )
    pieces = [Piece(text="    ", tone=Tone.HEAD)]
    for width, sort, text, right in cells:
        title = f" {text}" if sort is None else _(SORT_LABELS[sort])
        if sort in (SortKey.LICENCE, SortKey.QUANT):
            title = f"  {title}" if sort is SortKey.LICENCE else f" {title}"
        if sort is not None and sort is order.key:
            title = f"{title}{'▲' if order.reverse else '▼'}"
        pieces.append(Piece(text=_fit(title or "", width, right=right), tone=Tone.HEAD, sort=sort))
    return tuple(pieces)


def line_pieces(
    line: ListLine,
    columns: Columns,
    known: KnownSizes,
    memory: MachineMemory | None,
    *,
    marked: bool = False,
    problem: str | None = None,
) -> tuple[Piece, ...]:
    """Write a line of the list, without its cursor. `problem` says why its file has no size."""
    row = line.row
    size = known.sizes.get(row.key) if row is not None else None
    rate = known.rates.get(row.key) if row is not None else None
    pieces = [*_name_cells(line, columns, marked=marked)]
    if row is None:
        rest = columns.quant + columns.file + columns.bar + 1 + columns.need
        rest += columns.speed + columns.lost
        return (*pieces, Piece(text=_fit(_unread(line.group), rest), tone=Tone.QUIET))
    here = "●" if row.installed is not None else " "
    pieces.append(Piece(text=_fit(f" {row.quant}", columns.quant - 1) + here))
    pieces.append(Piece(text=_fit(f"{_gib(row.file_bytes)} G", columns.file, right=True)))
    problem = row.problem or problem
    if problem is not None:
        rest = columns.bar + 1 + columns.need + columns.speed + columns.lost
        return (*pieces, Piece(text=_fit(f"  {single_line(problem)}", rest), tone=Tone.BAD))
    pieces += [Piece(text=" "), *bar_pieces(size, memory, columns.bar)]
    pieces += _verdict_cells(row, size, rate, columns)
    return tuple(pieces)


def _name_cells(line: ListLine, columns: Columns, *, marked: bool) -> Iterator[Piece]:
    group = line.group
    mark = "✓" if marked else " "
    if line.of_group:
        text = line.row.installed.name if line.row and line.row.installed else ""
        yield Piece(text=f" {mark}  ")
        yield Piece(text=_fit(single_line(text), columns.name), tone=Tone.QUIET)
        yield Piece(text=" " * (columns.size + columns.licence))
        return
    many = len(group.rows) > 1 or (not group.rows and group.source is Source.HUB)
    sign = " " if not many else "▾" if line.expanded else "▸"
    yield Piece(text=f" {mark}{sign} ")
    yield Piece(text=_fit(single_line(group.name), columns.name), tone=Tone.NAME)
    yield Piece(text=_fit(parameters_text(group), columns.size, right=True), tone=Tone.QUIET)
    yield Piece(text=_fit(f"  {licence_text(group)}", columns.licence), tone=Tone.QUIET)


def bar_pieces(size: QuantSize | None, memory: MachineMemory | None, width: int) -> Iterator[Piece]:
    """Draw the bar of a size in `width` cells; nothing while the machine is not known."""
    if memory is None or width < _BEYOND + 6:
        yield Piece(text=" " * max(0, width))
        return
    load = None
    if size is not None:
        load = load_memory(size.placement.devices, fits=size.fits)
    cells = bar_cells(memory, load, inside=width - 1 - _BEYOND, beyond=_BEYOND)
    for use, text in runs(cells):
        tone = Tone.PLAIN if use is MemoryUse.NOTHING else Tone(use.value)
        yield Piece(text=text, tone=tone)


def _verdict_cells(
    row: QuantRow, size: QuantSize | None, rate: Estimate | None, columns: Columns
) -> Iterator[Piece]:
    rest = columns.speed + columns.lost
    if size is None:
        yield Piece(text=_fit("…", columns.need, right=True), tone=Tone.QUIET)
        yield Piece(text=" " * rest)
        return
    sign, tone = verdict_sign(size)
    yield Piece(text=_fit(f"{sign} {_gib(size.total_bytes)}", columns.need, right=True), tone=tone)
    if not size.fits:
        lacking = _("{size} too big").format(size=_gib(size.lacking_bytes))
        if cell_len(lacking) >= rest:
            lacking = f"+{_gib(size.lacking_bytes)} G"
        yield Piece(text=_fit(f" {lacking}", rest), tone=Tone.BAD)
        return
    speed = rate_range(rate) if rate is not None else ""
    yield Piece(text=_fit(speed, columns.speed, right=True))
    yield Piece(text=_fit(lost_text(row), columns.lost, right=True), tone=Tone.QUIET)


def verdict_sign(size: QuantSize) -> tuple[str, Tone]:
    """Return the sign of a verdict and its tone."""
    if not size.fits:
        return "○", Tone.BAD
    return ("◐", Tone.PARTLY) if size.partly else ("●", Tone.GOOD)


def verdict_text(size: QuantSize) -> str:
    """Write a verdict in words."""
    if not size.fits:
        return _("too big by {size} GiB").format(size=_gib(size.lacking_bytes))
    return _("fits, a part of it beside the GPU") if size.partly else _("fits")


def _unread(group: ModelGroup) -> str:
    parts = [_("on the Hub")]
    if group.downloads is not None:
        parts.append(_("{count} downloads").format(count=f"{group.downloads:,}"))
    if group.gated:
        parts.append(_("gated"))
    parts.append(_("enter looks at its files"))
    return "  " + " · ".join(parts)


# --- texts ---


def parameters_text(group: ModelGroup) -> str:
    """Write "35.1 B"."""
    if group.parameters is None:
        return ""
    return f"{group.parameters / 1e9:.1f} B" if group.parameters >= 5e7 else "<0.1 B"


def licence_text(group: ModelGroup) -> str:
    """Write a licence as short as it is known by, with a sign for one that has limits."""
    if group.license is None:
        return ""
    short = single_line(group.license).removeprefix("LicenseRef-")
    return f"{short} !" if group.business is False else short


def lost_text(row: QuantRow) -> str:
    """Write what a quant loses; "?" where that is not known."""
    lost = lost_percent(row)
    return "? " if lost is None else loss_text(lost)


def context_text(tokens: int) -> str:
    """Write a context: "8k", "1.5k", "512"."""
    if tokens < 1024:
        return str(tokens)
    thousands = tokens / 1024
    return (
        f"{thousands:.0f}k"
        if thousands >= 10 or thousands == int(thousands)
        else (f"{thousands:.1f}k")
    )


def abilities_text(abilities: Sequence[Ability] | frozenset[Ability]) -> str:
    """Write what a model can do."""
    from localllm.tui.screens.models.groups import ABILITY_LABELS

    return ", ".join(_(ABILITY_LABELS[each]) for each in Ability if each in abilities)


def _gib(size_bytes: int) -> str:
    gib = size_bytes / _GIB
    return f"{gib:.1f}" if gib < 99.95 else f"{gib:.0f}"


def _fit(text: str, width: int, *, right: bool = False) -> str:
    """Cut or fill a text to so many cells, with a mark where it was cut."""
    if width <= 0:
        return ""
    cells = cell_len(text)
    if cells > width:
        return set_cell_size(text, width - 1) + "…"
    space = " " * (width - cells)
    return space + text if right else text + space
