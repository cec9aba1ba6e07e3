"""What else fits: below the installed models, never in their way."""

from pathlib import Path

import pytest

from localllm.errors import LocalLLMError, UsageError
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.download import DownloadScreen
from localllm.tui.screens.import_file import ImportScreen
from localllm.tui.widgets.models import Rows
from localllm.tui.widgets.suggestions import SuggestionRows
from tests.tui.acts import holds, reaches, sees, shown, until, weighs
from tests.tui.made_up import Stage
from tests.tui.made_up_plans import MODELS, Orchard, made_up_plans


@pytest.fixture
def orchard(stage: Stage, smollm2: Path) -> Orchard:
    stage.suggest = orchard = Orchard(plans=made_up_plans(smollm2))
    return orchard


async def test_each_says_its_need_its_speed_and_its_size(stage: Stage, orchard: Orchard) -> None:
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await sees(pilot, "rowan-0.6b")
        text = shown(app)
    assert "Also fits here" in text
    row = next(line for line in text.splitlines() if "quince-30b-a3b" in line)
    assert row.split()[-6:] == ["Q4_K_M", "8.7", "GiB", "8-18", "7.8", "GiB"]
    assert "to spare" not in text  # the reasons wait for the cursor
    assert [model.name for model in orchard.asked[0]] == ["starter"]


async def test_the_keyboard_reaches_them_below_the_models_and_comes_back(
    stage: Stage, orchard: Orchard
) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await until(pilot, lambda: "● fits" in shown(app) and "rowan-0.6b" in shown(app))
        assert isinstance(app.focused, Rows)
        await pilot.press("down")
        await sees(pilot, "Fits with 1.3 GiB to spare.")
        assert isinstance(app.focused, SuggestionRows)
        await pilot.press("down")
        await sees(pilot, "Fits with 4.8 GiB to spare.")
        assert "Fits with 1.3 GiB" not in shown(app)
        await pilot.press("up", "up")
        await until(pilot, lambda: isinstance(app.focused, Rows))


async def test_the_last_row_stays_in_sight_and_the_cursor_stays_on_it(
    stage: Stage, orchard: Orchard
) -> None:
    app = stage.app()
    async with app.run_test(size=(80, 16)) as pilot:
        await holds(pilot, "ModelRow.-fits")
        await holds(pilot, "SuggestionRow")
        await pilot.press(*["down"] * (len(MODELS) + 3))
        await sees(pilot, "Fits with 9.1 GiB to spare.")
        assert isinstance(app.focused, SuggestionRows)
        assert app.focused.index == len(MODELS) - 1


async def test_its_window_leads_to_the_import(stage: Stage, orchard: Orchard) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await until(pilot, lambda: "● fits" in shown(app) and "rowan-0.6b" in shown(app))
        await pilot.press("down", "enter")
        await reaches(pilot, DownloadScreen)
        await pilot.press("right", "enter")
        await reaches(pilot, ImportScreen)


@pytest.mark.parametrize(
    "error",
    [
        UsageError("models.toml: line 3, [/INST] is no field."),
        LocalLLMError("The speed of this machine's memory cannot be measured: [bold]."),
    ],
)
async def test_a_catalogue_that_fails_does_not_hurt_the_screen(
    stage: Stage, orchard: Orchard, error: LocalLLMError
) -> None:
    orchard.error = error
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: str(error) in " ".join(shown(app).split()))
        await weighs(pilot)
        await pilot.press("down", "enter")  # there is nothing below to go to
        await reaches(pilot, ChatScreen)


async def test_refresh_asks_the_catalogue_again(stage: Stage, orchard: Orchard) -> None:
    orchard.error = UsageError("The catalogue is gone.")
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "The catalogue is gone.")
        orchard.error = None
        await pilot.press("r", "r", "r")
        await sees(pilot, "rowan-0.6b")
        assert "The catalogue is gone." not in shown(app)


async def test_nothing_that_fits_is_said(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "Nothing else of the catalogue fits")


async def test_without_any_model_the_cursor_is_on_the_first(stage: Stage, orchard: Orchard) -> None:
    stage.starter = None
    app = stage.app()
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.focused, SuggestionRows))
        await pilot.press("enter")
        await reaches(pilot, DownloadScreen)
