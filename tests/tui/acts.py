"""What a person does in the app and waits for: every test of the screens is told in these."""

import asyncio
from collections.abc import Callable

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget

from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.widgets.prompt import Prompt
from localllm.tui.widgets.transcript import TurnView
from tests.tui.made_up import Stage

BUG = "This is a bug in localllm"

# --- waiting ---


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Let the app go on until something holds; a minute is a failure, and so is a bug's dialog."""
    try:
        async with asyncio.timeout(60):
            while not holds():
                assert BUG not in shown(pilot.app), shown(pilot.app)
                await pilot.pause()
    except TimeoutError:
        pytest.fail(f"waited for a minute in front of:\n{shown(pilot.app)}")


async def sees(pilot: Pilot[None], text: str) -> None:
    """Wait until this text is on the screen, on one line."""
    await until(pilot, lambda: text in shown(pilot.app))


async def reaches(pilot: Pilot[None], kind: type[Widget]) -> None:
    """Wait until a screen of this kind is on top."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))


async def holds(pilot: Pilot[None], selector: str) -> None:
    """Wait until the screen on top has a widget like this."""
    await until(pilot, lambda: bool(pilot.app.screen.query(selector)))


async def weighs(pilot: Pilot[None]) -> None:
    """Wait until the home screen says that a model fits."""
    await sees(pilot, "● fits")


# --- looking ---


def shown(app: App[None]) -> str:
    """The text on the screen, line by line, as a person reads it."""
    screen = app.screen
    return "\n".join(
        "".join(segment.text for segment in strip) for strip in screen._compositor.render_strips()
    )


def chat(app: App[None]) -> ChatScreen:
    """The chat screen, wherever it is in the stack."""
    return next(screen for screen in app.screen_stack if isinstance(screen, ChatScreen))


def wrote(screen: ChatScreen, token: str) -> bool:
    """Whether an answer on the screen ends with this token."""
    return any(view.answer.endswith(token) for view in screen.query(TurnView))


# --- doing ---


async def open_chat(pilot: Pilot[None]) -> None:
    """From the home screen to the chat with the model under the cursor."""
    await holds(pilot, "ModelRow.-fits")
    await pilot.press("enter")
    await reaches(pilot, ChatScreen)
    await until(pilot, lambda: isinstance(pilot.app.focused, Prompt))


async def ask(pilot: Pilot[None], question: str) -> None:
    """Put a question into the prompt and send it with enter."""
    pilot.app.screen.query_one(Prompt).insert(question)
    await pilot.press("enter")


async def ask_and_hear(pilot: Pilot[None], question: str) -> None:
    """Ask, and wait until the turn is kept."""
    screen = chat(pilot.app)
    turns = len(screen.conversation.turns)
    await ask(pilot, question)
    await until(pilot, lambda: len(screen.conversation.turns) == turns + 1)
    await until(pilot, lambda: not screen.answering)


async def begin_answer(stage: Stage, pilot: Pilot[None], question: str) -> asyncio.Semaphore:
    """Open the chat and ask; the answer stops after its first token, "Hello". Each release of the
    result lets the engine write one more."""
    gate = stage.script.gate = asyncio.Semaphore(0)
    await open_chat(pilot)
    await ask(pilot, question)
    gate.release()
    await sees(pilot, "Hello")
    return gate


async def ask_until_it_crashes(stage: Stage, pilot: Pilot[None], *, after: int) -> None:
    """Open the chat and ask; the engine dies after so many tokens, and the app says so."""
    stage.script.crash_after = after
    await open_chat(pilot)
    await ask(pilot, "hi")
    await reaches(pilot, Dialog)
