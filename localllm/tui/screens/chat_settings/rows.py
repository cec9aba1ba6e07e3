"""One line of the settings: a name, a value, a bar where there is a range. It changes nothing by
itself; it posts what the person wants."""

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from localllm.core.text import single_line
from localllm.translation import N_, _
from localllm.tui import literal

LABEL_WIDTH = 15
VALUE_WIDTH = 12
_NUMBER_CHARS = frozenset("0123456789.,-")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowState:
    """What a row shows. `fraction` is where the mark stands on its bar, None for no bar; `changed`:
    it differs from the preset; `more` are further lines under it."""

    value: str
    fraction: float | None = None
    changed: bool = False
    remark: str = ""
    more: str = ""


class SettingRow(Widget, can_focus=True):
    """A setting called `setting`. `typed`: digits typed on it begin to change it; `window`: it is
    changed in a window that enter opens."""

    DEFAULT_CSS = """
    SettingRow { height: auto; width: 1fr; }
    SettingRow:focus { background: $panel; }
    SettingRow > .row--quiet { color: $text-muted; }
    SettingRow > .row--mark { color: $primary; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"row--quiet", "row--mark"}

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "right",
            "step(True)",
            N_("change"),
            id="setting.more",
            key_display="← →",
            tooltip=N_("Move the value up; the left arrow moves it down"),
        ),
        Binding("left", "step(False)", N_("Less"), id="setting.less", show=False),
        Binding(
            "enter",
            "open",
            N_("write"),
            id="setting.write",
            tooltip=N_("Type the value, or open its window"),
        ),
        Binding(
            "backspace,delete",
            "reset",
            N_("default"),
            id="setting.default",
            tooltip=N_("Use the value that nobody has to set"),
        ),
    ]

    state: reactive[RowState] = reactive(RowState(value=""))
    editing: reactive[str | None] = reactive(None, layout=True)

    class Stepped(Message):
        """An arrow key was pressed: one step up or down."""

        def __init__(self, setting: str, *, up: bool) -> None:
            super().__init__()
            self.setting = setting
            self.up = up

    class Edited(Message):
        """A value was typed."""

        def __init__(self, row: "SettingRow", text: str) -> None:
            super().__init__()
            self.row = row
            self.setting = row.setting
            self.text = text

    class Opened(Message):
        """The window of the setting is wanted."""

        def __init__(self, setting: str) -> None:
            super().__init__()
            self.setting = setting

    class Reset(Message):
        """The default is wanted."""

        def __init__(self, setting: str) -> None:
            super().__init__()
            self.setting = setting

    def __init__(self, setting: str, label: str, *, typed: bool = False, window: bool = False):
        super().__init__(id=f"setting-{setting.replace('_', '-')}")
        self.setting = setting
        self.label = label
        self._typed = typed
        self._window = window

    def watch_state(self, old: RowState, new: RowState) -> None:
        if old.more != new.more:
            self.refresh(layout=True)
            if self.has_focus:
                self.call_after_refresh(self.scroll_visible, animate=False)

    def render(self) -> Content:
        width = max(self.content_size.width, 1)
        quiet = self.get_visual_style("row--quiet")
        mark = self.get_visual_style("row--mark")
        label = literal.line(_(self.label)).truncate(LABEL_WIDTH).stylize(quiet)
        head = Content.assemble(
            ("▌", mark) if self.has_focus else " ",
            label.pad_right(LABEL_WIDTH - label.cell_length),
            ("*", mark) if self.state.changed else " ",
        )
        if self.editing is not None:
            field = Content.assemble(head, (single_line(self.editing) or " ", "bold"), "▏")
            return field.truncate(width)
        line = Content.assemble(head, literal.line(self.state.value))
        if self.state.fraction is not None:
            room = width - LABEL_WIDTH - 2 - VALUE_WIDTH
            if room >= 8:
                line = line.pad_right(max(LABEL_WIDTH + 2 + VALUE_WIDTH - line.cell_length, 1))
                bar = _bar(self.state.fraction, min(room - 1, 26))
                line = Content.assemble(line, (bar, mark))
        if self.state.remark:
            remark = literal.line(self.state.remark).stylize(quiet)
            line = Content.assemble(line, "  ", remark)
        line = line.truncate(width, ellipsis=True)
        if not self.state.more:
            return line
        more = [
            Content.assemble("  ", literal.line(each)).truncate(width, ellipsis=True)
            for each in self.state.more.splitlines()
        ]
        return Content("\n").join([line, *(each.stylize(quiet) for each in more)])

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.editing = None
        self.refresh()

    def on_click(self) -> None:
        if self._window:
            self.action_open()

    def on_key(self, event: events.Key) -> None:
        if self.editing is None:
            if self._typed and event.character is not None and event.character in _NUMBER_CHARS:
                self.editing = event.character
                event.stop()
                event.prevent_default()
            return
        event.stop()
        event.prevent_default()
        match event.key:
            case "enter":
                self.post_message(self.Edited(self, self.editing))
            case "escape":
                self.editing = None
            case "backspace":
                self.editing = self.editing[:-1]
            case "ctrl+u":
                self.editing = ""
            case _ if event.is_printable and event.character is not None:
                self.editing += event.character

    def on_paste(self, event: events.Paste) -> None:
        if self.editing is not None or self._typed:
            self.editing = (self.editing or "") + single_line(event.text)[:200]
            event.stop()

    def action_step(self, up: bool) -> None:
        self.post_message(self.Stepped(self.setting, up=up))

    def action_open(self) -> None:
        if self._window:
            self.post_message(self.Opened(self.setting))
        else:
            self.editing = "" if self._typed else self.state.value

    def action_reset(self) -> None:
        self.post_message(self.Reset(self.setting))


def _bar(fraction: float, width: int) -> str:
    """Draw where a value stands: ├──●──────┤, in `width` cells."""
    inside = max(width - 2, 1)
    at = min(int(fraction * inside), inside - 1)
    return f"├{'─' * at}●{'─' * (inside - at - 1)}┤"
