"""The history in the app: opened at the start, asked about once, and what the frame says of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from textual.screen import Screen
from textual.widgets import TextArea

from localllm.chat.conversation import Conversation
from localllm.chat.history.history import History, HistoryChoice
from localllm.errors import LocalLLMError
from localllm.translation import _, ngettext
from localllm.tui.frame_state import FrameState
from localllm.tui.places import CHAT
from localllm.tui.screens.base import Frame, PlaceScreen, WorkScreen

if TYPE_CHECKING:
    from textual.app import App

    from localllm.tui.screens.chat.chat import ChatScreen

    GoToChat = Callable[[], ChatScreen]

SUBJECT = "history"


def watch_history(app: "App[None]", history: History, frame: FrameState) -> None:
    """Say in the status line why conversations cannot be kept, and ask how they shall be kept after
    the first answer. To be called in the app's thread."""
    loop = asyncio.get_running_loop()

    def show_problem(problem: str | None) -> None:
        frame.set_activity(SUBJECT, problem or "")

    def ask() -> None:
        screen, focused = app.screen, app.focused
        is_typing = isinstance(focused, TextArea) and focused.text != ""
        if not isinstance(screen, WorkScreen) or screen.is_modal or is_typing:
            history.ask_later()
        else:
            screen.run_worker(_ask(screen), group="history", exit_on_error=False)

    history.on_problem = lambda problem: loop.call_soon_threadsafe(show_problem, problem)
    history.on_first_answer = lambda: loop.call_soon_threadsafe(ask)


async def _ask(screen: WorkScreen[None]) -> None:
    from localllm.tui.screens.chat.chat import ChatScreen
    from localllm.tui.screens.history.keep import ask_how_to_keep

    await ask_how_to_keep(screen)
    if isinstance(screen, ChatScreen):
        screen.read_chats()


def open_chats(app: "App[None]", go_to_chat: "GoToChat") -> None:
    """Open the window with all chats over what is seen, and show what is chosen there."""
    from localllm.tui.screens.chat.chat import ChatScreen
    from localllm.tui.screens.history.chats import ChatsResult, ChatsScreen

    screen = app.screen
    if not isinstance(screen, WorkScreen) or screen.is_modal:
        return
    stack: list[Screen[object]] = []
    with suppress(KeyError):  # nobody was there yet
        stack = app.get_screen_stack(CHAT)
    chat = next((each for each in stack if isinstance(each, ChatScreen)), None)

    def closed(result: ChatsResult | None) -> None:
        if result is None:
            return
        if chat is not None:
            forget(chat, result.erased)
            chat.read_chats()
        if result.conversation is not None:
            show_conversation(app, go_to_chat, result.conversation)
        elif result.is_new:
            screen = go_to_chat()
            if chat is not None:
                screen.action_new()

    screen.open(ChatsScreen("" if chat is None else chat.conversation.id), closed)


def forget(chat: "ChatScreen", erased: frozenset[str]) -> None:
    """Show none of the chats that were erased any more."""
    chat.session.forget(erased)
    if chat.conversation.id in erased:
        chat.run_worker(_begin_new(chat), group="new")


async def _begin_new(chat: "ChatScreen") -> None:
    await chat.action_new().wait()
    chat.show_status(_("The chat is erased."))


def show_conversation(app: "App[None]", go_to_chat: "GoToChat", conversation: Conversation) -> None:
    """Go on with a conversation: with its model, or the one of the chat where it is not installed
    any more."""
    models = {each.name: each for each in cast("Frame", app).services.runtime.installed()}
    before = app.current_mode
    chat = go_to_chat()
    model = models.get(conversation.model) or chat.model
    if model is None and len(models) == 1:
        (model,) = models.values()
    if model is not None:
        chat.open_model(model, conversation, came_from=before)
        if model.name != conversation.model and conversation.model:
            chat.show_status(
                _("{model} is not installed; the next answer comes from {other}.").format(
                    model=conversation.model, other=model.name
                )
            )
    else:
        app.run_worker(_show_without_model(chat, conversation), group="kept", exit_on_error=False)


async def _show_without_model(chat: "ChatScreen", conversation: Conversation) -> None:
    await chat.ready.wait()
    chat.open_conversation(conversation)


async def open_kept(app: "App[None]", go_to_chat: "GoToChat", conversation_id: str) -> None:
    """Go on with a conversation that is kept."""
    try:
        history = cast("Frame", app).services.conversations
        conversation = await asyncio.to_thread(history.open, conversation_id)
    except LocalLLMError as error:
        if isinstance(app.screen, PlaceScreen):
            app.screen.show_status(str(error))
        return
    show_conversation(app, go_to_chat, conversation)


async def open_history(screen: WorkScreen[None], frame: FrameState) -> None:
    """Open what is on the disk, with its passphrase or the system's keyring."""
    history = screen.services.conversations
    if not history.is_locked:
        return
    from localllm.tui.screens.history.keep import unlock

    frame.set_activity(SUBJECT, _("opening the chats …"))
    opened = await unlock(screen)
    frame.set_activity(SUBJECT, "" if opened else _("the chats are locked: ^l, then u"))


def loss_of_typed(app: "App[None]") -> str:
    """Say what was typed in the chat and not sent; "" for nothing."""
    from localllm.tui.screens.chat.chat import ChatScreen

    count = 0
    with suppress(KeyError):  # nobody was there
        chats = (each for each in app.get_screen_stack(CHAT) if isinstance(each, ChatScreen))
        count = sum(chat.session.unsent(chat.draft) for chat in chats)
    if not count:
        return ""
    return ngettext(
        "{count} text that was typed and not sent is gone then.",
        "{count} texts that were typed and not sent are gone then.",
        count,
    ).format(count=count)


def loss(history: History) -> str:
    """Say what is lost of conversations when the app ends; "" for nothing."""
    count = history.count_in_memory()
    if not count or history.choice is HistoryChoice.OFF:
        return ""
    return ngettext(
        "{count} chat is in memory only and is gone then.",
        "{count} chats are in memory only and are gone then.",
        count,
    ).format(count=count)
