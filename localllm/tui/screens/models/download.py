"""A model that is not on this disk: its facts, whom a download asks, and the download itself.

Nothing is sent before a person presses the button here.
"""

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from localllm.core.units import format_bytes, format_duration
from localllm.tui import literal
from localllm.tui.widgets.labels import Bar

if TYPE_CHECKING:
    from localllm.library.download.progress import Progress

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final

from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button

from localllm.core.model.purpose import why_not_generative
from localllm.core.recommend import FitPlan
from localllm.core.units import format_rate
from localllm.errors import DownloadStopped, LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.tui.downloads import DownloadPreview, repository
from localllm.tui.screens.base import WorkScreen
from localllm.tui.widgets.labels import Fact
from localllm.tui.widgets.suggestions import need_bytes, rate_range

if TYPE_CHECKING:
    from localllm.library.download.progress import Progress
    from localllm.runtime.pull import PullPlan

REFRESHES_PER_S = 10
MUCH_LARGER = 1.05
"""The catalogue computes sizes. A download that turns out this much larger is asked for again."""


class Phase(StrEnum):
    """The phase of a download; the value is the style class too."""

    LOOKING = "looking"  # at this disk, not at the network
    OFFERED = "offered"
    ASKING = "asking"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"


LABELS: Final[Mapping[str, str]] = {
    "download": "Download",
    "resume": "Resume",
    "again": "Try again",
    "run": "Run it",
    "stop": "Stop",
    "import": "Import a file",
    "close": "Close",
}
BUTTONS: Final[Mapping[Phase, tuple[str, ...]]] = {
    Phase.LOOKING: ("close",),
    Phase.OFFERED: ("download", "import", "close"),
    Phase.ASKING: ("stop",),
    Phase.RUNNING: ("stop",),
    Phase.STOPPED: ("resume", "close"),
    Phase.FAILED: ("again", "import", "close"),
    Phase.DONE: ("run", "close"),
}
"""The first one of each is the one that enter takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadResult:
    """The way in which the window was left: with a model that is installed now, to `run` it or not,
    or to import a file instead."""

    model: InstalledModel | None = None
    run: bool = False
    wants_import: bool = False


class DownloadScreen(WorkScreen[DownloadResult], ModalScreen[DownloadResult]):
    """Offer to download the model of a plan, and do it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape",
            "back",
            "Stop or close",
            id="download.back",
            tooltip="Stop the download; what came is kept. Close the window when nothing runs",
        ),
        Binding(
            "left,up",
            "app.focus_previous",
            "Previous choice",
            id="download.previous",
            show=False,
            tooltip="Go to the button before this one",
        ),
        Binding(
            "right,down",
            "app.focus_next",
            "Next choice",
            id="download.next",
            show=False,
            tooltip="Go to the button after this one",
        ),
    ]

    def __init__(self, plan: FitPlan) -> None:
        super().__init__()
        self.phase = Phase.LOOKING
        self._plan = plan
        self._preview: DownloadPreview | None = None
        self._pull_plan: PullPlan | None = None
        self._engine_problem: str | None = None
        self._progress: Progress | None = None
        self._stop = threading.Event()
        self._model: InstalledModel | None = None

    def compose(self) -> ComposeResult:
        candidate = self._plan.candidate
        with Vertical(id="dialog"):
            yield Static(literal.line(f"{candidate.model} {candidate.quant}"), id="dialog-title")
            with VerticalScroll(id="download-text", can_focus=False):
                yield Vertical(id="download-facts")
                yield Static(literal.line(" ".join(self._plan.reasons)), id="download-reasons")
            yield TransferProgress()
            yield Static(Content(), id="download-status")
            with Horizontal(id="dialog-choices"):
                for name, label in LABELS.items():
                    yield Button(label, id=name, compact=True)

    def on_mount(self) -> None:
        self._go(Phase.LOOKING)
        self.look()
        self.set_interval(1 / REFRESHES_PER_S, self.draw)

    def on_unmount(self) -> None:
        self._stop.set()

    # --- what happens ---

    @work(exclusive=True, group="download", exit_on_error=False)
    async def look(self) -> None:
        """Show what is known without the network."""
        try:
            preview = self._preview = await self.services.downloads.preview(self._plan)
        except LocalLLMError as error:
            self._go(Phase.FAILED, str(error))
            return
        architecture = self._plan.spec.architecture
        self._engine_problem = await self.runtime.unsupported_architecture(architecture)
        await self._show_facts()
        if preview.refusal is not None:
            self._go(Phase.FAILED, preview.refusal)
        else:
            self._go(Phase.OFFERED, _before(preview, self._plan.candidate.size_bytes))

    @work(exclusive=True, group="download", exit_on_error=False)
    async def fetch(self, preview: DownloadPreview) -> None:
        """Ask, if nobody was asked yet, and download."""
        stop = self._stop = threading.Event()
        try:
            with self.services.frame.asking(preview.host):
                if self._pull_plan is None and not await self._look_up(preview):
                    return
                assert self._pull_plan is not None
                self._go(Phase.RUNNING)
                pulled = await self.services.downloads.pull(
                    self._pull_plan, on_progress=self._on_progress, stop=stop
                )
        except DownloadStopped:
            self._go(Phase.STOPPED, STOPPED_TEXT)
        except LocalLLMError as error:
            self._go(Phase.FAILED, str(error))
        else:
            self._model = pulled.model
            checked = "The sha256 is that of the Hub. " if pulled.sha256 else ""
            self._go(Phase.DONE, f"{checked}It is installed as {pulled.model.name}.")

    async def _look_up(self, preview: DownloadPreview) -> bool:
        """Ask the Hub which files these are; False: they are much larger than expected, so that
        the person is asked again."""
        self._go(Phase.ASKING, f"Asking {preview.host} for the files of {self._repository}…")
        pull_plan = self._pull_plan = await self.services.downloads.plan_pull(self._plan)
        await self._show_facts()
        expected = self._plan.candidate.size_bytes
        if pull_plan.size_bytes <= expected * MUCH_LARGER:
            return True
        sizes = f"{format_bytes(pull_plan.size_bytes)} and not {format_bytes(expected)}"
        self._go(Phase.OFFERED, f"{preview.host} says that it is {sizes}. Download it?")
        return False

    def _on_progress(self, progress: "Progress") -> None:
        """Store the progress for `draw`: this is called in the thread of the transfer."""
        self._progress = progress

    def draw(self) -> None:
        """Show how far the transfer is, until it is there."""
        transfer = self.query_one(TransferProgress)
        if self._progress is None or self.phase is Phase.DONE:
            transfer.display = False
        else:
            transfer.show(self._progress, running=self.phase is Phase.RUNNING)

    # --- what is shown ---

    def _go(self, phase: Phase, status: str = "") -> None:
        self.phase = phase
        for each in Phase:
            self.set_class(each is phase, f"-{each}")
        line = self.query_one("#download-status", Static)
        line.update(literal.lines(status))
        line.display = bool(status)
        self.draw()
        # A button that is hidden while it has the focus takes it away later, from its successor.
        self.set_focus(None)
        for button in self.query(Button):
            button.display = button.id in self._buttons
        first = self.query_one(f"#{self._buttons[0]}", Button)
        self.set_focus(first)
        self.call_after_refresh(first.scroll_visible, animate=False)

    async def _show_facts(self) -> None:
        facts = self.query_one("#download-facts", Vertical)
        async with facts.batch():
            await facts.remove_children()
            await facts.mount_all(
                Fact(label, value, classes="dialog-fact") for label, value in self._facts()
            )

    def _facts(self) -> Iterator[tuple[str, str]]:
        plan, preview, pull_plan = self._plan, self._preview, self._pull_plan
        assert preview is not None
        yield "from", f"{self._repository} on {preview.host}"
        if pull_plan is None:
            yield "size", f"about {format_bytes(plan.candidate.size_bytes)}"
        else:
            yield "size", _exact_size(pull_plan)
        if preview.free_bytes is not None:
            yield "disk", f"{format_bytes(preview.free_bytes)} free in {preview.directory}"
        context = plan.settings.context
        yield "memory", f"{format_bytes(need_bytes(plan))} with {context} tokens of context"
        likely = format_rate(plan.decode.likely)
        yield "speed", f"{rate_range(plan.decode)} tok/s, likely {likely}"
        if self._engine_problem is not None:
            yield "engine", f"cannot run it: {self._engine_problem}"
        if (named := (pull_plan and pull_plan.repo.license) or preview.license) is not None:
            yield "licence", named
        if pull_plan is not None and pull_plan.repo.gated:
            yield "gated", "its owner wants you to accept terms first, and a token"

    @property
    def _buttons(self) -> tuple[str, ...]:
        """The buttons of this phase; a model that does not answer is not run."""
        buttons = BUTTONS[self.phase]
        if why_not_generative(self._plan.spec) is None:
            return buttons
        return tuple(each for each in buttons if each != "run")

    @property
    def _repository(self) -> str:
        return repository(self._plan.candidate)

    # --- keys ---

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if not self.is_current or event.button.id not in self._buttons:
            return  # a second key while the window closes or the buttons change
        match event.button.id:
            case "download" | "resume" if self._preview is not None:
                self.fetch(self._preview)
            case "again":
                self._try_again()
            case "stop":
                self._give_up()
            case "run":
                self.leave(DownloadResult(model=self._model, run=True))
            case "import":
                self.leave(DownloadResult(wants_import=True))
            case _:
                self.leave(DownloadResult(model=self._model))

    def action_back(self) -> None:
        if self.phase in (Phase.ASKING, Phase.RUNNING):
            self._give_up()
        elif self.is_current:
            self.leave(DownloadResult(model=self._model))

    def _try_again(self) -> None:
        """Look again at what was refused before anybody was asked; else fetch again."""
        if self._preview is None or self._preview.refusal is not None:
            self.look()
        else:
            self.fetch(self._preview)

    def _give_up(self) -> None:
        """Stop. A transfer ends by itself, and says so; a request to the Hub is left to end, and
        its answer is dropped."""
        self._stop.set()
        if self.phase is Phase.ASKING:
            self.workers.cancel_group(self, "download")
            self._go(Phase.STOPPED, "Nothing was downloaded.")
        else:
            self._go(Phase.RUNNING, "Stopping…")


STOPPED_TEXT: Final = "Stopped. What came is kept, and the download goes on from there."


def _before(preview: DownloadPreview, size_bytes: int) -> str:
    if preview.free_bytes is not None and preview.free_bytes < size_bytes:
        return (
            f"There is room for {format_bytes(preview.free_bytes)} only: free"
            f" {format_bytes(size_bytes - preview.free_bytes)} first."
        )
    return f"Nothing was sent yet. A download asks {preview.host} and its servers for the file."


def _exact_size(plan: "PullPlan") -> str:
    size, count = format_bytes(plan.size_bytes), len(plan.all_files)
    return size if count == 1 else f"{size} in {count} files"


class TransferProgress(Vertical):
    """The progress of a download: a bar, the numbers, and a note when it does not just run.

    Hidden until something is known.
    """

    def compose(self) -> ComposeResult:
        yield Bar(id="transfer-bar")
        yield Static(Content(), id="transfer-numbers")
        yield Static(Content(), id="transfer-note")

    def show(self, progress: "Progress", *, running: bool) -> None:
        """Draw the state of a transfer; one that is over has no rate."""
        total = progress.total_bytes
        self.query_one(Bar).fraction = progress.done_bytes / total if total else None
        self.query_one("#transfer-numbers", Static).update(Content(_numbers(progress, running)))
        note = self.query_one("#transfer-note", Static)
        note.update(literal.line(progress.message or ""))
        note.display = running and bool(progress.message)
        self.display = True


def _numbers(progress: "Progress", running: bool) -> str:
    """Write "1.2 GiB of 7.8 GiB · 41.3 MiB/s · 2m 44s left"."""
    parts = [f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}"]
    if running and progress.rate_bytes_per_s is not None:
        parts.append(f"{format_bytes(int(progress.rate_bytes_per_s))}/s")
    if running and progress.remaining_s is not None:
        parts.append(f"{format_duration(progress.remaining_s)} left")
    return " · ".join(parts)
