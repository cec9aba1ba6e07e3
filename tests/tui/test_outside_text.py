"""Text that somebody else wrote: no markup, no escapes, in every widget that shows it."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.widget import Widget
from textual.widgets import Markdown

import localllm.tui.app
from localllm.core.hardware import Backend, Cpu, Device, DeviceKind, HardwareInfo, Memory
from localllm.core.recommend import FitPlan
from localllm.core.sizing.load import LoadSettings
from localllm.errors import EngineCrashed, HubError, LoadFailed
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import Fit
from localllm.tui import literal
from localllm.tui.conversation import Ending, Turn
from localllm.tui.downloads import Offer
from localllm.tui.screens.dialog import Dialog, crash_dialog, failure_dialog, too_big_dialog
from localllm.tui.screens.download import DownloadScreen
from localllm.tui.widgets.labels import Brand
from localllm.tui.widgets.machine import MachinePanel
from localllm.tui.widgets.models import ModelRow, Standing, Verdict
from localllm.tui.widgets.suggestions import SuggestionRow
from localllm.tui.widgets.transcript import TurnView
from tests.tui.acts import ask, chat, open_chat, reaches, sees, shown, until, weighs
from tests.tui.made_up import GIB, Stage, made_up_fit
from tests.tui.made_up_hub import Nursery, progress
from tests.tui.made_up_plans import Orchard, made_up_plans

HOSTILE = "[/INST] [Q4_K_M] [bold]"
ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b2J"
RAW = f"{ESCAPES}{HOSTILE}"

MODEL = InstalledModel(name=RAW, quant=RAW, path=Path("x"), size_bytes=1)
MACHINE = HardwareInfo(
    cpu=Cpu(name=RAW, cores_physical=None, cores_usable=1),
    ram=Memory(total_bytes=1, available_bytes=1),
    devices=(Device(kind=DeviceKind.GPU, name=RAW, backend=Backend.OTHER),),
    warnings=(RAW,),
)


class OneWidget(App[None]):
    """Shows a single widget, with our style."""

    CSS_PATH = inspect.getfile(localllm.tui.app).replace(".py", ".tcss")

    def __init__(self, widget: Widget) -> None:
        super().__init__()
        self._widget = widget

    def compose(self) -> ComposeResult:
        yield self._widget


async def text_of(widget: Widget, act: Callable[[], object] | None = None) -> str:
    app = OneWidget(widget)
    async with app.run_test(size=(100, 40)) as pilot:
        if act is not None and (waiting := act()) is not None:
            assert hasattr(waiting, "__await__")
            await waiting
        await pilot.pause()
        return shown(app)


async def test_the_header() -> None:
    assert HOSTILE in await text_of(Brand(subject=literal.line(RAW)))


async def test_the_machine() -> None:
    panel = MachinePanel()
    text = await text_of(panel, lambda: panel.show(MACHINE))
    assert text.count(HOSTILE) == 3  # the processor, the device, the warning


@pytest.fixture
async def fit(stage: Stage) -> Fit:
    """The verdict on a model that does not fit, with advice from outside."""
    assert stage.starter is not None
    real = await stage.app().runtime.fit(stage.starter, LoadSettings())
    return made_up_fit(real, need_bytes=2 * GIB, free_bytes=GIB, advice=RAW)


@pytest.mark.parametrize("verdict", Verdict)
async def test_a_row_of_the_models(verdict: Verdict, fit: Fit) -> None:
    row = ModelRow(MODEL)
    text = await text_of(row, lambda: row.show(Standing(verdict=verdict, fit=fit, remark=RAW)))
    assert text.count(HOSTILE) == 3  # the name, the quant, the remark


async def test_a_crash() -> None:
    await check_dialog(crash_dialog(EngineCrashed(RAW, reason=RAW, log_tail=(RAW, RAW))), 4)


async def test_a_model_that_does_not_fit(fit: Fit) -> None:
    await check_dialog(too_big_dialog(MODEL, fit, RAW), 2)


async def test_a_failure() -> None:
    await check_dialog(failure_dialog(RAW, LoadFailed(RAW)), 2)


@pytest.fixture
def hostile_plan(smollm2: Path) -> FitPlan:
    plan = made_up_plans(smollm2)[0]
    named = replace(plan.candidate, model=RAW, quant="Q4", file=f"{RAW}:Q4")
    return replace(plan, candidate=named, reasons=(RAW,))


async def test_a_suggestion(hostile_plan: FitPlan) -> None:
    assert (await text_of(SuggestionRow(hostile_plan))).count(HOSTILE) == 1  # the reasons wait


async def test_a_download(stage: Stage, hostile_plan: FitPlan) -> None:
    nursery = Nursery(
        made=Offer(host=RAW, directory=Path(RAW), free_bytes=1 << 40, license=RAW),
        told=(progress(1.0, note=RAW),),
    )
    stage.suggest, stage.source = Orchard(plans=(hostile_plan,)), nursery
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await weighs(pilot)
        await pilot.press("down", "enter")
        await reaches(pilot, DownloadScreen)
        await sees(pilot, "Nothing was sent yet.")
        # the title, the reason, from (twice), the disk, the licence, the last line
        assert shown(app).count(HOSTILE) == 7
        nursery.choose_error = HubError(RAW)
        await pilot.press("enter")
        await sees(pilot, "Try again")
        assert shown(app).count(HOSTILE) == 7
        nursery.choose_error = None
        await pilot.press("enter")
        await sees(pilot, "1.0 GiB of 8.0 GiB")
        await until(pilot, lambda: shown(app).count(HOSTILE) == 6)  # its note; the licence is known
        assert "owned" not in shown(app)


async def check_dialog(dialog: Dialog, times: int) -> None:
    app = OneWidget(Widget())
    async with app.run_test(size=(100, 40)) as pilot:
        app.push_screen(dialog)
        await pilot.pause()
        assert shown(app).count(HOSTILE) == times
        assert "owned" not in shown(app)


async def test_a_question_and_the_reason_why_it_broke_off() -> None:
    view = TurnView(RAW)
    turn = Turn(question=RAW, ending=Ending.BROKEN, answer="", remark=RAW)
    assert (await text_of(view, lambda: view.end(turn))).count(HOSTILE) == 2


async def test_an_answer_streamed_and_finished(stage: Stage) -> None:
    stage.script.tokens = (*RAW, "\n\n<think>aloud</think>")
    app = stage.app()
    async with app.run_test(size=(100, 40)) as pilot:
        await open_chat(pilot)
        await ask(pilot, "hi")
        await until(pilot, lambda: len(chat(app).conversation.turns) == 1)
        await pilot.pause()
        assert HOSTILE in shown(app)
        assert "<think>aloud</think>" in shown(app)  # HTML is text, never dropped
        assert "owned" not in shown(app)
        assert chat(app).query(Markdown).last().source.startswith(HOSTILE)


async def test_an_answer_that_was_cut_says_so() -> None:
    view = TurnView("hi")
    turn = Turn(question="hi", ending=Ending.CUT, answer="as far as it went")
    text = await text_of(view, lambda: view.end(turn))
    assert "as far as it went" in text
    assert "the context is full" in text


PIECES = (
    *("# ", "## ", "- ", "1. ", "> ", "```", "```py\n", "|a|b|\n|-|-|\n", "|", "**", "*", "_"),
    *("[", "](", ")", "![", "<", "</a>", "http://x", "[/INST]", "[bold]", "\\", "\n", "    "),
    *("$", "&amp;", "&#0;", "\x1b[", "日", "👩\u200d💻", "---\n", "[x]: y\n", "'", '"', "~~", "a"),
    *("`", "[a](b", "<think>", "https://[", "![x](y)", "- [ ] ", "\t"),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
async def test_no_markdown_brings_the_app_down(pieces: list[str]) -> None:
    view = TurnView("hi")
    app = OneWidget(view)
    async with app.run_test() as pilot:
        for piece in pieces:
            await view.write(piece)
        await view.end(Turn(question="hi", ending=Ending.COMPLETE, answer="".join(pieces)))
        await pilot.pause()
        assert app.is_running
