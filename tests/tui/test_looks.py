"""What the screens look like, at the two sizes they are made for.

After a change that is meant: `pytest tests/tui/test_looks.py --snapshot-update`, then look at the
SVG files. The machine, the clock and the verdicts are made up, so that nothing here depends on
where it runs.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, ProgressBar

from localllm.core.sizing.load import LoadSettings
from localllm.errors import HubError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import Fit, Runtime
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.download import DownloadScreen
from localllm.tui.screens.import_file import ImportScreen
from localllm.tui.screens.loading import LoadScreen
from localllm.tui.widgets.meter import MeterPanel
from localllm.tui.widgets.prompt import Prompt
from localllm.tui.widgets.suggestions import SuggestionRow
from tests.tui.acts import ask, chat, holds, open_chat, reaches, sees, until, wrote
from tests.tui.made_up import GIB, MIB, Stage, made_up_fit
from tests.tui.made_up_hub import Nursery, progress
from tests.tui.made_up_plans import MODELS, Orchard, made_up_plans

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
        run_before: Callable[[Pilot[None]], object],
    ) -> bool: ...


class MadeUpVerdicts(Runtime):
    """The real runtime, but for the numbers of a fit: those depend on formulas that improve."""

    need_bytes = 249 * MIB

    async def fit(self, model: InstalledModel, settings: LoadSettings) -> Fit:
        advice = "Try --ctx 2048 (9.4 GiB)." if self.need_bytes > 10 * GIB else None
        real = await super().fit(model, settings)
        return made_up_fit(real, need_bytes=self.need_bytes, free_bytes=10 * GIB, advice=advice)


class TooBig(MadeUpVerdicts):
    need_bytes = 12 * GIB


@pytest.fixture
def looks(stage: Stage, smollm2: Path) -> Stage:
    stage.warnings = ("A GPU is here that this build of llama.cpp cannot use: see the README.",)
    stage.script.tokens = ANSWER
    stage.suggest = Orchard(plans=made_up_plans(smollm2))
    return stage


async def all_there(pilot: Pilot[None], row: str) -> None:
    """What is computed behind the first screen has come, such a row of the models too."""
    screen = pilot.app.screen
    await holds(pilot, row)
    await until(pilot, lambda: bool(screen.query("MachinePanel .warning")))
    await until(pilot, lambda: len(screen.query(SuggestionRow)) == len(MODELS))


def still(pilot: Pilot[None]) -> None:
    """No cursor that blinks."""
    for prompt in pilot.app.screen.query(Prompt):
        prompt.cursor_blink = False


@in_every_theme
@at_both_sizes
def test_home(looks: Stage, snap_compare: Snap, size: tuple[int, int], theme: str) -> None:
    app = looks.app(MadeUpVerdicts)
    app.theme = theme

    async def run(pilot: Pilot[None]) -> None:
        await all_there(pilot, "ModelRow.-fits")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_suggestion_under_the_cursor(
    looks: Stage, snap_compare: Snap, size: tuple[int, int]
) -> None:
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await all_there(pilot, "ModelRow.-fits")
        await pilot.press("down", "down")

    assert snap_compare(app, terminal_size=size, run_before=run)


@pytest.fixture
def nursery(looks: Stage) -> Nursery:
    """A Hub that gives the starter model, as one that was there already."""
    assert looks.starter is not None
    looks.source = nursery = Nursery(install=partial(replace, looks.starter, name="quince-30b"))
    return nursery


async def offered(pilot: Pilot[None]) -> None:
    await all_there(pilot, "ModelRow.-fits")
    await pilot.press("down", "enter")
    await reaches(pilot, DownloadScreen)
    await holds(pilot, ".-offered #download:focus")


@in_every_theme
@at_both_sizes
def test_a_download_that_is_offered(
    looks: Stage, nursery: Nursery, snap_compare: Snap, size: tuple[int, int], theme: str
) -> None:
    app = looks.app(MadeUpVerdicts)
    app.theme = theme
    assert snap_compare(app, terminal_size=size, run_before=offered)


@in_every_theme
@at_both_sizes
def test_a_download_that_runs(
    looks: Stage, nursery: Nursery, snap_compare: Snap, size: tuple[int, int], theme: str
) -> None:
    nursery.told = (progress(3.1, of_gib=7.8, note="resumed at 3.0 GiB"),)
    app = looks.app(MadeUpVerdicts)
    app.theme = theme

    async def run(pilot: Pilot[None]) -> None:
        await offered(pilot)
        await pilot.press("enter")
        await sees(pilot, "resumed at 3.0 GiB")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_download_that_was_stopped(
    looks: Stage, nursery: Nursery, snap_compare: Snap, size: tuple[int, int]
) -> None:
    nursery.told = (progress(3.1, of_gib=7.8),)
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await offered(pilot)
        await pilot.press("enter")
        await sees(pilot, "3.1 GiB of 7.8 GiB")
        await pilot.press("escape")
        await holds(pilot, ".-stopped #resume:focus")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_download_that_fails(
    looks: Stage, nursery: Nursery, snap_compare: Snap, size: tuple[int, int]
) -> None:
    nursery.choose_error = HubError(
        "hub.example cannot be reached: no connection within 10 s. Nothing was lost; try again"
        " when you are online, or import a file that is on this disk."
    )
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await offered(pilot)
        await pilot.press("enter")
        await holds(pilot, ".-failed #again:focus")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_download_that_is_done(
    looks: Stage, nursery: Nursery, snap_compare: Snap, size: tuple[int, int]
) -> None:
    nursery.gate.set()
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await offered(pilot)
        await pilot.press("enter")
        await holds(pilot, ".-done #run:focus")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_an_import_that_fails(looks: Stage, snap_compare: Snap, size: tuple[int, int]) -> None:
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await all_there(pilot, "ModelRow.-fits")
        await pilot.press("i")
        await reaches(pilot, ImportScreen)
        field = app.screen.query_one(Input)
        field.cursor_blink = False
        field.value = "/made/up/quince.gguf"
        await pilot.press("enter")
        await holds(pilot, "#import-remark.-failed")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_home_without_a_model(looks: Stage, snap_compare: Snap, size: tuple[int, int]) -> None:
    looks.starter = None
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await all_there(pilot, "#no-models")
        await until(pilot, lambda: app.screen.query_one("#no-models").display)

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_loading(looks: Stage, snap_compare: Snap, size: tuple[int, int]) -> None:
    gate = looks.script.load_gate = asyncio.Semaphore(3)
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await holds(pilot, "ModelRow.-fits")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, LoadScreen) and gate.locked())
        await until(pilot, lambda: app.screen.query_one(ProgressBar).progress == 0.5)

    assert snap_compare(app, terminal_size=size, run_before=run)


@in_every_theme
@at_both_sizes
def test_chat_streaming(
    looks: Stage, snap_compare: Snap, size: tuple[int, int], theme: str
) -> None:
    app = looks.app(MadeUpVerdicts)
    app.theme = theme

    async def run(pilot: Pilot[None]) -> None:
        await stream(looks, pilot)

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_crash(looks: Stage, snap_compare: Snap, size: tuple[int, int]) -> None:
    app = looks.app(MadeUpVerdicts)

    async def run(pilot: Pilot[None]) -> None:
        await stream(looks, pilot)
        looks.engine.kill()
        await reaches(pilot, Dialog)

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_a_model_that_does_not_fit(looks: Stage, snap_compare: Snap, size: tuple[int, int]) -> None:
    app = looks.app(TooBig)

    async def run(pilot: Pilot[None]) -> None:
        await all_there(pilot, "ModelRow.-too-big")

    assert snap_compare(app, terminal_size=size, run_before=run)


@at_both_sizes
def test_the_question_whether_to_load_it_anyway(
    looks: Stage, snap_compare: Snap, size: tuple[int, int]
) -> None:
    app = looks.app(TooBig)

    async def run(pilot: Pilot[None]) -> None:
        await all_there(pilot, "ModelRow.-too-big")
        await pilot.press("enter")
        await reaches(pilot, Dialog)

    assert snap_compare(app, terminal_size=size, run_before=run)


async def stream(stage: Stage, pilot: Pilot[None]) -> None:
    """A question, and its answer up to the middle of the code, slower and faster by turns."""
    gate = stage.script.gate = asyncio.Semaphore(0)
    await open_chat(pilot)
    await ask(pilot, "What is a KV cache?")
    still(pilot)
    for index, token in enumerate(ANSWER[:-2]):
        stage.clock.now_s += 0.125 + 0.0625 * (index // 4 % 3)
        gate.release()
        await until(pilot, partial(wrote, chat(pilot.app), token))
    chat(pilot.app).query_one(MeterPanel).draw()
