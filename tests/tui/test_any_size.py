"""Nothing that a person does in a terminal ends the app: any size, any key, any click."""

import asyncio
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from localllm.tui.places import PLACES
from localllm.tui.widgets.prompt import Prompt
from tests.tui.actions import open_chat, screen_text, send_and_wait, wait_until
from tests.tui.fake_suggestions import FakeSuggestions, fake_plans
from tests.tui.fixtures import AppFixture

KEYS = (
    *(place.key for place in PLACES),
    *("f1", "f2", "f4", "escape", "enter", "tab", "shift+tab", "up", "down", "left", "right"),
    *("ctrl+p", "ctrl+l", "ctrl+t", "ctrl+n", "ctrl+r", "ctrl+o", "ctrl+z", "pageup", "pagedown"),
    *("question_mark", "slash", "g", "i", "r", "u", "s", "d", "t", "b", "e", "y"),
    *("left_square_bracket", "at", "backspace", "home", "end", "ctrl+j", "漢", "x"),
)  # fmt: skip
COLUMNS = st.one_of(st.integers(20, 60), st.integers(20, 200))
ROWS = st.one_of(st.integers(5, 15), st.integers(5, 60))
SIZES = st.tuples(COLUMNS, ROWS)
STEPS = st.one_of(
    st.builds(lambda size: ("size", size), SIZES),
    st.builds(lambda key: ("key", key), st.sampled_from(KEYS)),
    st.builds(lambda at: ("click", at), st.tuples(st.integers(0, 199), st.integers(0, 59))),
)
TURNS = (
    "# Résumé\n\n```python\n",
    "x = 1  # 漢字 🏳️‍🌈\n" * 3,
    "```\n| a | b |\n|---|---|\n| 1 | 2 |\n",
)


async def take(pilot: Pilot[None], step: tuple[str, object]) -> None:
    """Do one of the things that people do."""
    kind, what = step
    if kind == "size":
        assert isinstance(what, tuple)
        await pilot.resize_terminal(*what)
    elif kind == "key":
        await pilot.press(str(what))
    elif isinstance(what, tuple):
        size = pilot.app.size
        await pilot.click(offset=(what[0] % size.width, what[1] % size.height))


async def run_steps(app_fixture: AppFixture, steps: list[tuple[str, object]]) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi 漢字 " * 20)
        for step in steps:
            await take(pilot, step)
            assert app.failure is None
            assert "This is a bug" not in screen_text(app), step
        for place in PLACES:
            await pilot.press(place.key)
        await pilot.pause()
        assert app.failure is None


@hypothesis.settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, min_size=12, max_size=24))
def test_no_size_key_or_click_ends_it(
    app_fixture: AppFixture, fake_suggestions: FakeSuggestions, steps: list[tuple[str, object]]
) -> None:
    app_fixture.script.tokens = TURNS
    app_fixture.suggest = fake_suggestions
    asyncio.run(run_steps(app_fixture, steps))


@pytest.fixture
def fake_suggestions(smollm2: Path) -> FakeSuggestions:
    return FakeSuggestions(plans=fake_plans(smollm2))


async def test_every_step_from_wide_to_narrow_is_laid_out(app_fixture: AppFixture) -> None:
    """Those that ended it: from 100 columns or more to 51 or fewer in one step."""
    app = app_fixture.app()
    app_fixture.script.tokens = TURNS
    async with app.run_test(size=(120, 40)) as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        for wide, narrow in ((200, 20), (100, 51), (120, 40), (160, 30)):
            await pilot.resize_terminal(wide, 40)
            await pilot.resize_terminal(narrow, 8)
            assert app.failure is None
        assert "small" in screen_text(app)
        assert app.screen.query_one(Prompt).display
        await pilot.resize_terminal(60, 15)
        await wait_until(pilot, lambda: "small window" not in screen_text(app))
