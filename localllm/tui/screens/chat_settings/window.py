"""The settings of a chat in a window, and as a column where there is room for one."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen

from localllm.chat.conversation import Conversation
from localllm.chat.presets import PresetStore
from localllm.chat.settings import ChatSettings
from localllm.translation import N_, _
from localllm.tui.screens.chat_settings.panel import ChatSettingsPanel
from localllm.tui.screens.chat_settings.row_states import SettingsSubject
from localllm.tui.widgets.chat.panel import ChatPanel


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

    def on_mount(self) -> None:
        self._panel.focus_row()

    def action_close(self) -> None:
        self.dismiss(None)


class SettingsChanged(Message):
    """The person has changed the settings of the chat."""

    def __init__(self, settings: ChatSettings) -> None:
        super().__init__()
        self.settings = settings


class SettingsLeft(Message):
    """The person wants to go back to the prompt; the column stays."""


class SettingsColumn(ChatPanel):
    """The column. Posts SettingsChanged and SettingsLeft."""

    TITLE = N_("Settings of this chat")
    DEFAULT_CSS = """
    SettingsColumn { height: 1fr; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape",
            "leave",
            N_("prompt"),
            id="settings.leave",
            tooltip=N_("Go back to the prompt; the settings stay in sight"),
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._panel = ChatSettingsPanel(
            ChatSettings(),
            SettingsSubject(),
            PresetStore(),
            self._changed,
        )

    async def show(self, settings: ChatSettings, subject: SettingsSubject) -> None:
        """Show these settings of this model, and take the focus. The rows are made when they are
        wanted first."""
        if not self._panel.is_attached:
            await self.mount(self._panel)
        self._panel.show(settings, subject)
        self._panel.focus_row()

    def conversation_changed(self, conversation: Conversation) -> None:
        shown = self.display and self._panel.is_attached
        if shown and conversation.settings != self._panel.settings:
            self._panel.show(conversation.settings)

    def _changed(self, settings: ChatSettings) -> None:
        self.post_message(SettingsChanged(settings))

    def action_leave(self) -> None:
        self.post_message(SettingsLeft())
