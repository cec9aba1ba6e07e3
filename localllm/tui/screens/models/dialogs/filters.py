"""The filters of the list, in a window beside it: every change is seen at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Final, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from localllm.translation import N_, _
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.models.filtering import (
    FIT_LABELS,
    LICENSE_LABELS,
    SORT_LABELS,
    SOURCE_LABELS,
    FitFilter,
    LicenseFilter,
    ModelFilter,
    Order,
    SortKey,
    SourceFilter,
)
from localllm.tui.screens.models.groups import ABILITY_LABELS, Ability

T = TypeVar("T")

_GIB = 2**30
SIZES: Final = (None, 2 * _GIB, 4 * _GIB, 8 * _GIB, 16 * _GIB, 32 * _GIB, 64 * _GIB)

Shown = Callable[[ModelFilter, Order], None]


def size_text(max_bytes: int | None) -> str:
    """Write the largest size of a file that is listed."""
    if max_bytes is None:
        return _("any size")
    return _("file < {size} GiB").format(size=max_bytes // _GIB)


def filter_texts(chosen: ModelFilter) -> tuple[str, ...]:
    """Write what narrows the list, one text for each filter."""
    texts = []
    if chosen.fit is not FitFilter.ALL:
        texts.append(_(FIT_LABELS[chosen.fit]))
    texts += [_(ABILITY_LABELS[each]) for each in Ability if each in chosen.abilities]
    if chosen.license is not LicenseFilter.ANY:
        texts.append(_(LICENSE_LABELS[chosen.license]))
    if chosen.max_bytes is not None:
        texts.append(size_text(chosen.max_bytes))
    if chosen.source is not SourceFilter.ALL:
        texts.append(_(SOURCE_LABELS[chosen.source]))
    return tuple(texts)


class FilterScreen(WorkScreen[None], ModalScreen[None]):
    """Change the filters and the order; `shown` is called with each change."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f,enter", "close", N_("Close"), id="filters.close"),
        Binding("up,k", "move(-1)", N_("Up"), show=False, id="filters.up"),
        Binding("down,j", "move(1)", N_("Down"), show=False, id="filters.down"),
        Binding("left", "change(-1)", N_("Change"), show=False, id="filters.left"),
        Binding("right,space", "change(1)", N_("Change"), id="filters.right"),
        Binding("backspace,delete", "clear", N_("All models"), id="filters.clear"),
    ]

    def __init__(self, chosen: ModelFilter, order: Order, shown: Shown) -> None:
        super().__init__()
        self._chosen, self._order, self._shown = chosen, order, shown
        self._cursor = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(Content(_("Filters and order")), id="dialog-title")
            yield Static(Content(), id="filter-rows")

    def on_mount(self) -> None:
        self._draw()

    def _rows(self) -> list[tuple[str, str]]:
        chosen, order = self._chosen, self._order
        return [
            (_("memory"), _(FIT_LABELS[chosen.fit])),
            *((_("can") if each is Ability.CHATS else "", self._ability(each)) for each in Ability),
            (_("licence"), _(LICENSE_LABELS[chosen.license])),
            (_("size"), size_text(chosen.max_bytes)),
            (_("where"), _(SOURCE_LABELS[chosen.source])),
            (_("order"), _(SORT_LABELS[order.key])),
            ("", _("backwards") if order.reverse else _("forwards")),
        ]

    def _ability(self, ability: Ability) -> str:
        mark = "✓" if ability in self._chosen.abilities else "·"
        text = f"{mark} {_(ABILITY_LABELS[ability])}"
        if ability is Ability.TOOLS:
            text += "  " + _("(known of what is here, and of repositories that were opened)")
        return text

    def _draw(self) -> None:
        lines = [
            f"{'▌' if number == self._cursor else ' '} {name:<10} {value}"
            for number, (name, value) in enumerate(self._rows())
        ]
        self.query_one("#filter-rows", Static).update(Content("\n".join(lines)))

    def action_move(self, by: int) -> None:
        self._cursor = (self._cursor + by) % len(self._rows())
        self._draw()

    def action_change(self, by: int) -> None:
        chosen, number, abilities = self._chosen, self._cursor, tuple(Ability)
        last = len(abilities)
        if number == 0:
            chosen = replace(chosen, fit=_next(tuple(FitFilter), chosen.fit, by))
        elif number <= last:
            chosen = replace(chosen, abilities=chosen.abilities ^ {abilities[number - 1]})
        elif number == last + 1:
            chosen = replace(chosen, license=_next(tuple(LicenseFilter), chosen.license, by))
        elif number == last + 2:
            chosen = replace(chosen, max_bytes=_next(SIZES, chosen.max_bytes, by))
        elif number == last + 3:
            chosen = replace(chosen, source=_next(tuple(SourceFilter), chosen.source, by))
        elif number == last + 4:
            self._order = Order(key=_next(tuple(SortKey), self._order.key, by))
        else:
            self._order = replace(self._order, reverse=not self._order.reverse)
        self._chosen = chosen
        self._changed()

    def action_clear(self) -> None:
        self._chosen, self._order = ModelFilter(text=self._chosen.text), Order()
        self._changed()

    def _changed(self) -> None:
        self._draw()
        self._shown(self._chosen, self._order)

    def on_click(self, event: events.Click) -> None:
        rows = self.query_one("#filter-rows", Static)
        if rows.region.contains(event.screen_x, event.screen_y):
            number = event.screen_y - rows.content_region.y
            if 0 <= number < len(self._rows()):
                self._cursor = number
                self.action_change(1)

    def action_close(self) -> None:
        self.leave(None)


def _next(values: tuple[T, ...], current: T, by: int) -> T:
    return values[(values.index(current) + by) % len(values)]
