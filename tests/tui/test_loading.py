"""Loading: progress, cancelling, refusals."""

import asyncio
from pathlib import Path

import pytest
from textual.widgets import ProgressBar

from localllm.core.sizing.load import Speculate
from localllm.errors import EngineCrashed, LoadFailed
from localllm.library.files.settings import Settings
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.chat.loading import LoadScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.widgets.models import ModelRows
from tests.core import forge
from tests.core.forge_recurrent import ENCODER
from tests.runtime.models import SHORT
from tests.tui.actions import (
    open_chat,
    screen_text,
    wait_for_fit,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fixtures import MIB, AppFixture


async def test_the_bar_follows_the_load_and_the_chat_opens(app_fixture: AppFixture) -> None:
    gate = app_fixture.script.load_gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        await pilot.press("enter")
        for _ in range(3):
            gate.release()
        await wait_for_screen(pilot, LoadScreen)
        await wait_until(pilot, lambda: app.screen.query_one(ProgressBar).progress == 0.5)
        assert "10.0 GiB free · 4096 tokens of context" in screen_text(app)
        for _ in range(2):
            gate.release()
        await wait_for_screen(pilot, ChatScreen)


@pytest.mark.parametrize(("of_settings", "loaded"), [(None, 4096), (1024, 1024)])
async def test_the_context_of_the_settings_is_loaded(
    app_fixture: AppFixture, of_settings: int | None, loaded: int
) -> None:
    app_fixture.settings = Settings(context=of_settings)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        assert app.services.runtime.resident()[0].loaded.context == loaded
    (load,) = app_fixture.script.loads
    assert load.settings.context == loaded
    assert load.settings.speculate is Speculate.AUTO


@pytest.mark.parametrize(("of_settings", "loaded"), [(None, 512), (1024, 512), (256, 256)])
async def test_no_more_context_is_loaded_than_the_model_was_trained_for(
    app_fixture: AppFixture, tmp_path: Path, of_settings: int | None, loaded: int
) -> None:
    forge.write(SHORT, tmp_path / "short.gguf")
    app_fixture.starter = None
    app_fixture.store.adopt(tmp_path / "short.gguf")
    app_fixture.settings = Settings(context=of_settings)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
    assert app_fixture.script.loads[0].settings.context == loaded


async def test_a_model_that_only_embeds_is_never_loaded(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    forge.write(ENCODER, tmp_path / "embedder.gguf")
    app_fixture.starter = None
    app_fixture.store.adopt(tmp_path / "embedder.gguf", name="embedder")
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "○ does not chat")
        await pilot.press("enter")
        await wait_for_screen(pilot, Dialog)
        await wait_for_text(pilot, "embedder does not chat")
        await wait_for_text(pilot, "It is an embedding model")
        await wait_for_text(pilot, "Other programs can use it: f7 serves it.")
        await pilot.press("enter")
        await wait_for_screen(pilot, HomeScreen)
    assert app_fixture.script.loads == []


async def test_escape_gives_a_load_up_and_ends_its_engine(app_fixture: AppFixture) -> None:
    app_fixture.script.load_gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        await pilot.press("enter")
        await wait_until(pilot, lambda: bool(app_fixture.script.loads))
        await pilot.press("escape", "escape")
        await wait_for_screen(pilot, HomeScreen)
        await wait_until(pilot, lambda: not app_fixture.engine.alive)
        assert app.services.runtime.resident() == ()


async def test_a_model_that_does_not_fit_is_loaded_only_when_told(app_fixture: AppFixture) -> None:
    app_fixture.available_bytes = 160 * MIB
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "● does not fit")
        await pilot.press("enter")
        await wait_for_screen(pilot, Dialog)
        await pilot.pause()
        assert "starter does not fit" in screen_text(app)
        assert "160 MiB" in screen_text(app)
        assert "KV cache   90.0 MiB" in screen_text(app)
        assert app_fixture.script.loads == []
        await pilot.press("right", "enter")
        await wait_for_screen(pilot, ChatScreen)
        assert len(app_fixture.script.loads) == 1


async def test_the_first_answer_to_a_model_that_does_not_fit_is_to_go_back(
    app_fixture: AppFixture,
) -> None:
    app_fixture.available_bytes = 160 * MIB
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "● does not fit")
        await pilot.press("enter")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("enter")
        await wait_for_screen(pilot, HomeScreen)
        assert app_fixture.script.loads == []


async def test_a_load_that_llama_cpp_refuses_is_said_plainly(app_fixture: AppFixture) -> None:
    app_fixture.script.load_error = LoadFailed("llama.cpp: unknown architecture [bert]")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        await pilot.press("enter")
        await wait_for_text(pilot, "unknown architecture [bert]")
        await pilot.press("escape")
        await wait_for_screen(pilot, HomeScreen)


async def test_a_crash_while_loading_offers_to_try_again(app_fixture: AppFixture) -> None:
    app_fixture.script.load_error = EngineCrashed(
        "The engine's process ended (SIGABRT).", reason="SIGABRT", log_tail=("GGML_ASSERT(x)",)
    )
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        await pilot.press("enter")
        await wait_for_text(pilot, "GGML_ASSERT(x)")
        app_fixture.script.load_error = None
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatScreen)


async def test_a_load_that_ends_under_the_palette_opens_the_chat(app_fixture: AppFixture) -> None:
    gate = app_fixture.script.load_gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        await pilot.press("enter")
        await wait_until(pilot, lambda: bool(app_fixture.script.loads))
        await pilot.press("ctrl+p")
        for _ in range(5):
            gate.release()
        await wait_for_screen(pilot, ChatScreen)


async def test_a_model_stays_loaded_until_it_is_freed_with_a_key(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("ctrl+o")
        await wait_for_screen(pilot, HomeScreen)
        await wait_for_text(pilot, "● in memory")
        assert app_fixture.engine.alive
        await pilot.press("u")
        await wait_for_text(pilot, "starter is unloaded.")
        assert not app_fixture.engine.alive
        await wait_for_fit(pilot)


async def test_enter_twice_opens_once(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        app.screen.query_one(ModelRows).action_select_cursor()
        app.screen.query_one(ModelRows).action_select_cursor()
        await wait_for_screen(pilot, ChatScreen)
        await pilot.pause()
        assert len(app_fixture.script.loads) == 1
        assert len(app.screen_stack) == 1
