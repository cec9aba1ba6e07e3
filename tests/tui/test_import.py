"""A file of this disk becomes a model of the list."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from localllm.tui.screens.home import HomeScreen
from localllm.tui.screens.import_file import ImportScreen
from localllm.tui.widgets.models import Rows
from tests.tui.acts import holds, reaches, until, weighs
from tests.tui.made_up import Stage


async def open_import(pilot: Pilot[None]) -> None:
    app = pilot.app
    await reaches(pilot, HomeScreen)
    await pilot.press("i")
    await reaches(pilot, ImportScreen)
    await until(pilot, lambda: isinstance(app.focused, Input))


async def enter_path(pilot: Pilot[None], text: str) -> None:
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


def remark(pilot: Pilot[None]) -> str:
    """What the window says of the path, whole: on the screen it is wrapped."""
    return str(pilot.app.screen.query_one("#import-remark", Static).content)


@pytest.mark.parametrize("quotes", ["", "'", '"'])
async def test_a_model_is_imported_and_the_cursor_is_on_it(
    stage: Stage, smollm2: Path, tmp_path: Path, quotes: str
) -> None:
    stage.starter = None
    path = tmp_path / "my model.gguf"
    path.symlink_to(smollm2)
    app = stage.app()
    async with app.run_test() as pilot:
        await open_import(pilot)
        await enter_path(pilot, f" {quotes}{path}{quotes} ")
        await reaches(pilot, HomeScreen)
        await weighs(pilot)
        assert isinstance(app.focused, Rows)
        assert [model.path for model in stage.store.installed()] == [path]


async def test_of_several_models_the_imported_one_is_under_the_cursor(
    stage: Stage, smollm2: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.gguf"
    path.symlink_to(smollm2)
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        for _ in range(2):  # the second time it is there already
            await open_import(pilot)
            await enter_path(pilot, str(path))
            await until(pilot, lambda: len(app.screen.query("ModelRow")) == 2)
            rows = app.screen.query_one(Rows)
            names = [model.name for model in stage.store.installed()]
            imported = next(index for index, name in enumerate(names) if name != "starter")
            await until(pilot, lambda at=imported, rows=rows: rows.index == at)  # type: ignore[misc]
            rows.index = 1 - imported


async def test_a_file_that_is_no_model_is_said_and_another_can_be_tried(
    stage: Stage, smollm2: Path, tmp_path: Path
) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"GGUF and then nothing of use")
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_import(pilot)
        await enter_path(pilot, str(tmp_path / "junk.gguf"))
        await holds(pilot, "#import-remark.-failed")
        await until(pilot, lambda: "junk.gguf" in remark(pilot))
        await enter_path(pilot, str(tmp_path / "[INST] gone.gguf"))
        await until(pilot, lambda: "There is no file" in remark(pilot))
        await enter_path(pilot, str(tmp_path))
        await until(pilot, lambda: "is a directory" in remark(pilot))
        await enter_path(pilot, str(smollm2))
        await reaches(pilot, HomeScreen)
        await until(pilot, lambda: len(stage.store.installed()) == 2)


@pytest.mark.parametrize("text", ["", "   ", "''", "\0", "x" * 5000, "~nobody/at/all.gguf"])
async def test_nonsense_is_refused_in_the_window(stage: Stage, text: str) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_import(pilot)
        await enter_path(pilot, text)
        await holds(pilot, "#import-remark.-failed")
        assert isinstance(app.screen, ImportScreen)


async def test_escape_imports_nothing(stage: Stage, smollm2: Path) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_import(pilot)
        app.screen.query_one(Input).value = str(smollm2)
        await pilot.press("escape")
        await reaches(pilot, HomeScreen)
        assert [model.name for model in stage.store.installed()] == ["starter"]


async def test_it_is_a_command_of_the_palette(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        commands = {command.title: command for command in app.get_system_commands(app.screen)}
        await commands["Import a GGUF file"].callback()
        await reaches(pilot, ImportScreen)
