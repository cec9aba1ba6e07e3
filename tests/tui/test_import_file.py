"""A file of this disk becomes a model of the list."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.screens.models.import_file import (
    ImportScreen,
    common_beginning,
    example_path,
    path_of,
    unquoted,
)
from localllm.tui.widgets.models import ModelRows
from tests.library import tiny
from tests.tui.actions import (
    screen_text,
    wait_for_fit,
    wait_for_screen,
    wait_for_widget,
    wait_until,
)
from tests.tui.fixtures import AppFixture


async def open_import(pilot: Pilot[None]) -> None:
    app = pilot.app
    await wait_for_screen(pilot, HomeScreen)
    await pilot.press("i")
    await wait_for_screen(pilot, ImportScreen)
    await wait_until(pilot, lambda: isinstance(app.focused, Input))


async def enter_path(pilot: Pilot[None], text: str) -> None:
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


def remark(pilot: Pilot[None]) -> str:
    """The message about the path, whole: on the screen it is wrapped."""
    return str(pilot.app.screen.query_one("#import-remark", Static).content)


def offers(listed: OptionList, name: str) -> bool:
    """Tell whether the first completion is of this name."""
    return bool(listed.option_count) and name in str(listed.get_option_at_index(0).prompt)


@pytest.mark.parametrize("quotes", ["", "'", '"'])
async def test_a_model_is_imported_and_the_cursor_is_on_it(
    app_fixture: AppFixture, smollm2: Path, tmp_path: Path, quotes: str
) -> None:
    app_fixture.starter = None
    path = tmp_path / "my model.gguf"
    path.symlink_to(smollm2)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_import(pilot)
        await enter_path(pilot, f" {quotes}{path}{quotes} ")
        await wait_for_screen(pilot, HomeScreen)
        await wait_for_fit(pilot)
        assert isinstance(app.focused, ModelRows)
        assert [model.path for model in app_fixture.store.installed()] == [path]


async def test_of_several_models_the_imported_one_is_under_the_cursor(
    app_fixture: AppFixture, smollm2: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.gguf"
    path.symlink_to(smollm2)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        for _ in range(2):  # the second time it is there already
            await open_import(pilot)
            await enter_path(pilot, str(path))
            await wait_until(pilot, lambda: len(app.screen.query("ModelRow")) == 2)
            rows = app.screen.query_one(ModelRows)
            names = [model.name for model in app_fixture.store.installed()]
            imported = next(index for index, name in enumerate(names) if name != "starter")
            await wait_until(pilot, lambda at=imported, rows=rows: rows.index == at)  # type: ignore[misc]
            rows.index = 1 - imported


async def test_a_file_that_is_no_model_is_said_and_another_can_be_tried(
    app_fixture: AppFixture, smollm2: Path, tmp_path: Path
) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"GGUF and then nothing of use")
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_import(pilot)
        await enter_path(pilot, str(tmp_path / "junk.gguf"))
        await wait_for_widget(pilot, "#import-remark.-failed")
        await wait_until(pilot, lambda: "junk.gguf" in remark(pilot))
        await enter_path(pilot, str(tmp_path / "[INST] gone.gguf"))
        await wait_until(pilot, lambda: "There is no file" in remark(pilot))
        await enter_path(pilot, str(tmp_path))
        await wait_until(pilot, lambda: "This is a folder" in remark(pilot))
        # It is opened: its models are offered, chosen with the arrows, completed with tab.
        (tmp_path / "notes.txt").write_text("no model")
        folder = tmp_path / "a folder"
        folder.mkdir()
        (folder / "my model.gguf").symlink_to(smollm2)
        offered = app.screen.query_one(OptionList)
        typed = app.screen.query_one(Input)
        typed.value = f"{tmp_path}/a"
        await wait_until(pilot, lambda: offers(offered, "a folder"))
        await pilot.press("tab")
        await wait_until(pilot, lambda: typed.value.endswith("/a folder/"))
        await wait_until(pilot, lambda: offers(offered, "my model"))
        await pilot.press("down", "enter")
        await wait_for_screen(pilot, HomeScreen)
        await wait_until(pilot, lambda: len(app_fixture.store.installed()) == 2)


@pytest.mark.parametrize("text", ["", "   ", "''", "\0", "x" * 5000, "~nobody/at/all.gguf"])
async def test_nonsense_is_refused_in_the_window(app_fixture: AppFixture, text: str) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_import(pilot)
        await enter_path(pilot, text)
        await wait_for_widget(pilot, "#import-remark.-failed")
        assert isinstance(app.screen, ImportScreen)


async def test_escape_imports_nothing(app_fixture: AppFixture, smollm2: Path) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_import(pilot)
        app.screen.query_one(Input).value = str(smollm2)
        await pilot.press("escape")
        await wait_for_screen(pilot, HomeScreen)
        assert [model.name for model in app_fixture.store.installed()] == ["starter"]


async def test_it_is_a_command_of_the_palette(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_fit(pilot)
        commands = {command.title: command for command in app.get_system_commands(app.screen)}
        await commands["Import a file"].callback()
        await wait_for_screen(pilot, ImportScreen)


async def test_a_model_that_cannot_run_here_is_imported_with_a_warning(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    app_fixture.script.unknown_architectures = ("superllm9",)
    path = tiny.write(tmp_path / "new.gguf", architecture="superllm9")
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_import(pilot)
        await enter_path(pilot, str(path))
        await wait_for_screen(pilot, HomeScreen)
        await wait_until(pilot, lambda: "superllm9" in screen_text(app))


def test_a_path_is_read_as_this_system_and_its_terminal_write_it() -> None:
    assert unquoted("'/media/My Stick/a.gguf'") == "/media/My Stick/a.gguf"
    assert path_of("~/a.gguf") == Path.home() / "a.gguf"
    assert path_of("a folder/a.gguf") == Path.home() / "a folder" / "a.gguf"
    assert example_path("win32").startswith("D:\\")
    assert common_beginning(["/m/qwen-4b.gguf", "/m/qwen-8b.gguf"]) == "/m/qwen-"
