"""What the chat opens beside the conversation or over it: its settings, the tokens of an answer, a
duel, the prompt library, a text of a command."""

from dataclasses import replace

from textual import on, work

from localllm.chat.conversation import ChatMessage, Ending
from localllm.chat.presets import PresetStore
from localllm.chat.settings import ChatSettings
from localllm.engine.messages import Role
from localllm.errors import LocalLLMError
from localllm.translation import _
from localllm.tui.places import CHAT
from localllm.tui.screens.chat.files import ChatFiles
from localllm.tui.screens.chat.session import last_answer
from localllm.tui.screens.chat_settings.subject import subject_of
from localllm.tui.screens.chat_settings.window import (
    ChatSettingsWindow,
    SettingsChanged,
    SettingsColumn,
    SettingsLeft,
)
from localllm.tui.screens.duel.duel import DuelScreen
from localllm.tui.screens.tokens.tokens import TokenBranch, TokensScreen

SETTINGS = "settings"
COLUMN_COLUMNS = 160
"""From this width on the settings are a column; below it a window."""


class ChatWindows(ChatFiles):
    """The keys that open something. A subclass has the panels."""

    def show_panel(self, name: str, *, wanted: bool | None = True) -> None:
        """Show a panel at the right; the subclass does."""

    def hide_settings(self) -> None:
        """Show the usual panel in place of the settings; the subclass does."""

    # --- settings ---

    @work(exclusive=True, group="settings", exit_on_error=False)
    async def action_settings(self) -> None:
        """Open the settings of this chat, or close them."""
        column = self.query_one(SettingsColumn)
        if self.settings_are_seen(column):
            self.hide_settings()
            self.prompt_box.prompt.focus()
            return
        subject = await subject_of(self.runtime, self.resident, self.local_tools)
        settings = self.conversation.settings
        if self.size.width >= COLUMN_COLUMNS:
            self.show_panel(SETTINGS)
            await column.show(settings, subject)
            return
        window = ChatSettingsWindow(settings, subject, PresetStore(), self.keep_settings)
        await self.ask(window)
        self.prompt_box.prompt.focus()

    @staticmethod
    def settings_are_seen(column: SettingsColumn) -> bool:
        """Tell whether the column of the settings is seen."""
        return column.display and column.is_on_screen and bool(column.region)

    @on(SettingsChanged)
    def _settings_changed(self, event: SettingsChanged) -> None:
        event.stop()
        self.keep_settings(event.settings)

    @on(SettingsLeft)
    def _settings_left(self, event: SettingsLeft) -> None:
        event.stop()
        self.prompt_box.prompt.focus()

    def keep_settings(self, settings: ChatSettings) -> None:
        """Use these settings from the next question on, which loads the model again if need be."""
        if settings != self.conversation.settings:
            self.change_conversation(replace(self.conversation, settings=settings))

    async def change_settings(self, settings: ChatSettings) -> None:
        """Use these settings from the next question on. Where they change how the model is loaded,
        it is loaded again; when that fails, the settings stay as they were."""
        before = self.conversation.settings
        self.change_conversation(replace(self.conversation, settings=settings))
        loads = (settings.context, settings.kv_type) != (before.context, before.kv_type)
        if loads and self.resident is not None and not await self.reload():
            kept = replace(settings, context=before.context, kv_type=before.kv_type)
            self.change_conversation(replace(self.conversation, settings=kept))

    # --- tokens ---

    @work(exclusive=True, group="tokens", exit_on_error=False)
    async def action_tokens(self) -> None:
        """Show the tokens of the answer under the cursor, or of the last one; go on from another
        one."""
        answer = self.current
        if answer is None or answer.role is not Role.ASSISTANT:
            answer = last_answer(self.conversation)
        if answer is None or self.model is None or self.answering:
            self.show_status(_("There is no finished answer whose tokens could be shown."))
            return
        branch = await self.ask(TokensScreen(self.conversation, answer, self.model.name))
        if branch is not None and not self.answering:
            self._go_on_from(answer, branch)

    def _go_on_from(self, answer: ChatMessage, branch: TokenBranch) -> None:
        if branch.complete:
            version = ChatMessage(
                role=Role.ASSISTANT,
                text=branch.text,
                created_s=answer.created_s,
                model=answer.model,
                reasoning=answer.reasoning,
                ending=Ending.COMPLETE,
            )
            self.change_conversation(self.conversation.with_message(version, after=answer.parent))
            return
        self.answering = True
        self.prompt_box.prompt.focus()
        self.continue_answer(answer, branch.text)

    # --- duel ---

    def action_duel(self) -> None:
        self.open_duel("")

    @work(exclusive=True, group="duel", exit_on_error=False)
    async def open_duel(self, other: str) -> None:
        """Let the model of this chat and another one answer the same question."""
        if self.answering:
            self.show_status(_("The answer is still coming. Escape stops it."))
            return
        installed = [each.name for each in self.runtime.installed()]
        first = [] if self.model is None else [self.model.name]
        second = [self.runtime.resolve(other).name] if other else []
        names = list(dict.fromkeys((*first, *second, *installed)))
        screen = DuelScreen(names, self.conversation.settings, question=self.prompt_box.text)
        winner = await self.ask(screen)
        if winner is None:
            return
        try:
            model = self.runtime.resolve(winner.model)
        except LocalLLMError as error:
            self.show_status(str(error))
            return
        self.open_with(model, winner.conversation, came_from=CHAT)
