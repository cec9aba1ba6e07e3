"""Text that somebody else wrote: no markup, no escapes, in every widget that shows it."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.widget import Widget

import localllm.tui.app
from localllm.chat.conversation import Attachment, ChatMessage, Conversation, Ending
from localllm.core.hardware import Backend, Cpu, Device, DeviceKind, HardwareInfo, Memory
from localllm.core.recommend import FitPlan
from localllm.engine.messages import Role
from localllm.errors import EngineCrashed, HubError, LoadFailed
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT
from localllm.runtime.runtime import Fit
from localllm.tui import literal
from localllm.tui.downloads import DownloadPreview
from localllm.tui.screens.dialog import Dialog, crash_dialog, failure_dialog, too_big_dialog
from localllm.tui.screens.home.machine import MachinePanel
from localllm.tui.screens.models.download import DownloadScreen
from localllm.tui.widgets.labels import Brand
from localllm.tui.widgets.models import ModelRow, ModelStatus, StatusKind
from localllm.tui.widgets.suggestions import SuggestionRow
from localllm.tui.widgets.transcript.transcript import Transcript
from tests.tui.actions import (
    chat_screen,
    open_chat,
    screen_text,
    send_question,
    wait_for_fit,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fake_hub_source import FakeHubSource, progress
from tests.tui.fake_suggestions import FakeSuggestions, fake_plans
from tests.tui.fixtures import GIB, AppFixture, fake_fit

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
        return screen_text(app)


async def test_the_header() -> None:
    assert HOSTILE in await text_of(Brand(subject=literal.line(RAW)))


async def test_the_machine() -> None:
    panel = MachinePanel()
    text = await text_of(panel, lambda: panel.show(MACHINE))
    assert text.count(HOSTILE) == 3  # the processor, the device, the warning


@pytest.fixture
async def fit(app_fixture: AppFixture) -> Fit:
    """The fit of a model that does not fit, with advice from outside."""
    assert app_fixture.starter is not None
    runtime = app_fixture.app().services.runtime
    real = await runtime.fit(await runtime.plan(app_fixture.starter, CHAT))
    return fake_fit(real, need_bytes=2 * GIB, free_bytes=GIB, advice=RAW)


@pytest.mark.parametrize("kind", StatusKind)
async def test_a_row_of_the_models(kind: StatusKind, fit: Fit) -> None:
    row = ModelRow(MODEL)
    text = await text_of(row, lambda: row.show(ModelStatus(kind=kind, fit=fit, remark=RAW)))
    assert text.count(HOSTILE) == 3  # the name, the quant, the remark


async def test_a_crash() -> None:
    await check_dialog(
        crash_dialog(EngineCrashed(RAW, reason=RAW, log_tail=(f"error {RAW}",) * 2)), 3
    )


async def test_a_model_that_does_not_fit(fit: Fit) -> None:
    await check_dialog(too_big_dialog(MODEL, fit, RAW), 2)


async def test_a_failure() -> None:
    await check_dialog(failure_dialog(RAW, LoadFailed(RAW)), 2)


@pytest.fixture
def hostile_plan(smollm2: Path) -> FitPlan:
    plan = fake_plans(smollm2)[0]
    named = replace(plan.candidate, model=RAW, quant="Q4", file=f"{RAW}:Q4")
    return replace(plan, candidate=named, reasons=(RAW,))


async def test_a_suggestion(hostile_plan: FitPlan) -> None:
    assert (await text_of(SuggestionRow(hostile_plan))).count(HOSTILE) == 1  # the reasons wait


async def test_a_download(app_fixture: AppFixture, hostile_plan: FitPlan) -> None:
    hub_source = FakeHubSource(
        facts=DownloadPreview(host=RAW, directory=Path(RAW), free_bytes=1 << 40, license=RAW),
        reported=(progress(1.0, note=RAW),),
    )
    app_fixture.suggest, app_fixture.source = FakeSuggestions(plans=(hostile_plan,)), hub_source
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await wait_for_fit(pilot)
        await pilot.press("down", "enter")
        await wait_for_screen(pilot, DownloadScreen)
        await wait_for_text(pilot, "Nothing was sent yet.")
        # the title, the reason, from (twice), the disk, the licence, the last line
        assert screen_text(app).count(HOSTILE) == 7
        hub_source.plan_error = HubError(RAW)
        await pilot.press("enter")
        await wait_for_text(pilot, "Try again")
        # and the truth at the top right
        await wait_until(pilot, lambda: screen_text(app).count(HOSTILE) == 8)
        hub_source.plan_error = None
        await pilot.press("enter")
        await wait_for_text(pilot, "1.0 GiB of 8.0 GiB")
        await wait_until(
            pilot, lambda: screen_text(app).count(HOSTILE) == 7
        )  # its note, the truth; the licence is known
        assert "owned" not in screen_text(app)


async def check_dialog(dialog: Dialog, times: int) -> None:
    app = OneWidget(Widget())
    async with app.run_test(size=(100, 40)) as pilot:
        app.push_screen(dialog)
        await pilot.pause()
        assert screen_text(app).count(HOSTILE) == times
        assert "owned" not in screen_text(app)


async def test_a_question_and_the_reason_why_it_broke_off() -> None:
    transcript = Transcript()
    conversation = Conversation()
    for message in (
        ChatMessage(role=Role.USER, text=RAW, attachments=(attachment(RAW),)),
        ChatMessage(role=Role.ASSISTANT, text="", ending=Ending.BROKEN, remark=RAW),
    ):
        conversation = conversation.with_message(message, after=conversation.leaf)
    text = await text_of(transcript, lambda: transcript.show(conversation))
    assert text.count(HOSTILE) == 3
    assert "owned" not in text


def attachment(name: str) -> Attachment:
    return Attachment(name=name, media_type="text/plain", text="x")


async def test_an_answer_streamed_and_finished(app_fixture: AppFixture) -> None:
    app_fixture.script.tokens = (*RAW, "\n\n<think>aloud</think> [click](http://x/y)")
    app = app_fixture.app()
    async with app.run_test(size=(100, 40)) as pilot:
        await open_chat(pilot)
        await send_question(pilot, "hi")
        await wait_until(pilot, lambda: len(chat_screen(app).conversation.path()) == 2)
        await wait_for_text(pilot, HOSTILE)
        assert "<think>aloud</think>" in screen_text(app)  # HTML is text, never dropped
        assert "click (http://x/y)" in screen_text(app)  # and links are shown, never opened
        assert "owned" not in screen_text(app)
