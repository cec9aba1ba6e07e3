"""The settings of a chat in a window, where there is no room for a column."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from localllm.chat.presets import PresetStore
from localllm.chat.settings import ChatSettings
from localllm.translation import N_, _
from localllm.tui.screens.chat_settings.panel import ChatSettingsPanel
from localllm.tui.screens.chat_settings.row_states import SettingsSubject
from localllm.tui.widgets.key_hints import KeyHints


class ChatSettingsWindow(ModalScreen[None]):
    """The panel in a window. `on_change` gets every change at once."""

    DEFAULT_CSS = """
    ChatSettingsWindow { align: center middle; }
    ChatSettingsWindow #settings-window { width: 78; max-width: 100%; height: 36;
        max-height: 100%; padding: 0 1; background: $surface; border: round $foreground 25%;
        border-title-color: $primary; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape,ctrl+t",
            "close",
            N_("close"),
            id="settings.close",
            tooltip=N_("Go back to the chat"),
        ),
    ]

    def __init__(
        self,
        settings: ChatSettings,
        subject: SettingsSubject,
        presets: PresetStore,
        on_change: Callable[[ChatSettings], None],
    ) -> None:
        super().__init__()
        self._panel = ChatSettingsPanel(settings, subject, presets, on_change)

    def compose(self) -> ComposeResult:
        with Vertical(id="settings-window") as window:
            window.border_title = _("Settings of this chat")
            yield self._panel
            yield KeyHints()

    def on_mount(self) -> None:
        self._panel.focus_row()

    def action_close(self) -> None:
        self.dismiss(None)
