"""The last line: the keys of the day of the screen that is seen. All others are behind f1.

A window over a place has a line of its own, which covers that of the place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget

from localllm.translation import _

GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """One key and what it does; `action` runs on `node`."""

    key: str
    text: str
    action: str
    node: DOMNode | None = None
    enabled: bool = True

    @property
    def width(self) -> int:
        return cell_len(self.key) + 1 + cell_len(self.text)


def fitting(hints: Sequence[Hint], last: Sequence[Hint], width: int) -> tuple[Hint, ...]:
    """Choose the hints that fit into `width` cells: the `last` ones always, if there is room for
    any, and as many of the others as there is room for, from the first on."""
    kept = []
    free = width
    for hint in last:
        if hint.width + GAP <= free:
            free -= hint.width + GAP
            kept.append(hint)
    first = []
    for hint in hints:
        if hint.width + GAP > free:
            break
        free -= hint.width + GAP
        first.append(hint)
    return (*first, *kept)


def shown_bindings(screen: Screen[object]) -> tuple[tuple[Binding, DOMNode, bool], ...]:
    """List the bindings that can be used on a screen now, one for each action, with where they run
    and whether they can be."""
    found: dict[tuple[str, int], tuple[Binding, DOMNode, bool]] = {}
    for active in screen.active_bindings.values():
        place = (active.binding.action, id(active.node))
        found.setdefault(place, (active.binding, active.node, active.enabled))
    return tuple(found.values())


class KeyHints(Widget):
    """The line itself."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"hint--key", "hint--text", "hint--disabled"}

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Hint, ...] = ()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def _bindings_changed(self, _screen: Screen[object]) -> None:
        self.refresh()

    def render(self) -> Content:
        self._shown = fitting(self._hints(), self._last(), self.size.width - 1)
        parts: list[Content | tuple[str, Style]] = [Content(" ")]
        for index, hint in enumerate(self._shown):
            click = Style.from_meta({"hint": index})
            key = "hint--key" if hint.enabled else "hint--disabled"
            text = "hint--text" if hint.enabled else "hint--disabled"
            parts.append((hint.key, self.get_visual_style(key) + click))
            parts.append((f" {hint.text}", self.get_visual_style(text) + click))
            parts.append((" " * GAP, Style.null()))
        return Content.assemble(*parts)

    def _hints(self) -> tuple[Hint, ...]:
        return tuple(
            Hint(
                key=self.app.get_key_display(binding),
                text=_(binding.description),
                action=binding.action,
                node=node,
                enabled=enabled,
            )
            for binding, node, enabled in shown_bindings(self.screen)
            if binding.show and binding.description
        )

    def _last(self) -> tuple[Hint, ...]:
        if self.screen.is_modal:
            return ()
        return (
            Hint(key="f1", text=_("keys"), action="app.keys"),
            Hint(key="^p", text=_("all"), action="app.command_palette"),
        )

    async def on_click(self, event: events.Click) -> None:
        index = event.style.meta.get("hint")
        if isinstance(index, int) and index < len(self._shown):
            hint = self._shown[index]
            await self.app.run_action(hint.action, hint.node)
