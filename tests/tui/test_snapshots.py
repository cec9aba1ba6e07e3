"""Pictures of the screens, at the two sizes that they are made for.

After an intended change: `pytest tests/tui/test_snapshots.py --snapshot-update`, then look at the
SVG files. The machine, the clock and the fits are fake, so that nothing here depends on the
machine that runs it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, ProgressBar

from localllm.errors import HubError
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.memory_outlook import MemoryOutlook
from localllm.runtime.runtime import Fit, Runtime
from localllm.tui.app import LocalLLMApp
from localllm.tui.screens.chat.loading import LoadScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.models.download import DownloadScreen
from localllm.tui.screens.models.import_file import ImportScreen
from localllm.tui.widgets.prompt import Prompt
from localllm.tui.widgets.suggestions import SuggestionRow
from tests.tui.actions import (
    answer_ends_with,
    chat_screen,
    open_chat,
    send_question,
    wait_for_screen,
    wait_for_text,
    wait_for_widget,
    wait_until,
)
from tests.tui.fake_hub_source import FakeHubSource, progress
from tests.tui.fake_suggestions import MODELS, FakeSuggestions, fake_plans
from tests.tui.fixtures import GIB, MIB, AppFixture, fake_fit

at_both_sizes = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
in_every_theme = pytest.mark.parametrize("theme", ["localllm-dark", "localllm-light", "ansi-dark"])

ANSWER = (
    *("The ", "**KV ", "cache** ", "keeps ", "what ", "was ", "computed ", "for ", "every "),
    *("token ", "before, ", "so ", "that ", "the ", "next ", "one ", "costs ", "one ", "step.\n\n"),
    *("- it ", "grows ", "with ", "the ", "*context*\n", "- `q8_0` ", "halves ", "it\n\n"),
    *("```python\n", "size ", "= ", "2 * ", "layers ", "* cells\n", "```\n"),
)


class Snap(Protocol):
    def __call__(
        self,
        app: App[None],
        *,
        terminal_size: tuple[int, int],
        run_before: Callable[[Pilot[None]], Awaitable[None]],
    ) -> bool: ...


@pytest.fixture
def snap_compare(snap_compare: Snap) -> Snap:
    """Compare when the frame says what is so now: its timers may not have run yet."""

    def compare(
        app: App[None],
        *,
        terminal_size: tuple[int, int],
        run_before: Callable[[Pilot[None]], Awaitable[None]],
    ) -> bool:
        async def run(pilot: Pilot[None]) -> None:
            await run_before(pilot)
            assert isinstance(app, LocalLLMApp)
            app.show_loaded()
            if app.services.downloads.active:
                app.show_downloads()

        return snap_compare(app, terminal_size=terminal_size, run_before=run)

    return compare


class FixedFitRuntime(Runtime):
    """The real runtime, but for the numbers of a fit: those depend on formulas that improve."""

    need_bytes = 249 * MIB

    async def fit_in(
        self, outlook: MemoryOutlook, plan: LoadPlan, *, unloading: Collection[str] = ()
    ) -> Fit:
        advice = "Try --ctx 2048 (9.4 GiB)." if self.need_bytes > 10 * GIB else None
        real = await super().fit_in(outlook, plan, unloading=unloading)
        return fake_fit(real, need_bytes=self.need_bytes, free_bytes=10 * GIB, advice=advice)


class TooBig(FixedFitRuntime):
    need_bytes = 12 * GIB


@pytest.fixture
def snapshot_app(app_fixture: AppFixture, smollm2: Path) -> AppFixture:
    app_fixture.warnings = (
        "A GPU is here that this build of llama.cpp cannot use: see the README.",
    )
    app_fixture.script.tokens = ANSWER
    app_fixture.suggest = FakeSuggestions(plans=fake_plans(smollm2))
    return app_fixture


async def wait_for_home(pilot: Pilot[None], row: str) -> None:
    """Wait for all that is computed behind the first screen, such a row of the models too."""
    screen = pilot.app.screen
    await wait_for_widget(pilot, row)
    await wait_until(pilot, lambda: bool(screen.query("MachinePanel .warning")))
    await wait_until(pilot, lambda: len(screen.query(SuggestionRow)) == len(MODELS))


def stop_blinking(pilot: Pilot[None]) -> None:
    """No cursor that blinks."""
    for prompt in pilot.app.screen.query(Prompt):
        prompt.cursor_blink = False


@in_every_theme
@at_both_sizes
def test_home(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int], theme: str
) -> None:
    app = snapshot_app.app(FixedFitRuntime)
    app.theme = theme

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_home(pilot, "ModelRow.-fits")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_suggestion_under_the_cursor(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]
) -> None:
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_home(pilot, "ModelRow.-fits")
        await pilot.press("down", "down")

    assert snap_compare(app, terminal_size=size, run_before=run)


@pytest.fixture
def hub_source(snapshot_app: AppFixture) -> FakeHubSource:
    """A Hub that gives the starter model, as one that was there already."""
    assert snapshot_app.starter is not None
    snapshot_app.source = hub_source = FakeHubSource(
        install=partial(replace, snapshot_app.starter, name="quince-30b")
    )
    return hub_source


async def previewed(pilot: Pilot[None]) -> None:
    await wait_for_home(pilot, "ModelRow.-fits")
    await pilot.press("down", "enter")
    await wait_for_screen(pilot, DownloadScreen)
    await wait_for_widget(pilot, ".-offered #download:focus")


@in_every_theme
@at_both_sizes
def test_a_download_that_is_offered(
    snapshot_app: AppFixture,
    hub_source: FakeHubSource,
    snap_compare: Snap,
    size: tuple[int, int],
    theme: str,
) -> None:
    app = snapshot_app.app(FixedFitRuntime)
    app.theme = theme
    assert snap_compare(app, terminal_size=size, run_before=previewed)


@in_every_theme
@at_both_sizes
def test_a_download_that_runs(
    snapshot_app: AppFixture,
    hub_source: FakeHubSource,
    snap_compare: Snap,
    size: tuple[int, int],
    theme: str,
) -> None:
    hub_source.reported = (progress(3.1, of_gib=7.8, note="resumed at 3.0 GiB"),)
    app = snapshot_app.app(FixedFitRuntime)
    app.theme = theme

    async def run(pilot: Pilot[None]) -> None:
        await previewed(pilot)
        await pilot.press("enter")
        await wait_for_text(pilot, "resumed at 3.0 GiB")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_download_that_was_stopped(
    snapshot_app: AppFixture, hub_source: FakeHubSource, snap_compare: Snap, size: tuple[int, int]
) -> None:
    hub_source.reported = (progress(3.1, of_gib=7.8),)
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await previewed(pilot)
        await pilot.press("enter")
        await wait_for_text(pilot, "3.1 GiB of 7.8 GiB")
        await pilot.press("right", "enter")
        await wait_for_widget(pilot, ".-stopped #resume:focus")
        await wait_for_text(pilot, "Resume")  # scrolled into sight

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_download_that_fails(
    snapshot_app: AppFixture, hub_source: FakeHubSource, snap_compare: Snap, size: tuple[int, int]
) -> None:
    hub_source.plan_error = HubError(
        "hub.example cannot be reached: no connection within 10 s. Nothing was lost; try again"
        " when you are online, or import a file that is on this disk."
    )
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await previewed(pilot)
        await pilot.press("enter")
        await wait_for_widget(pilot, ".-failed #again:focus")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_download_that_is_done(
    snapshot_app: AppFixture, hub_source: FakeHubSource, snap_compare: Snap, size: tuple[int, int]
) -> None:
    hub_source.gate.set()
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await previewed(pilot)
        await pilot.press("enter")
        await wait_for_widget(pilot, ".-done #run:focus")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_an_import_that_fails(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]
) -> None:
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_home(pilot, "ModelRow.-fits")
        await pilot.press("i")
        await wait_for_screen(pilot, ImportScreen)
        field = app.screen.query_one(Input)
        field.cursor_blink = False
        field.value = "/made/up/quince.gguf"
        await pilot.press("enter")
        await wait_for_widget(pilot, "#import-remark.-failed")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_home_without_a_model(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]
) -> None:
    snapshot_app.starter = None
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_home(pilot, "#no-models")
        await wait_until(pilot, lambda: app.screen.query_one("#no-models").display)

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_loading(snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]) -> None:
    gate = snapshot_app.script.load_gate = asyncio.Semaphore(3)
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_widget(pilot, "ModelRow.-fits")
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(app.screen, LoadScreen) and gate.locked())
        await wait_until(pilot, lambda: app.screen.query_one(ProgressBar).progress == 0.5)

    assert snap_compare(app, terminal_size=size, run_before=run)


@in_every_theme
@at_both_sizes
def test_chat_streaming(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int], theme: str
) -> None:
    app = snapshot_app.app(FixedFitRuntime)
    app.theme = theme

    async def run(pilot: Pilot[None]) -> None:
        await stream(snapshot_app, pilot)

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_crash(snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]) -> None:
    app = snapshot_app.app(FixedFitRuntime)

    async def run(pilot: Pilot[None]) -> None:
        await stream(snapshot_app, pilot)
        snapshot_app.engine.kill()
        await wait_for_screen(pilot, Dialog)

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_model_that_does_not_fit(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]
) -> None:
    app = snapshot_app.app(TooBig)

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_home(pilot, "ModelRow.-too-big")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_the_question_whether_to_load_it_anyway(
    snapshot_app: AppFixture, snap_compare: Snap, size: tuple[int, int]
) -> None:
    app = snapshot_app.app(TooBig)

    async def run(pilot: Pilot[None]) -> None:
        await wait_for_home(pilot, "ModelRow.-too-big")
        await pilot.press("enter")
        await wait_for_screen(pilot, Dialog)

    assert snap_compare(app, terminal_size=size, run_before=run)


async def stream(app_fixture: AppFixture, pilot: Pilot[None]) -> None:
    """A question, and its answer up to the middle of the code, slower and faster by turns."""
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    await open_chat(pilot)
    await send_question(pilot, "What is a KV cache?")
    stop_blinking(pilot)
    for index, token in enumerate(ANSWER[:-2]):
        app_fixture.clock.now_s += 0.125 + 0.0625 * (index // 4 % 3)
        gate.release()
        await wait_until(pilot, partial(answer_ends_with, chat_screen(pilot.app), token))
    chat_screen(pilot.app).transcript.draw()
    chat_screen(pilot.app).show_readings()
