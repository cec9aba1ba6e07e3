"""Loading: progress, cancelling, refusals."""

import asyncio

from textual.widgets import ProgressBar

from localllm.errors import EngineCrashed, LoadFailed
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.home import HomeScreen
from localllm.tui.screens.loading import LoadScreen
from localllm.tui.widgets.models import Rows
from tests.tui.acts import open_chat, reaches, sees, shown, until, weighs
from tests.tui.made_up import MIB, Stage


async def test_the_bar_follows_the_load_and_the_chat_opens(stage: Stage) -> None:
    gate = stage.script.load_gate = asyncio.Semaphore(0)
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        await pilot.press("enter")
        for _ in range(3):
            gate.release()
        await reaches(pilot, LoadScreen)
        await until(pilot, lambda: app.screen.query_one(ProgressBar).progress == 0.5)
        assert "10.0 GiB free · 4096 tokens of context" in shown(app)
        for _ in range(2):
            gate.release()
        await reaches(pilot, ChatScreen)


async def test_escape_gives_a_load_up_and_ends_its_engine(stage: Stage) -> None:
    stage.script.load_gate = asyncio.Semaphore(0)
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: bool(stage.script.loads))
        await pilot.press("escape", "escape")
        await reaches(pilot, HomeScreen)
        await until(pilot, lambda: not stage.engine.alive)
        assert app.runtime.resident() == ()


async def test_a_model_that_does_not_fit_is_loaded_only_when_told(stage: Stage) -> None:
    stage.available_bytes = 160 * MIB
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "● does not fit")
        await pilot.press("enter")
        await reaches(pilot, Dialog)
        await pilot.pause()
        assert "starter does not fit" in shown(app)
        assert "160 MiB" in shown(app)
        assert "KV cache   90.0 MiB" in shown(app)
        assert stage.script.loads == []
        await pilot.press("right", "enter")
        await reaches(pilot, ChatScreen)
        assert len(stage.script.loads) == 1


async def test_the_first_answer_to_a_model_that_does_not_fit_is_to_go_back(stage: Stage) -> None:
    stage.available_bytes = 160 * MIB
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "● does not fit")
        await pilot.press("enter")
        await reaches(pilot, Dialog)
        await pilot.press("enter")
        await reaches(pilot, HomeScreen)
        assert stage.script.loads == []


async def test_a_load_that_llama_cpp_refuses_is_said_plainly(stage: Stage) -> None:
    stage.script.load_error = LoadFailed("llama.cpp: unknown architecture [bert]")
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        await pilot.press("enter")
        await sees(pilot, "unknown architecture [bert]")
        await pilot.press("escape")
        await reaches(pilot, HomeScreen)


async def test_a_crash_while_loading_offers_to_try_again(stage: Stage) -> None:
    stage.script.load_error = EngineCrashed(
        "The engine's process ended (SIGABRT).", reason="SIGABRT", log_tail=("GGML_ASSERT(x)",)
    )
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        await pilot.press("enter")
        await sees(pilot, "GGML_ASSERT(x)")
        stage.script.load_error = None
        await pilot.press("enter")
        await reaches(pilot, ChatScreen)


async def test_a_load_that_ends_under_the_palette_opens_the_chat(stage: Stage) -> None:
    gate = stage.script.load_gate = asyncio.Semaphore(0)
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: bool(stage.script.loads))
        await pilot.press("ctrl+p")
        for _ in range(5):
            gate.release()
        await reaches(pilot, ChatScreen)


async def test_going_back_frees_the_model(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("ctrl+o")
        await reaches(pilot, HomeScreen)
        await until(pilot, lambda: not stage.engine.alive)


async def test_enter_twice_opens_once(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        app.screen.query_one(Rows).action_select_cursor()
        app.screen.query_one(Rows).action_select_cursor()
        await reaches(pilot, ChatScreen)
        await pilot.pause()
        assert len(stage.script.loads) == 1
        assert len(app.screen_stack) == 3  # Textual's own, home, chat
