"""The list of chats beside the one that is open: seen from 140 columns on."""

import asyncio
from typing import ClassVar, Protocol, cast

from textual import work
from textual.app import ComposeResult
from textual.widgets import Static

from localllm.chat.conversation import Conversation
from localllm.chat.history.history import History
from localllm.chat.history.store import SearchHit
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.widgets.chat.panel import ChatPanel
from localllm.tui.widgets.history.chat_rows import ChatRows

DELAY_S = 0.5
"""What changes in one moment is read once."""


class _Services(Protocol):
    conversations: History


class _App(Protocol):
    """What the list uses of the app."""

    @property
    def services(self) -> _Services: ...


class ChatListPanel(ChatPanel):
    """All chats, those that were used last first; a click opens one."""

    TITLE: ClassVar[str] = N_("Chats")

    def __init__(self) -> None:
        super().__init__()
        self._open_id = ""

    def compose(self) -> ComposeResult:
        yield Static(_("^l finds, names, erases"), classes="chats-hint")
        rows = ChatRows()
        rows.can_focus = False  # tab goes to the messages; ^l opens a window with all keys
        yield rows
        yield Static(classes="chats-kept")

    def conversation_changed(self, conversation: Conversation) -> None:
        self._open_id = conversation.id
        if self.is_on_screen:
            self.read()

    def on_show(self) -> None:
        self.read()

    @work(exclusive=True, group="chat-list", exit_on_error=False)
    async def read(self) -> None:
        """Read the list again, in a moment."""
        await asyncio.sleep(DELAY_S)
        history = cast("_App", self.app).services.conversations
        try:
            summaries = await asyncio.to_thread(history.list)
            size = await asyncio.to_thread(history.size_bytes) if history.is_on_disk else 0
        except LocalLLMError as error:
            self.query_one(".chats-kept", Static).update(literal.line(str(error)))
            return
        rows = self.query_one(ChatRows)
        rows.show(SearchHit(summary=each) for each in summaries)
        rows.move_to(self._open_id)
        count = len(summaries)
        text = ngettext("{count} chat", "{count} chats", count).format(count=count)
        if history.is_on_disk:
            text = _("{chats}, {size} encrypted").format(chats=text, size=format_bytes(size))
        self.query_one(".chats-kept", Static).update(literal.line(text))
