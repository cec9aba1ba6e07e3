"""The first line of every place: what this is, the other places, and the truth about the network.

`header_pieces` decides what fits into a width; the widget draws it. The truth is never left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from textual import events
from textual.content import Content
from textual.style import Style
from textual.widget import Widget

from localllm.translation import _
from localllm.tui.frame_state import FrameState
from localllm.tui.places import HOME, PLACES, Place

_BRAND = "◆ localllm"
_SHORT_BRAND = "◆"


class Role(StrEnum):
    """The kind of a piece; the value is its style class."""

    BRAND = "header--brand"
    PLACE = "header--place"
    CURRENT = "header--current"
    TRUTH = "header--truth"
    GAP = "header--gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of the line; a click on one with a `place` goes there."""

    text: str
    role: Role
    place: str = ""


def header_pieces(
    width: int,
    *,
    current: str,
    truths: Sequence[str],
    places: Sequence[Place] = PLACES,
) -> tuple[Piece, ...]:
    """Lay the line out in `width` cells. `truths` are the ways to write the truth, longest
    first."""
    others = [place for place in places if place.id != HOME]
    worded = truths[1:-1] or truths[:1]  # shorter, but more than a sign
    for brand, shown, written in (
        (_BRAND, places, truths[:1]),
        (_BRAND, places, worded),
        (_BRAND, others, worded),
        (_BRAND, others, truths),
        (_BRAND, (), truths),
        (_SHORT_BRAND, (), truths),
    ):
        for truth in written:
            left = [Piece(text=f" {brand}", role=Role.BRAND, place=HOME)]
            middle = tuple(_places(shown, current))
            used = _width(left) + _width(middle) + cell_len(truth) + 2
            if used <= width:
                return _line(width, left, middle, truth)
    truth = truths[-1]
    if (gap := width - cell_len(truth) - 1) < 0:
        return (Piece(text=set_cell_size(truth, max(width, 0)), role=Role.TRUTH),)
    return _line(width, [Piece(text=" " * min(gap, 1), role=Role.GAP)], (), truth)


def _line(
    width: int, left: list[Piece], middle: tuple[Piece, ...], truth: str
) -> tuple[Piece, ...]:
    right = [*middle, Piece(text=f" {truth} " if middle else f"{truth} ", role=Role.TRUTH)]
    gap = max(0, width - _width(left) - _width(right))
    return (*left, Piece(text=" " * gap, role=Role.GAP), *right)


def _places(places: Sequence[Place], current: str) -> Iterator[Piece]:
    """Write the places with a space on both sides, or with bars beside the current one."""
    for place in places:
        name = f"{place.key} {_(place.name)}"
        here = place.id == current
        text = f"▌{name}▐" if here else f" {name} "
        yield Piece(text=text, role=Role.CURRENT if here else Role.PLACE, place=place.id)


def _width(pieces: Sequence[Piece]) -> int:
    return sum(cell_len(piece.text) for piece in pieces)


class PlaceHeader(Widget):
    """The line itself."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {role.value for role in Role}

    def __init__(self, place: str, state: FrameState) -> None:
        super().__init__()
        self._place = place
        self._state = state

    def on_mount(self) -> None:
        self._state.subscribe(self.refresh)

    def on_unmount(self) -> None:
        self._state.unsubscribe(self.refresh)

    def render(self) -> Content:
        pieces = header_pieces(
            self.size.width,
            current=self._place,
            truths=self._state.truth.texts(),
        )
        return Content.assemble(*((piece.text, self._style(piece)) for piece in pieces))

    async def on_click(self, event: events.Click) -> None:
        if isinstance(place := event.style.meta.get("place"), str):
            await self.app.run_action(f"app.go_to('{place}')")

    def _style(self, piece: Piece) -> Style:
        style = self.get_visual_style(piece.role)
        if piece.place:
            style += Style.from_meta({"place": piece.place})
        return style
