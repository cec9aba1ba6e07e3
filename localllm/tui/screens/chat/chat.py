"""The chat place: a conversation with a model, which stays loaded wherever one goes.

What can be done with the conversation is in `actions.py`, the way of an answer in `answering.py`,
what is open in `session.py`. Others mount here what is theirs:

- a `ChatPanel` at the right: `PANELS`, shown by `show_panel`;
- the list of chats at the left, from LIST_COLUMNS on: `LEFT_PANELS`;
- completions of what is typed: `PromptBox.completers`;
- slash commands: `commands`.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.reactive import reactive
from textual.widgets import Static

from localllm.chat.commands.actions import ChatActions
from localllm.chat.commands.table import parse_line, question_text
from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.history.titles import title_of
from localllm.engine.messages import Role
from localllm.errors import LocalLLMError, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import ResidentModel
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.app_words import app_words
from localllm.tui.places import CHAT
from localllm.tui.screens.chat.commands import ScreenCommands
from localllm.tui.screens.chat.view import ConversationView, TypedInMessages
from localllm.tui.screens.chat.windows import SETTINGS, ChatWindows
from localllm.tui.screens.chat_settings.window import SettingsColumn
from localllm.tui.widgets.chat.attachments import LineClicked, QueuedQuestions
from localllm.tui.widgets.chat.find_bar import FindBar
from localllm.tui.widgets.chat.panel import ChatPanel
from localllm.tui.widgets.history.chat_list import ChatListPanel
from localllm.tui.widgets.history.chat_rows import ChatRows
from localllm.tui.widgets.meter.panel import MeterPanel
from localllm.tui.widgets.meter.title import ChatTitle
from localllm.tui.widgets.prompt import (
    EditLastRequested,
    MessagesRequested,
    PageTurned,
    PromptBox,
    PromptChanged,
    QuestionSent,
)

PANEL_COLUMNS: Final = 100
"""From this width on the panel stands beside the conversation; below it lies over it (f4)."""
LIST_COLUMNS: Final = 140
"""From this width on the list of chats is seen too."""

METER: Final = "meter"
CHATS: Final = "chats"
WATCH_S = 1.0
READINGS_S = 0.9
"""Seconds between two draws of the meter while an answer is written."""

Panels = tuple[tuple[str, Callable[[], ChatPanel]], ...]


class ChatScreen(ChatWindows):
    """A conversation with a model. `conversation` is what is shown; `change_conversation` replaces
    it, `change_settings` its settings."""

    PANELS: ClassVar[Panels] = ((METER, MeterPanel), (SETTINGS, SettingsColumn))
    LEFT_PANELS: ClassVar[Panels] = ((CHATS, ChatListPanel),)

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", N_("Stop"), id="chat.stop",
                tooltip=N_("Stop the answer; its text stays")),
        Binding("ctrl+n", "new", N_("New chat"), id="chat.new",
                tooltip=N_("Begin another conversation; this one is kept")),
        Binding("ctrl+r", "again", N_("Again"), id="chat.again", show=False,
                tooltip=N_("Answer the last question once more, as a version")),
        Binding("ctrl+o", "models", N_("Other models"), id="chat.models",
                tooltip=N_("Choose another model; this one stays in memory")),
        Binding("ctrl+f", "find", N_("Find"), id="chat.find", show=False, priority=True,
                tooltip=N_("Find a text in this conversation")),
        Binding("ctrl+t", "settings", N_("Settings"), id="chat.settings",
                tooltip=N_("System prompt, sampling, tools, context and presets of this chat")),
        Binding("ctrl+g", "documents", N_("Documents"), id="chat.documents", show=False,
                tooltip=N_("Choose folders that questions are answered from; add and index one")),
        Binding("f2", "memory", N_("Memory"), id="chat.memory", show=False,
                tooltip=N_("Estimated and real memory")),
        Binding("f4", "panel", N_("Panel"), id="chat.panel", priority=True,
                tooltip=N_("Show or hide the panel at the right")),
    ]  # fmt: skip

    answering: reactive[bool] = reactive(False, bindings=True)
    place = CHAT

    def __init__(self) -> None:
        super().__init__()
        self.commands: ChatActions | None = None
        self._panel = METER
        self._readings_s = 0.0
        self._panel_wanted: bool | None = None

    def compose_place(self) -> ComposeResult:
        yield ChatTitle()
        yield Static(id="chat-warning")
        with Horizontal(id="chat"):
            with Container(id="chat-left"):
                for name, make in self.LEFT_PANELS:
                    yield _named(make(), name)
            with Vertical(id="chat-middle"):
                yield ConversationView(clock=self.services.clock, id="transcript")
                yield FindBar()
                yield QueuedQuestions()
                yield PromptBox(placeholder=_("Ask something; nothing leaves this machine"))
            with Container(id="chat-right"):
                for name, make in self.PANELS:
                    yield _named(make(), name)

    def on_mount(self) -> None:
        self.set_up()
        self.show_panel(METER, wanted=None)
        commands = ScreenCommands(self)
        self.commands = commands
        self.prompt_box.completers.append(commands.completer())
        self.prompt_box.completers.append(self.complete_reference)
        self.prompt_box.prompt.focus()
        self.set_interval(WATCH_S, self.watch_engine)
        self.ready.set()

    # --- the panels ---

    def on_resize(self, event: events.Resize) -> None:
        self._arrange(event.size.width)

    def _arrange(self, width: int) -> None:
        self.set_class(width >= LIST_COLUMNS and bool(self.LEFT_PANELS), "-with-list")
        beside = width >= PANEL_COLUMNS
        shown = beside if self._panel_wanted is None else self._panel_wanted
        self.set_class(shown and beside, "-with-panel")
        self.set_class(shown and not beside, "-panel-over")
        self._show_title()
        self.show_readings()

    def show_panel(self, name: str, *, wanted: bool | None = True) -> None:
        """Show a panel at the right; `wanted` None: where there is room for it."""
        self._panel, self._panel_wanted = name, wanted
        for panel in self.query("#chat-right > ChatPanel"):
            panel.display = panel.id == f"panel-{name}"
        self._arrange(self.size.width or self.app.size.width)

    def hide_settings(self) -> None:
        """Show the meter again, where there is room for it."""
        self.show_panel(METER, wanted=None)

    def hide_panel(self) -> None:
        """Show no panel at the right."""
        self.show_panel(METER, wanted=False)

    def action_panel(self) -> None:
        if self.has_class("-with-panel") or self.has_class("-panel-over"):
            self.hide_panel()
        else:
            self.show_panel(METER)

    def panel(self, name: str) -> ChatPanel:
        """Return one of the panels."""
        return self.query_one(f"#panel-{name}", ChatPanel)

    # --- what is shown ---

    def _show_title(self) -> None:
        model = self.model
        name = "" if model is None else f"{model.name} {model.quant or ''}".rstrip()
        title = title_of(self.conversation) if self.conversation.messages else ""
        beside = self.has_class("-with-panel") and self._panel == METER
        self.query_one(ChatTitle).show(name or _("no model chosen"), title, numbers=not beside)

    def show_readings(self) -> None:
        readings = self.meter_log.readings()
        self.query_one(ChatTitle).show_readings(readings)
        meter = self.query_one(MeterPanel)
        if meter.display and (self.has_class("-with-panel") or self.has_class("-panel-over")):
            name = None if self.model is None else self.model.name
            bytes_ = None if name is None else self.runtime.memory_bytes(name)
            meter.show(readings, self.resident, bytes_)

    def conversation_shown(self) -> None:
        """Show the conversation everywhere, after it has changed."""
        self.transcript.show(self.conversation)
        if any(each.data for message in self.conversation.path() for each in message.attachments):
            self.load_pictures()
        self.meter_log.shown(self.conversation.path())
        for panel in self.query(ChatPanel):
            panel.conversation_changed(self.conversation)
        self._show_title()
        self.show_readings()
        self.refresh_bindings()

    def resident_shown(self, resident: ResidentModel | None) -> None:
        """Show what is in memory, after it has changed."""
        for panel in self.query(ChatPanel):
            panel.model_changed(resident)
        warnings = "" if resident is None else " ".join(map(app_words, resident.warnings))
        warning = self.query_one("#chat-warning", Static)
        warning.update(literal.line(warnings))
        warning.display = bool(warnings)
        self._show_title()
        self.show_readings()

    def drawn(self) -> None:
        """Follow a draw of the transcript while an answer is written."""
        self.answers.drawn()
        self.watch_load()
        now_s = time.monotonic()
        if now_s - self._readings_s >= READINGS_S:
            self._readings_s = now_s
            self.show_readings()

    def open_model(
        self, model: InstalledModel, conversation: Conversation | None, *, came_from: str
    ) -> None:
        """Chat with this model; when it cannot be loaded, go back to the place `came_from`."""
        self.open_with(model, conversation, came_from=came_from)

    # --- the prompt ---

    @on(QuestionSent)
    def _question_sent(self, event: QuestionSent) -> None:
        event.stop()
        try:
            command = parse_line(event.text) if self.commands is not None else None
        except UsageError as error:
            self.prompt_box.put_back(event.text, event.attachments)
            self.show_status(str(error))
            return
        if command is not None:
            self.prompt_box.put_back("", event.attachments)  # they go with the next question
            self.run_command(event.text)
            return
        self.send(question_text(event.text), event.attachments)

    @work(group="command", exit_on_error=False)
    async def run_command(self, text: str) -> None:
        """Run a slash command; its failure is told, and the line is back in the prompt."""
        command = parse_line(text)
        if command is None or self.commands is None:
            return
        try:
            await self.commands.run(command)
        except LocalLLMError as error:
            self.prompt_box.put_back(text)
            self.show_status(str(error))

    def read_chats(self) -> None:
        """Read the list at the left again: chats were named, erased, kept in another way."""
        for panel in self.query(ChatListPanel):
            panel.conversation_changed(self.conversation)

    @on(ChatRows.Chosen)
    def _chat_chosen(self, event: ChatRows.Chosen) -> None:
        event.stop()
        self.frame.open_kept(event.hit.summary.id)

    @on(PromptChanged)
    def _prompt_changed(self, event: PromptChanged) -> None:
        event.stop()
        self.count_question()
        self.keep_draft_soon()

    @on(MessagesRequested)
    def _messages_requested(self) -> None:
        if self.transcript.entries:
            self.transcript.focus()

    @on(TypedInMessages)
    def _typed_in_messages(self, event: TypedInMessages) -> None:
        self.prompt_box.prompt.focus()
        if event.text:
            self.prompt_box.prompt.insert(event.text)

    @on(EditLastRequested)
    def _edit_last_requested(self) -> None:
        self.edit_last()

    @on(LineClicked)
    def _line_clicked(self, event: LineClicked) -> None:
        if isinstance(event.lines, QueuedQuestions):
            self.unqueue(event.number)
        else:
            self.prompt_box.detach(event.number)

    @on(PageTurned)
    def _page_turned(self, event: PageTurned) -> None:
        height = max(1, self.transcript.size.height - 1)
        self.transcript.scroll_relative(y=-height if event.up else height, animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what cannot be done now."""
        match action:
            case "stop":
                return self.answering or self.session.editing is not None or None
            case "again":
                return (self.question is not None and not self.answering) or None
            case "memory":
                return self.resident is not None or None
        return True

    @property
    def question(self) -> ChatMessage | None:
        """The last question on the branch that is shown."""
        path = self.conversation.path()
        return next((m for m in reversed(path) if m.role is Role.USER), None)


def _named(panel: ChatPanel, name: str) -> ChatPanel:
    panel.id = f"panel-{name}"
    return panel
