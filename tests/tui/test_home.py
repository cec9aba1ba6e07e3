"""The home screen: what this machine has and what fits it."""

from pathlib import Path

import pytest
from gguf import PoolingType

from localllm.core.hardware import NetworkAccess
from localllm.core.units import format_bytes
from localllm.library.store import starter
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.home.home import HomeScreen
from tests.engine import tiny_encoder
from tests.tui.actions import screen_text, wait_for_fit, wait_for_screen, wait_for_text
from tests.tui.fixtures import MIB, AppFixture


@pytest.mark.smoke
async def test_it_says_what_the_machine_has(app_fixture: AppFixture) -> None:
    app_fixture.warnings = ("A GPU is here that the engine cannot use.",)
    app = app_fixture.app()
    async with app.run_test(size=(160, 40)) as pilot:
        await wait_for_text(pilot, "Made-up 9000")
        text = screen_text(app)
    assert "8 cores, 16 usable" in text
    assert "10.0 GiB free of 16.0 GiB" in text
    assert "none found" in text
    assert "llama-cpp-python 0.3.36 · CPU" in text
    assert "A GPU is here" in text


async def test_it_says_why_the_engine_is_the_engine(app_fixture: AppFixture) -> None:
    app_fixture.engine_reason = "It was built for this machine; another is prebuilt."
    app = app_fixture.app()
    async with app.run_test(size=(140, 40)) as pilot:
        await wait_for_text(pilot, "Made-up 9000")
        words = " ".join(screen_text(app).split())
    assert "llama-cpp-python: It was built" in words


@pytest.mark.parametrize(
    ("blocked", "detail", "shown"),
    [
        (
            True,
            "socket() refused by the kernel (seccomp)",
            "the process that sees your prompts cannot open a socket: socket() refused by the "
            "kernel (seccomp)",
        ),
        (
            False,
            "not restricted: macOS has no supported filter",
            "the process that sees your prompts is not restricted: macOS has no supported filter",
        ),
    ],
)
async def test_it_says_whether_the_engine_can_open_a_socket(
    app_fixture: AppFixture, *, blocked: bool, detail: str, shown: str
) -> None:
    app_fixture.network = NetworkAccess(blocked=blocked, detail=detail)
    app = app_fixture.app()
    async with app.run_test(size=(140, 40)) as pilot:
        await wait_for_text(pilot, "Made-up 9000")
        words = " ".join(screen_text(app).split())
    assert shown in words


async def test_another_engine_than_last_time_is_said(app_fixture: AppFixture) -> None:
    app_fixture.engine_changed = "Another engine runs [b]now[/b]."
    app = app_fixture.app()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await wait_for_text(pilot, "Another engine runs [b]now[/b].")


async def test_a_model_says_its_quant_its_size_and_that_it_fits(app_fixture: AppFixture) -> None:
    assert app_fixture.starter is not None
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        text = screen_text(app)
    assert "starter  Q4_1" in text
    assert f"{format_bytes(app_fixture.starter.size_bytes)} file · needs" in text
    assert "of 10.0 GiB free" in text


@pytest.mark.smoke
async def test_a_model_that_does_not_fit_says_what_would_help(app_fixture: AppFixture) -> None:
    app_fixture.available_bytes = 170 * MIB
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "● does not fit")
        fit = await app.services.runtime.fit(
            await app.services.runtime.plan(app.services.runtime.installed()[0], CHAT)
        )
        assert fit.advice is not None
        assert "of 170 MiB free" in screen_text(app)
        assert fit.advice in screen_text(app)


async def test_a_model_whose_file_is_gone_says_so(app_fixture: AppFixture) -> None:
    app_fixture.starter = fake_model(Path("/gone.gguf"))  # short: the screen wraps a long path
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "○ file missing")
        assert "gone.gguf" in screen_text(app)


@pytest.mark.parametrize(
    ("file", "instead"),
    [("embedder", "It is an embedding model"), ("reranker", "It is a reranker")],
)
async def test_a_model_that_does_not_chat_says_what_it_is(
    app_fixture: AppFixture, tmp_path: Path, file: str, instead: str
) -> None:
    pooling = PoolingType.RANK if file == "reranker" else PoolingType.MEAN
    tiny_encoder.encoder(tmp_path / f"{file}.gguf", pooling=pooling, classifier=file == "reranker")
    app_fixture.store.adopt(tmp_path / f"{file}.gguf", name=file)
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "○ does not chat")
        await wait_for_text(pilot, instead)
        await wait_for_fit(pilot)  # the starter


async def test_a_file_that_is_no_model_says_so_and_the_others_stay(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"GGUF and then nothing of use")
    app_fixture.starter = fake_model(tmp_path / "junk.gguf")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "○ cannot be read")
        await pilot.press("enter")
        await wait_for_text(pilot, "cannot be loaded")
        await pilot.press("enter")
        await wait_for_screen(pilot, HomeScreen)


async def test_an_empty_library_says_what_to_do(app_fixture: AppFixture) -> None:
    app_fixture.starter = None
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "No model is installed yet")
        assert starter.INSTALL in " ".join(screen_text(app).split())
        assert "a GGUF file of this disk or of a stick" in screen_text(app)
        await pilot.press("enter", "down", "r")  # nothing to choose: nothing happens
        assert isinstance(app.screen, HomeScreen)


async def test_refresh_finds_a_model_that_was_added_meanwhile(app_fixture: AppFixture) -> None:
    starter, app_fixture.starter = app_fixture.starter, None
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "No model is installed yet")
        app_fixture.starter = starter
        await pilot.press("r")
        await wait_for_fit(pilot)


async def test_every_key_of_the_screen_is_a_command_of_the_palette(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        titles = [command.title for command in app.get_system_commands(app.screen)]
    assert {"Open", "Refresh", "Quit"} <= set(titles)
    assert len(titles) == len(set(titles))


async def test_the_palette_runs_the_command(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        command = next(c for c in app.get_system_commands(app.screen) if c.title == "Open")
        await command.callback()
        await wait_for_screen(pilot, ChatScreen)


def fake_model(path: Path) -> InstalledModel:
    return InstalledModel(name="odd", quant=None, path=path, size_bytes=28)
