"""A window with a list to choose from: presets, prompts, models. Keys act on the row under the
cursor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from localllm.translation import N_
from localllm.tui import literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the list: outside text. `id` is what is chosen."""

    id: str
    name: str
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What was chosen, and with which key: "enter" or one of the window's own."""

    id: str
    key: str = "enter"


class ChoiceWindow(ModalScreen[Chosen | None]):
    """Choose a row. `keys` maps further keys to what they do, in words."""

    DEFAULT_CSS = """
    ChoiceWindow { align: center middle; }
    ChoiceWindow OptionList { height: auto; max-height: 60vh; background: transparent;
        border: none; padding: 0; }
    ChoiceWindow OptionList:focus { border: none; }
    ChoiceWindow #choice-keys { height: auto; color: $text-muted; margin-top: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", N_("Close"), id="choice.close", tooltip=N_("Choose nothing")),
        Binding("j", "move(1)", N_("Down"), id="choice.down", show=False),
        Binding("k", "move(-1)", N_("Up"), id="choice.up", show=False),
    ]

    def __init__(
        self,
        title: str,
        rows: Sequence[Row],
        *,
        keys: Mapping[str, str],
        enter: str,
        selected: str = "",
    ) -> None:
        super().__init__()
        self._title = title
        self._rows = tuple(rows)
        self._keys = dict(keys)
        self._enter = enter
        self._selected = selected

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(literal.line(self._title), id="dialog-title")
            yield OptionList(*(Option(self._row(each)) for each in self._rows))
            keys = [f"⏎ {self._enter}", *(f"{key} {text}" for key, text in self._keys.items())]
            yield Static(Content("   ".join((*keys, "esc"))), id="choice-keys")

    def _row(self, row: Row, *, is_current: bool = False) -> Content:
        width = min(max(len(each.name) for each in self._rows), 40)
        mark = "▌ " if is_current else "  "  # a sign, where there are no colours
        name = literal.line(f"{row.name:<{width}}")
        return Content.assemble(mark, name, "  ", literal.line(row.remark).stylize("dim"))

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        for at, row in enumerate(self._rows):
            is_current = at == event.option_index
            event.option_list.replace_option_prompt_at_index(
                at, self._row(row, is_current=is_current)
            )

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        ids = [each.id for each in self._rows]
        options.highlighted = ids.index(self._selected) if self._selected in ids else 0
        options.focus()

    @on(OptionList.OptionSelected)
    def _option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(Chosen(id=self._rows[event.option_index].id))

    def on_key(self, event: events.Key) -> None:
        key = event.character or event.key
        at = self.query_one(OptionList).highlighted
        if key in self._keys and at is not None and self._rows:
            self.dismiss(Chosen(id=self._rows[at].id, key=key))

    def action_move(self, rows: int) -> None:
        options = self.query_one(OptionList)
        if rows > 0:
            options.action_cursor_down()
        else:
            options.action_cursor_up()

    def action_cancel(self) -> None:
        self.dismiss(None)
