"""The home place as a picture: who uses the memory, what is wanted, the first start."""

from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.core.recommend import Goal
from localllm.engine.messages import Role
from localllm.library.store.installed import InstalledModel
from localllm.machine.readings import RamUse, Readings, hottest, ram_use
from localllm.runtime.suggest import SuggestionPreferences
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.home.conversations import ConversationRows
from localllm.tui.screens.home.machine import state_text
from localllm.tui.screens.home.preferences import CONTEXTS, next_context
from localllm.tui.screens.home.stacked_bar import part_widths
from localllm.tui.screens.models.download import DownloadScreen
from localllm.tui.widgets.prompt import Prompt
from localllm.tui.widgets.suggestions import SuggestionRows
from tests.tui.actions import (
    screen_text,
    wait_for_fit,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fake_hub_source import FakeHubSource
from tests.tui.fake_suggestions import FakeSuggestions, fake_plans
from tests.tui.fixtures import GIB, AppFixture


@pytest.fixture
def smollm2_plans(app_fixture: AppFixture, smollm2: Path) -> FakeSuggestions:
    app_fixture.suggest = suggestions = FakeSuggestions(plans=fake_plans(smollm2))
    return suggestions


SIZES = st.integers(0, 2**40)


@hypothesis.settings(max_examples=60)
@given(total=SIZES, available=SIZES, ours=SIZES, mapped=SIZES)
def test_the_parts_of_the_memory_are_all_of_it(
    total: int, available: int, ours: int, mapped: int
) -> None:
    available, ours = min(available, total), min(ours, total)
    use = ram_use(
        total_bytes=total,
        available_bytes=available,
        ours_bytes=ours,
        ours_mapped_bytes=min(mapped, ours),
    )
    assert use.total_bytes == total
    assert min(use.others_bytes, use.ours_bytes, use.free_bytes) >= 0


def test_the_pages_of_a_mapped_model_are_not_taken_from_others() -> None:
    use = ram_use(
        total_bytes=16 * GIB,
        available_bytes=12 * GIB,  # 3 GiB of others, 1 GiB of ours that cannot be taken back
        ours_bytes=5 * GIB,
        ours_mapped_bytes=4 * GIB,
    )
    assert use == RamUse(others_bytes=3 * GIB, ours_bytes=5 * GIB, free_bytes=8 * GIB)


@hypothesis.settings(max_examples=60)
@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=6), st.integers(0, 200))
def test_a_bar_has_its_width_and_every_part_a_cell(sizes: list[float], width: int) -> None:
    widths = part_widths(sizes, width)
    assert min(widths) >= 0
    if sum(sizes) > 0 and width >= len(sizes):
        assert sum(widths) == width
        assert all(cells > 0 for cells, size in zip(widths, sizes, strict=True) if size > 0)


def test_temperature_and_battery_are_written_where_they_are_known() -> None:
    assert state_text(Readings()) == ""
    assert state_text(Readings(temperature_c=61.4)) == "61 °C"
    assert "on battery, 80 %" in state_text(Readings(battery_percent=80.0, on_battery=True))
    assert state_text(Readings(battery_percent=80.0)) == "plugged in, battery 80 %"
    sensors = {
        "nvme": (SimpleNamespace(current=90.0),),
        "coretemp": (SimpleNamespace(current=50.0), SimpleNamespace(current=58.0)),
    }
    assert hottest(sensors) == 58.0
    assert hottest({"coretemp": (SimpleNamespace(current=0.0),)}) is None


@given(st.integers(1, 10**6))
def test_the_context_goes_up_and_down_in_steps(context: int) -> None:
    assert next_context(context, up=True) >= context
    assert next_context(context, up=False) <= context
    assert next_context(CONTEXTS[-1], up=True) == CONTEXTS[-1]


async def test_goal_context_and_people_change_the_answer(
    app_fixture: AppFixture, smollm2_plans: FakeSuggestions
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "rowan-0.6b")
        await wait_for_text(pilot, "▓ others 5.0 GiB")
        assert "A toy" in screen_text(app)
        await pilot.press("g", "]", "]", "}")
        wanted = SuggestionPreferences(goal=Goal.QUALITY, context=16384, parallel=2)
        await wait_until(pilot, lambda: smollm2_plans.preferences[-1] == wanted)
        await wait_for_text(pilot, "‹quality›")
        await wait_for_text(pilot, "context ‹16k›  at once ‹2›")
        await pilot.click("PreferenceLine", offset=(8, 0))  # balanced, with the mouse
        await wait_for_text(pilot, "‹balanced›")


async def test_the_last_conversations_go_on_with_enter(app_fixture: AppFixture) -> None:
    question = ChatMessage(role=Role.USER, text="Why is the sky blue?", created_s=1.0)
    kept = Conversation(title="The sky", model="starter").with_message(question, after=None)
    app_fixture.conversations.save(kept)
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_text(pilot, "Last conversations")
        await wait_for_text(pilot, "1 question")
        await wait_for_fit(pilot)
        await pilot.press("down", "down")
        await wait_until(pilot, lambda: isinstance(app.focused, ConversationRows))
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatScreen)
        await wait_for_text(pilot, "Why is the sky blue?")


async def test_four_keys_lead_from_nothing_to_a_conversation(
    app_fixture: AppFixture, smollm2_plans: FakeSuggestions, smollm2: Path, tmp_path: Path
) -> None:
    app_fixture.starter = None

    def install() -> InstalledModel:
        file = tmp_path / "quince.gguf"
        file.symlink_to(smollm2)
        return app_fixture.store.adopt(file)

    app_fixture.source = source = FakeHubSource(install=install)
    source.gate.set()
    app = app_fixture.app()
    async with app.run_test(size=(100, 40)) as pilot:
        await wait_for_text(pilot, "gets the model under the cursor")
        await wait_until(pilot, lambda: isinstance(app.focused, SuggestionRows))
        await wait_for_text(pilot, "stay free")
        await pilot.press("enter")
        await wait_for_screen(pilot, DownloadScreen)
        await wait_for_text(pilot, "Nothing was sent yet.")
        await pilot.press("enter")
        await wait_for_text(pilot, "It is installed as")
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatScreen)
        await wait_until(pilot, lambda: isinstance(app.focused, Prompt))
