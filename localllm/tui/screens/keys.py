"""The keys of one screen, all of them, with what they do."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from localllm.translation import N_, _
from localllm.tui.widgets.key_hints import shown_bindings

_KEY_WIDTH = 14
_TEXT_WIDTH = 46


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHelp:
    """One action: its keys, its name, and a sentence."""

    keys: str
    name: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenKeys:
    """The keys of a screen: its own, those that work everywhere, and those of a text that is
    written."""

    own: tuple[KeyHelp, ...]
    everywhere: tuple[KeyHelp, ...]
    editing: tuple[KeyHelp, ...]


def keys_of(screen: Screen[object]) -> ScreenKeys:
    """Collect the keys that can be used on a screen now."""
    own, everywhere, editing = [], [], []
    keys_by_action: dict[str, list[str]] = {}
    for active in screen.active_bindings.values():
        keys = keys_by_action.setdefault(active.binding.action, [])
        keys.append(screen.app.get_key_display(active.binding))
    for binding, _node, _enabled in shown_bindings(screen):
        entry = KeyHelp(
            keys=" ".join(dict.fromkeys(keys_by_action[binding.action])),
            name=_(binding.description),
            help=_(binding.tooltip),
        )
        if binding.id is None:
            editing.append(entry)
        elif binding.id.startswith("app."):
            everywhere.append(entry)
        else:
            own.append(entry)
    named = tuple(each for each in editing if each.name)
    return ScreenKeys(own=tuple(own), everywhere=tuple(everywhere), editing=named)


class KeysScreen(ModalScreen[None]):
    """A window with the keys; any of its own closes it or unfolds those of the text."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape,f1,question_mark,q",
            "close",
            N_("Close"),
            id="keys.close",
            tooltip=N_("Close the window"),
        ),
        Binding(
            "e",
            "editing",
            N_("Keys for editing a text"),
            id="keys.editing",
            tooltip=N_("Unfold the keys that move and change text, or fold them"),
        ),
    ]

    def __init__(self, keys: ScreenKeys) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"), VerticalScroll(id="keys"):
            yield from _group(_("Keys of this screen"), self._keys.own)
            yield from _group(_("Everywhere"), self._keys.everywhere)
            with Vertical(id="keys-editing"):
                yield from _group(_("In a text that you write"), self._keys.editing)

    def on_mount(self) -> None:
        self.query_one("#keys-editing").display = False
        self.query_one("#keys").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave out what this screen has not."""
        return action != "editing" or bool(self._keys.editing)

    def action_editing(self) -> None:
        editing = self.query_one("#keys-editing")
        editing.display = not editing.display
        if editing.display:
            self.call_after_refresh(editing.scroll_visible, top=True, animate=False)

    def action_close(self) -> None:
        if self.is_current:  # not for a second key while the window closes
            self.dismiss(None)


def _group(title: str, entries: Iterable[KeyHelp]) -> Iterator[Static]:
    rows = [Content(title).stylize("bold"), *map(_row, entries)]
    if len(rows) > 1:
        yield Static(Content("\n").join(rows), classes="keys-group")


def _row(entry: KeyHelp) -> Content:
    indent = " " * (_KEY_WIDTH + 2)
    text = f"{entry.name} · {entry.help}" if entry.help else entry.name
    first, *more = textwrap.wrap(text, _TEXT_WIDTH) or [""]
    return Content.assemble(
        (f"  {entry.keys:<{_KEY_WIDTH}}", "$primary"),
        "\n".join((first, *(indent + line for line in more))),
    )
