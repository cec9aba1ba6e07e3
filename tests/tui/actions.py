"""The actions of a person in the app, and what they wait for, for the tests of all screens."""

import asyncio
from collections.abc import Callable

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget

from localllm.engine.messages import Role
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.widgets.prompt import Prompt
from tests.tui.fixtures import AppFixture

BUG = "This is a bug in localllm"

# --- waiting ---


async def wait_until(pilot: Pilot[None], wait_for_widget: Callable[[], bool]) -> None:
    """Let the app go on until something holds; a minute is a failure, and so is a bug's dialog."""
    try:
        async with asyncio.timeout(60):
            while not wait_for_widget():
                if isinstance(pilot.app.screen, Dialog):  # to draw any screen so often takes long
                    assert BUG not in screen_text(pilot.app), screen_text(pilot.app)
                await pilot.pause()
    except TimeoutError:
        pytest.fail(f"waited for a minute in front of:\n{screen_text(pilot.app)}")


async def wait_for_text(pilot: Pilot[None], text: str) -> None:
    """Wait until this text is on the screen, on one line."""
    await wait_until(pilot, lambda: text in screen_text(pilot.app))


async def wait_for_screen(pilot: Pilot[None], kind: type[Widget]) -> None:
    """Wait until a screen of this kind is on top, with its widgets."""

    def is_on_top() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, kind) and screen.is_mounted

    await wait_until(pilot, is_on_top)


async def wait_for_widget(pilot: Pilot[None], selector: str) -> None:
    """Wait until the screen on top has a widget like this."""
    await wait_until(pilot, lambda: bool(pilot.app.screen.query(selector)))


async def wait_for_fit(pilot: Pilot[None]) -> None:
    """Wait until the home screen says that a model fits."""
    await wait_for_text(pilot, "● fits")


# --- looking ---


def screen_text(app: App[None]) -> str:
    """The text on the screen, line by line, as a person reads it."""
    screen = app.screen
    return "\n".join(
        "".join(segment.text for segment in strip) for strip in screen._compositor.render_strips()
    )


def chat_screen(app: App[None]) -> ChatScreen:
    """The chat screen, wherever it is in the stack."""
    return next(screen for screen in app.screen_stack if isinstance(screen, ChatScreen))


def model_is_listed(app: App[None]) -> bool:
    """Tell whether there is a model that can be chatted with."""
    return bool(app.screen.query("ModelRow.-fits, ModelRow.-loaded"))


def answer_text(screen: ChatScreen) -> str:
    """The last answer as the model wrote it, also while it is being written."""
    growing = screen.answers.growing
    path = (screen.conversation if growing is None else growing()).path()
    return path[-1].text if path and path[-1].role is Role.ASSISTANT else ""


def answer_ends_with(screen: ChatScreen, token: str) -> bool:
    """Look for an answer that ends with this token."""
    return answer_text(screen).endswith(token)


# --- doing ---


async def open_chat(pilot: Pilot[None]) -> None:
    """From the home screen to the chat with the model under the cursor."""
    await wait_until(pilot, lambda: model_is_listed(pilot.app))
    await pilot.press("enter")
    await wait_for_screen(pilot, ChatScreen)
    await wait_until(pilot, lambda: isinstance(pilot.app.focused, Prompt))


async def send_question(pilot: Pilot[None], question: str) -> None:
    """Put a question into the prompt and send it with enter."""
    pilot.app.screen.query_one(Prompt).insert(question)
    await pilot.press("enter")


async def send_and_wait(pilot: Pilot[None], question: str) -> None:
    """Ask, and wait until the turn is kept."""
    screen = chat_screen(pilot.app)
    messages = len(screen.conversation.path())
    await send_question(pilot, question)
    await wait_until(pilot, lambda: len(screen.conversation.path()) >= messages + 2)
    await wait_until(pilot, lambda: not screen.answering)


async def begin_answer(
    app_fixture: AppFixture, pilot: Pilot[None], question: str
) -> asyncio.Semaphore:
    """Open the chat and ask; the answer stops after its first token, "Hello". Each release of the
    result lets the engine write one more."""
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    await open_chat(pilot)
    await send_question(pilot, question)
    gate.release()
    await wait_for_text(pilot, "Hello")
    return gate


async def send_and_crash(app_fixture: AppFixture, pilot: Pilot[None], *, after: int) -> None:
    """Open the chat and ask; the engine dies after so many tokens, and the app says so."""
    app_fixture.script.crash_after = after
    await open_chat(pilot)
    await send_question(pilot, "hi")
    await wait_for_screen(pilot, Dialog)
