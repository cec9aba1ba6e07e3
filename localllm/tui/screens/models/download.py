"""A model that is not on this disk: its facts, whom a download asks, and the download as it runs.

Nothing is sent before a person presses the button here. The download itself is the queue's
(`tui/downloads`): this window can be left while it runs, and shows it again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from localllm.core.model.purpose import why_not_generative
from localllm.core.recommend import FitPlan
from localllm.core.speed import Estimate
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.downloads import (
    Download,
    DownloadPreview,
    DownloadRequest,
    Downloads,
    DownloadState,
    request_of,
)
from localllm.tui.figures import rate_range
from localllm.tui.screens.base import WorkScreen
from localllm.tui.widgets.labels import Bar, Fact
from localllm.tui.widgets.suggestions import need_bytes

if TYPE_CHECKING:
    from localllm.library.download.progress import Progress
    from localllm.runtime.pull import PullPlan

REFRESHES_PER_S = 4


class Phase(StrEnum):
    """The phase of a download; the value is the style class too."""

    LOOKING = "looking"  # at this disk, not at the network
    OFFERED = "offered"
    WAITING = "waiting"
    ASKING = "asking"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"


LABELS: Final[Mapping[str, str]] = {
    "download": N_("Download"),
    "resume": N_("Resume"),
    "again": N_("Try again"),
    "run": N_("Run it"),
    "background": N_("In the background"),
    "stop": N_("Stop"),
    "import": N_("Import a file"),
    "close": N_("Close"),
}
BUTTONS: Final[Mapping[Phase, tuple[str, ...]]] = {
    Phase.LOOKING: ("close",),
    Phase.OFFERED: ("download", "import", "close"),
    Phase.WAITING: ("background", "stop"),
    Phase.ASKING: ("background", "stop"),
    Phase.RUNNING: ("background", "stop"),
    Phase.STOPPED: ("resume", "close"),
    Phase.FAILED: ("again", "import", "close"),
    Phase.DONE: ("run", "close"),
}
"""The first one of each is the one that enter takes."""

_PHASES: Final[Mapping[DownloadState, Phase]] = {
    DownloadState.WAITING: Phase.WAITING,
    DownloadState.ASKING: Phase.ASKING,
    DownloadState.RUNNING: Phase.RUNNING,
    DownloadState.PAUSED: Phase.STOPPED,
    DownloadState.FAILED: Phase.FAILED,
    DownloadState.DONE: Phase.DONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOffer:
    """What is known of a download without asking anybody. `decode` in tokens/s."""

    title: str
    request: DownloadRequest
    architecture: str | None
    need_bytes: int | None = None
    context: int | None = None
    decode: Estimate | None = None
    reasons: tuple[str, ...] = ()
    generates: bool = True


def offer_of(plan: FitPlan) -> DownloadOffer:
    """Make the offer of a plan that was suggested."""
    candidate = plan.candidate
    return DownloadOffer(
        title=f"{candidate.model} {candidate.quant}",
        request=request_of(candidate),
        architecture=plan.spec.architecture,
        need_bytes=need_bytes(plan),
        context=plan.settings.context,
        decode=plan.decode,
        reasons=plan.reasons,
        generates=why_not_generative(plan.spec) is None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadResult:
    """The way in which the window was left: with a model that is installed now, to `run` it or not,
    with a download that goes on in the `background`, or to import a file instead."""

    model: InstalledModel | None = None
    run: bool = False
    background: Download | None = None
    wants_import: bool = False


class DownloadScreen(WorkScreen[DownloadResult], ModalScreen[DownloadResult]):
    """Offer to download a model, and show the download."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "escape",
            "back",
            N_("Close"),
            id="download.back",
            tooltip=N_("Close the window. A download that runs goes on in the background"),
        ),
        Binding(
            "left,up",
            "app.focus_previous",
            N_("Previous choice"),
            id="download.previous",
            show=False,
            tooltip=N_("Go to the button before this one"),
        ),
        Binding(
            "right,down",
            "app.focus_next",
            N_("Next choice"),
            id="download.next",
            show=False,
            tooltip=N_("Go to the button after this one"),
        ),
    ]

    def __init__(self, offered: FitPlan | DownloadOffer) -> None:
        super().__init__()
        self.phase = Phase.LOOKING
        self._offer = offer_of(offered) if isinstance(offered, FitPlan) else offered
        self._preview: DownloadPreview | None = None
        self._number: int | None = None
        self._engine_problem: str | None = None
        self._planned: PullPlan | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(literal.line(self._offer.title), id="dialog-title")
            with VerticalScroll(id="download-text", can_focus=False):
                yield Vertical(id="download-facts")
                yield Static(literal.line(" ".join(self._offer.reasons)), id="download-reasons")
            yield TransferProgress()
            yield Static(Content(), id="download-status")
            with Horizontal(id="dialog-choices"):
                for name, label in LABELS.items():
                    yield Button(Content(_(label)), id=name, compact=True)

    def on_mount(self) -> None:
        self._go(Phase.LOOKING)
        self.look()
        self._downloads.listen(self._follow)
        self.set_interval(1 / REFRESHES_PER_S, self.draw)

    def on_unmount(self) -> None:
        self._downloads.unlisten(self._follow)

    # --- what happens ---

    @property
    def _downloads(self) -> Downloads:
        return self.services.downloads

    @property
    def _item(self) -> Download | None:
        return None if self._number is None else self._downloads.find(self._number)

    @work(exclusive=True, group="download", exit_on_error=False)
    async def look(self) -> None:
        """Show what is known without the network."""
        try:
            preview = self._preview = await self._downloads.preview(self._offer.request)
        except LocalLLMError as error:
            self._go(Phase.FAILED, str(error))
            return
        if self._offer.architecture is not None:
            architecture = self._offer.architecture
            problems = await self.runtime.unsupported_architectures((architecture,))
            self._engine_problem = problems.get(architecture)
        await self._show_facts()
        there = [
            each
            for each in self._downloads.items
            if each.request.same_file(self._offer.request)
            and each.state not in (DownloadState.DONE, DownloadState.PAUSED)
        ]
        if there:  # it is on its way already
            self._number = there[0].number
            self._follow()
        elif preview.refusal is not None:
            self._go(Phase.FAILED, preview.refusal)
        else:
            contacted = bool(self.frame.frame_state.truth.contacted)
            self._go(
                Phase.OFFERED, _before(preview, self._offer.request.size_bytes, contacted=contacted)
            )

    def _begin(self) -> None:
        self._number = self._downloads.add(self._offer.request).number
        self._follow()

    def _follow(self) -> None:
        """Show the state of the download."""
        item = self._item
        if item is None:
            return
        if item.plan is not None and item.plan is not self._planned:
            self._planned = item.plan
            self.show_exact_facts()
        phase = _PHASES[item.state]
        status = self._status(item)
        if phase is not self.phase or status:
            self._go(phase, status)

    @work(exclusive=True, group="facts", exit_on_error=False)
    async def show_exact_facts(self) -> None:
        await self._show_facts()

    def _status(self, item: Download) -> str:
        match item.state:
            case DownloadState.WAITING:
                return _("It waits for the downloads before it.")
            case DownloadState.ASKING:
                host = self._preview.host if self._preview is not None else ""
                return _("Asking {host} for the files of {repository}…").format(
                    host=host, repository=item.request.repository
                )
            case DownloadState.RUNNING:
                return _("Stopping…") if item.stopping else ""
            case DownloadState.PAUSED if item.problem is not None:
                return item.problem.line
            case DownloadState.PAUSED if item.plan is None:
                return _("Nothing was downloaded.")
            case DownloadState.PAUSED:
                return _("Stopped. What came is kept, and the download goes on from there.")
            case DownloadState.FAILED if item.problem is not None:
                return "\n".join(filter(None, (item.problem.line, item.problem.detail)))
            case DownloadState.DONE if item.model is not None:
                checked = _("The sha256 is that of the Hub.") + " " if item.checked else ""
                installed = _("It is installed as {name}.").format(name=item.model.name)
                return f"{checked}{installed}"
        return ""

    def draw(self) -> None:
        """Show how far the transfer is, until it is there."""
        transfer = self.query_one(TransferProgress)
        item = self._item
        if item is None or item.progress is None or self.phase is Phase.DONE:
            transfer.display = False
        else:
            transfer.show(item.progress, running=self.phase is Phase.RUNNING)

    # --- what is shown ---

    def _go(self, phase: Phase, status: str = "") -> None:
        self.phase = phase
        for each in Phase:
            self.set_class(each is phase, f"-{each}")
        line = self.query_one("#download-status", Static)
        line.update(literal.lines(status))
        line.display = bool(status)
        self.draw()
        shown = {button.id for button in self.query(Button) if button.display}
        if shown == set(self._buttons) and self.focused is not None:
            return
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
        offer, preview, item = self._offer, self._preview, self._item
        plan = item.plan if item is not None else None
        if preview is None:
            return
        yield (
            _("from"),
            _("{repository} on {host}").format(
                repository=offer.request.repository, host=preview.host
            ),
        )
        if plan is None:
            about = _("about {size}").format(size=format_bytes(offer.request.size_bytes))
            yield _("size"), _("{size}, checked by its sha256").format(size=about)
        else:
            yield _("size"), _exact_size(plan)
        if preview.free_bytes is not None:
            yield (
                _("disk"),
                _("{size} free in {folder}").format(
                    size=format_bytes(preview.free_bytes), folder=preview.directory
                ),
            )
        if offer.need_bytes is not None and offer.context is not None:
            yield (
                _("memory"),
                _("{size} with {context} tokens of context").format(
                    size=format_bytes(offer.need_bytes), context=offer.context
                ),
            )
        if offer.decode is not None:
            yield (
                _("speed"),
                _("{range} tok/s, likely {likely}").format(
                    range=rate_range(offer.decode), likely=format_rate(offer.decode.likely)
                ),
            )
        if self._engine_problem is not None:
            yield _("engine"), _("cannot run it: {why}").format(why=self._engine_problem)
        if (named := (plan and plan.repo.license) or preview.license) is not None:
            yield _("licence"), named
        if plan is not None and plan.repo.gated:
            yield _("gated"), _("its owner wants you to accept terms first, and a token")

    @property
    def _buttons(self) -> tuple[str, ...]:
        """The buttons of this phase; a model that does not answer is not run."""
        buttons = BUTTONS[self.phase]
        if self._offer.generates:
            return buttons
        return tuple(each for each in buttons if each != "run")

    # --- keys ---

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if not self.is_current or event.button.id not in self._buttons:
            return  # a second key while the window closes or the buttons change
        item = self._item
        match event.button.id:
            case "download":
                self._begin()
            case "resume" if item is not None:
                self._downloads.resume(item.number)
            case "again" if item is not None:
                self._downloads.resume(item.number)
            case "again":
                self.look()
            case "stop" if item is not None:
                self._downloads.pause(item.number)
            case "run":
                model = item.model if item is not None else None
                self.leave(DownloadResult(model=model, run=True))
            case "import":
                self.leave(DownloadResult(wants_import=True))
            case _:
                self.action_back()

    def action_back(self) -> None:
        if self.is_current:
            item = self._item
            running = item is not None and item.state is not DownloadState.DONE
            self.leave(
                DownloadResult(
                    model=item.model if item is not None else None,
                    background=item if running else None,
                )
            )


def _before(preview: DownloadPreview, size_bytes: int, *, contacted: bool) -> str:
    if preview.free_bytes is not None and preview.free_bytes < size_bytes:
        return _("There is room for {free} only: free {missing} first.").format(
            free=format_bytes(preview.free_bytes),
            missing=format_bytes(size_bytes - preview.free_bytes),
        )
    if contacted:  # something was sent, but not for this
        return _(
            "Nothing was sent for this file yet. A download asks {host} and its servers for it; you"
            " can chat meanwhile."
        ).format(host=preview.host)
    return _(
        "Nothing was sent yet. A download asks {host} and its servers for the file; you can chat"
        " meanwhile."
    ).format(host=preview.host)


def _exact_size(plan: "PullPlan") -> str:
    size, count = format_bytes(plan.size_bytes), len(plan.all_files)
    return size if count == 1 else _("{size} in {count} files").format(size=size, count=count)


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
        self.query_one("#transfer-numbers", Static).update(
            Content(progress_numbers(progress, running=running))
        )
        note = self.query_one("#transfer-note", Static)
        note.update(literal.line(progress.message or ""))
        note.display = running and bool(progress.message)
        self.display = True


def progress_numbers(progress: "Progress", *, running: bool) -> str:
    """Write "1.2 GiB of 7.8 GiB · 41.3 MiB/s · 2m 44s left"."""
    parts = [
        _("{done} of {total}").format(
            done=format_bytes(progress.done_bytes), total=format_bytes(progress.total_bytes)
        )
    ]
    if running and progress.rate_bytes_per_s is not None:
        parts.append(f"{format_bytes(int(progress.rate_bytes_per_s))}/s")
    if running and progress.remaining_s is not None:
        parts.append(_("{time} left").format(time=format_duration(progress.remaining_s)))
    return " · ".join(parts)
