"""Suggestions stand below the installed models, never in their way."""

from pathlib import Path

import pytest

from localllm.errors import LocalLLMError, UsageError
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.models.download import DownloadScreen
from localllm.tui.screens.models.import_file import ImportScreen
from localllm.tui.widgets.models import ModelRows
from localllm.tui.widgets.suggestions import SuggestionRows
from tests.tui.actions import (
    screen_text,
    wait_for_fit,
    wait_for_screen,
    wait_for_text,
    wait_for_widget,
    wait_until,
)
from tests.tui.fake_suggestions import MODELS, FakeSuggestions, fake_plans
from tests.tui.fixtures import AppFixture


@pytest.fixture
def suggestions(app_fixture: AppFixture, smollm2: Path) -> FakeSuggestions:
    app_fixture.suggest = suggestions = FakeSuggestions(plans=fake_plans(smollm2))
    return suggestions


async def test_each_says_its_need_its_speed_and_its_size(
    app_fixture: AppFixture, suggestions: FakeSuggestions
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(160, 40)) as pilot:
        await wait_for_text(pilot, "rowan-0.6b")
        text = screen_text(app)
    assert "Best for you" in text
    row = next(line for line in text.splitlines() if "quince-30b-a3b" in line)
    ending = ["Q4_K_M", "apache-2.0", "8.7", "GiB", "7.8", "GiB", "8-18", "-"]
    assert row.split()[-8:] == ending
    assert "to spare" not in text  # the reasons wait for the cursor
    assert [model.name for model in suggestions.calls[0]] == ["starter"]


async def test_the_keyboard_reaches_them_below_the_models_and_comes_back(
    app_fixture: AppFixture, suggestions: FakeSuggestions
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_until(
            pilot, lambda: "● fits" in screen_text(app) and "rowan-0.6b" in screen_text(app)
        )
        assert isinstance(app.focused, ModelRows)
        await pilot.press("down")
        await wait_for_text(pilot, "Fits with 1.3 GiB to spare.")
        assert isinstance(app.focused, SuggestionRows)
        await pilot.press("down")
        await wait_for_text(pilot, "Fits with 4.8 GiB to spare.")
        assert "Fits with 1.3 GiB" not in screen_text(app)
        await pilot.press("up", "up")
        await wait_until(pilot, lambda: isinstance(app.focused, ModelRows))


async def test_the_last_row_stays_in_sight_and_the_cursor_stays_on_it(
    app_fixture: AppFixture, suggestions: FakeSuggestions
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(80, 16)) as pilot:
        await wait_for_widget(pilot, "ModelRow.-fits")
        await wait_for_widget(pilot, "SuggestionRow")
        await pilot.press(*["down"] * (len(MODELS) + 3))
        await wait_for_text(pilot, "Fits with 9.1 GiB to spare.")
        assert isinstance(app.focused, SuggestionRows)
        assert app.focused.index == len(MODELS) - 1


async def test_its_window_leads_to_the_import(
    app_fixture: AppFixture, suggestions: FakeSuggestions
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_until(
            pilot, lambda: "● fits" in screen_text(app) and "rowan-0.6b" in screen_text(app)
        )
        await pilot.press("down", "enter")
        await wait_for_screen(pilot, DownloadScreen)
        await pilot.press("right", "enter")
        await wait_for_screen(pilot, ImportScreen)


@pytest.mark.parametrize(
    "error",
    [
        UsageError("models.toml: line 3, [/INST] is no field."),
        LocalLLMError("The speed of this machine's memory cannot be measured: [bold]."),
    ],
)
async def test_a_catalogue_that_fails_does_not_hurt_the_screen(
    app_fixture: AppFixture, suggestions: FakeSuggestions, error: LocalLLMError
) -> None:
    suggestions.error = error
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_until(pilot, lambda: str(error) in " ".join(screen_text(app).split()))
        await wait_for_fit(pilot)
        await pilot.press("down", "enter")  # there is nothing below to go to
        await wait_for_screen(pilot, ChatScreen)


async def test_refresh_asks_the_catalogue_again(
    app_fixture: AppFixture, suggestions: FakeSuggestions
) -> None:
    suggestions.error = UsageError("The catalogue is gone.")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "The catalogue is gone.")
        suggestions.error = None
        await pilot.press("r", "r", "r")
        await wait_for_text(pilot, "rowan-0.6b")
        assert "The catalogue is gone." not in screen_text(app)


async def test_nothing_that_fits_is_said(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_for_text(pilot, "Nothing else of the catalogue fits")


async def test_without_any_model_the_cursor_is_on_the_first(
    app_fixture: AppFixture, suggestions: FakeSuggestions
) -> None:
    app_fixture.starter = None
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await wait_until(pilot, lambda: isinstance(app.focused, SuggestionRows))
        await pilot.press("enter")
        await wait_for_screen(pilot, DownloadScreen)
