"""The history in the app: opened at the start, asked about once, and what the frame says of it."""

import asyncio
from typing import TYPE_CHECKING

from textual.widgets import TextArea

from localllm.chat.history.history import History, HistoryChoice
from localllm.translation import _, ngettext
from localllm.tui.frame_state import FrameState
from localllm.tui.screens.base import WorkScreen

if TYPE_CHECKING:
    from textual.app import App

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
    from localllm.tui.screens.history.keep import ask_how_to_keep

    await ask_how_to_keep(screen)


async def open_history(screen: WorkScreen[None], frame: FrameState) -> None:
    """Open what is on the disk, with its passphrase or the system's keyring."""
    history = screen.services.conversations
    if not history.is_locked:
        return
    from localllm.tui.screens.history.keep import unlock

    frame.set_activity(SUBJECT, _("opening the chats …"))
    opened = await unlock(screen)
    frame.set_activity(SUBJECT, "" if opened else _("the chats are locked: ^l, then u"))


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
