"""The place of the measurements: how fast each model is here, beside what was predicted."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from localllm.core.hardware import HardwareInfo
from localllm.core.speed import Estimate
from localllm.core.speed.measured import MeasuredMachine
from localllm.core.text import single_line
from localllm.core.units import format_bandwidth
from localllm.engine.messages import LoadProgress
from localllm.errors import LocalLLMError
from localllm.library.files import atomic_write, measurements, paths
from localllm.library.store.installed import InstalledModel
from localllm.runtime.benchmark.measure import BenchPlan, measure
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.runtime import ResidentModel, Runtime
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.figures import bar
from localllm.tui.places import BENCH
from localllm.tui.screens.ask_text import AskText
from localllm.tui.screens.base import PlaceScreen
from localllm.tui.screens.bench.card import CardMachine, card_svg
from localllm.tui.screens.bench.rows import (
    BenchRow,
    as_json,
    bench_rows,
    fastest,
    head_line,
    reading_line,
    row_lines,
)
from localllm.tui.screens.dialog import failure_dialog
from localllm.tui.widgets.tables.row_list import RowChosen, RowList

PLAN = BenchPlan(prompt_tokens=512, gen_tokens=128, parallel=(1,), repetitions=3)
"""As `localllm bench` measures one conversation."""
_CARD_FILE = "localllm-bench.svg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the table is made of: this machine, and what is predicted for it by model."""

    hardware: HardwareInfo
    machine: MeasuredMachine
    memory_bytes_per_s: float
    predicted: dict[str, Estimate]


class BenchScreen(PlaceScreen):
    """The measured models as bars; measures one or all."""

    place = BENCH
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "measure",
            N_("Measure"),
            id="bench.measure",
            tooltip=N_("Measure the model under the cursor; what is loaded is unloaded first"),
        ),
        Binding(
            "a",
            "measure_all",
            N_("All"),
            id="bench.all",
            tooltip=N_("Measure every installed model, one after the other"),
        ),
        Binding(
            "s",
            "save_card",
            N_("Card"),
            id="bench.card",
            tooltip=N_("Save this table as a picture (SVG), to show to others"),
        ),
        Binding(
            "j",
            "copy_json",
            N_("Copy JSON"),
            id="bench.json",
            tooltip=N_("Copy what was measured as JSON to the terminal's clipboard"),
        ),
        Binding(
            "backspace,delete",
            "forget",
            N_("Forget"),
            id="bench.forget",
            tooltip=N_("Forget what was measured of the model under the cursor"),
        ),
        Binding(
            "escape",
            "cancel",
            N_("Stop"),
            id="bench.cancel",
            tooltip=N_("Stop measuring; what was finished stays"),
            show=False,
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._known: Known | None = None
        self._rows: tuple[BenchRow, ...] = ()
        self._top = 0.0

    def compose_place(self) -> ComposeResult:
        with Vertical(id="bench"):
            yield Static(Content(_("reading what is known of this machine…")), id="bench-machine")
            yield Static(id="bench-head")
            with VerticalScroll(id="bench-scroll", can_focus=False):
                yield RowList(
                    lambda row, width: row_lines(row, width, top=self._top),
                    key=lambda row: (row.name, row.quant, row.size_bytes),
                    empty=_("No model is installed: there is nothing to measure."),
                    id="bench-rows",
                )
                yield Static(id="bench-reading")
            yield Static(id="bench-run")

    @property
    def rows(self) -> RowList[BenchRow]:
        return self.query_one("#bench-rows", RowList)

    def on_mount(self) -> None:
        self.rows.focus()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.read()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    @work(exclusive=True, group="read", exit_on_error=False)
    async def read(self) -> None:
        """Read what was measured, and predict what was not asked for yet."""
        try:
            hardware = await self.runtime.hardware()
            installed = self.runtime.installed()
            known, rows = await asyncio.to_thread(_look, hardware, installed)
        except LocalLLMError as error:
            self.open(failure_dialog(_("This cannot be read"), error))
            return
        self._known, self._rows = known, rows
        self._top = fastest(rows)
        self._draw()

    def _draw(self) -> None:
        width = self.rows.size.width
        self.query_one("#bench-head", Static).update(head_line(width))
        self.rows.show(self._rows)
        self.rows.refresh()
        reading = reading_line(width, self._top) if self._rows and self._top else Content()
        self.query_one("#bench-reading", Static).update(reading)
        if (known := self._known) is not None:
            cpu = known.hardware.cpu
            facts = [_("This machine, measured"), single_line(cpu.name)]
            facts.append(_("{count} cores").format(count=cpu.threads))
            rate = format_bandwidth(known.memory_bytes_per_s)
            facts.append(_("{rate} from memory").format(rate=rate))
            self.query_one("#bench-machine", Static).update(Content(" · ".join(facts)))

    # --- measuring ---

    @on(RowChosen, "#bench-rows")
    def action_measure(self) -> None:
        row = self.rows.current
        if row is not None and row.installed is not None:
            self.run_measurements((row.installed,))

    def action_measure_all(self) -> None:
        models = tuple(row.installed for row in self._rows if row.installed is not None)
        if models:
            self.run_measurements(models)

    def run_measurements(self, models: Sequence[InstalledModel]) -> None:
        """Measure models one after the other, unless something is measured already."""
        if any(each.group == "measure" and each.is_running for each in self.workers):
            self.show_status(_("Something is measured already; escape stops it."))
            return
        self.measure_models(models)

    @work(group="measure", exit_on_error=False)
    async def measure_models(self, models: Sequence[InstalledModel]) -> None:
        """Measure, and keep each result as soon as it is there."""
        frame = self.services.frame
        for number, model in enumerate(models, start=1):
            of = "" if len(models) == 1 else f" ({number}/{len(models)})"
            label = f"{single_line(model.name)}{of}"
            frame.set_activity("bench", _("measuring {model}").format(model=label))
            self._show_progress(
                _("{model}: waiting until nothing else is answered").format(model=label)
            )
            try:
                watch = ScreenWatch(label, self._show_progress)
                async with self.services.pool.alone(model.name):
                    measured = await measure(self.runtime, model, PLAN, force=False, watch=watch)
                store = paths.measurements_file(paths.data_dir())
                await asyncio.to_thread(measurements.add, store, *measured.results)
                self._show_progress(_("{model}: measured").format(model=label))
            except LocalLLMError as error:
                self._show_progress(f"{label}: {single_line(str(error))}")
            finally:
                frame.set_activity("bench", "")
            self.read()

    def action_cancel(self) -> None:
        running = [each for each in self.workers if each.group == "measure" and each.is_running]
        for worker in running:
            worker.cancel()
        if running:
            self._show_progress(_("Stopped: what was not finished is not kept."))

    def _show_progress(self, text: str) -> None:
        if self.is_attached:
            self.query_one("#bench-run", Static).update(literal.line(text))

    # --- what is done with the results ---

    def action_copy_json(self) -> None:
        if self._known is None:
            return
        self.app.copy_to_clipboard(as_json(self._rows, self._known.machine))
        self.show_status(_("What was measured was copied as JSON."))

    @work(group="card", exit_on_error=False)
    async def action_save_card(self) -> None:
        known = self._known
        if known is None or not any(row.decode for row in self._rows):
            self.show_status(_("Nothing was measured yet: enter measures a model."))
            return
        place = await self.ask(
            AskText(
                title=_("Save the card"),
                message=_(
                    "A picture (SVG) of this table: machine, models, tokens per second, memory and"
                    " date. Nothing personal is in it. Where to?"
                ),
                value=str(Path.home() / _CARD_FILE),
                check=_path_problem,
            )
        )
        if place is None:
            return
        svg = card_svg(self._rows, _card_machine(known), date=f"{datetime.now(UTC):%Y-%m-%d}")
        path = paths.absolute(Path(place))
        try:
            await asyncio.to_thread(atomic_write.write_atomically, path, svg.encode())
        except OSError as error:
            reason = error.strerror or str(error)
            self.show_status(_("It could not be saved: {reason}").format(reason=reason))
        else:
            self.show_status(_("Saved as {path}").format(path=path))

    @work(group="forget", exit_on_error=False)
    async def action_forget(self) -> None:
        row = self.rows.current
        if row is None or (model := row.model) is None:
            return
        store = paths.measurements_file(paths.data_dir())
        try:
            await asyncio.to_thread(measurements.forget, store, model)
        except LocalLLMError as error:
            self.open(failure_dialog(_("It could not be forgotten"), error))
        self.read()


class ScreenWatch:
    """Shows a measurement as one line: what runs, how far it is."""

    def __init__(self, label: str, show: Callable[[str], None]) -> None:
        self._label = label
        self._show_progress = show

    async def load(self, runtime: Runtime, plan: LoadPlan, *, force: bool) -> ResidentModel:
        """Load, and show how far it is."""
        async with aclosing(runtime.load(plan, force=force)) as events:
            async for event in events:
                if not isinstance(event, LoadProgress):
                    return event
                drawn = bar(event.fraction, 12)
                self._show_progress(
                    _("{model}: loading {bar}").format(model=self._label, bar=drawn)
                )
        raise AssertionError("a load ends with its resident model")

    @contextmanager
    def test(self, label: str, runs: int) -> Iterator[Callable[[], None]]:
        """Say which test runs, and how many of its runs are done."""
        done = 0
        name = _("reading a prompt") if label.startswith("pp") else _("writing")

        def show() -> None:
            text = _("{model}: {test}, {done} of {runs}   {bar}")
            drawn = bar(done / runs, 16)
            self._show_progress(
                text.format(model=self._label, test=name, done=done, runs=runs, bar=drawn)
            )

        def ran() -> None:
            nonlocal done
            done = min(done + 1, runs)
            show()

        show()
        yield ran

    def warn(self, text: str) -> None:
        """Say what is not as it should be."""
        self._show_progress(f"{self._label}: {text}")


def _look(
    hardware: HardwareInfo, installed: Sequence[InstalledModel]
) -> tuple[Known, tuple[BenchRow, ...]]:
    """Read the measurements, and predict the rates of the installed models. Blocks."""
    from localllm.core.recommend.evaluation import predict
    from localllm.library.store.header_cache import cached_spec
    from localllm.runtime.local_machine import machine_of, measured_machine

    machine, here = machine_of(hardware), measured_machine(hardware)
    predicted: dict[str, Estimate] = {}
    able = []
    for model in installed:
        if model.missing:
            continue
        try:
            spec = cached_spec(model)
            predicted[model.name] = predict(spec, machine, tokens=PLAN.gen_tokens)[0]
        except (LocalLLMError, ValueError):
            pass  # its row has no prediction; the models place says what is wrong with the file
        able.append(model)
    stored = measurements.load(paths.measurements_file(paths.data_dir()))
    known = Known(
        hardware=hardware,
        machine=here,
        memory_bytes_per_s=machine.host.bandwidth_bytes_per_s,
        predicted=predicted,
    )
    return known, bench_rows(able, stored, here, predicted)


def _card_machine(known: Known) -> CardMachine:
    engine = known.machine
    version = " ".join(filter(None, ("llama.cpp", engine.engine_version, engine.engine_commit)))
    return CardMachine(
        processor=known.hardware.cpu.name,
        cores=known.hardware.cpu.threads,
        memory_bytes=known.hardware.ram.total_bytes,
        devices=engine.devices,
        engine=version,
    )


def _path_problem(text: str) -> str | None:
    """Say why nothing can be saved there; None when it can be tried."""
    if not text:
        return _("Write a path first.")
    path = paths.absolute(Path(text))
    if path.exists():
        return _("There is a file of this name already.")
    if not path.parent.is_dir():
        return _("There is no folder {folder}.").format(folder=path.parent)
    return None
