"""Models that other programs have on this disk: looked for first, used where they are when told."""

from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.library.scan.sweep import ScanResult, ScanStatus
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen

_RUNNERS = "Hugging Face, LM Studio, Ollama, llama.cpp"


def result_line(result: ScanResult) -> str:
    """Write what was found at one place."""
    runner = result.place.runner
    if result.model is None:
        return f"  ○ {runner}: {single_line(result.path.name)}: {single_line(result.reason or '')}"
    sign = "●" if result.status is ScanStatus.ADOPTED else "✓"
    size = format_bytes(result.model.size_bytes)
    known = "" if result.status is ScanStatus.ADOPTED else " · " + _("is in the list already")
    name = single_line(result.model.name)
    return f"  {sign} {name} {result.model.quant or ''} · {size} · {runner}{known}"


def scan_summary(results: Sequence[ScanResult]) -> str:
    """Say how much of what was found is new."""
    new = [each.model for each in results if each.status is ScanStatus.ADOPTED and each.model]
    if not results:
        return _("None of {programs} has a model here.").format(programs=_RUNNERS)
    if not new:
        return _("Everything that can be used is in the list already.")
    size = format_bytes(sum(model.size_bytes for model in new))
    return ngettext(
        "{count} model with {size} can be used where it is: nothing is copied.",
        "{count} models with {size} can be used where they are: nothing is copied.",
        len(new),
    ).format(count=len(new), size=size)


class ScanScreen(WorkScreen[bool], ModalScreen[bool]):
    """Look for models of other programs; the result says whether some were added."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", N_("Close"), id="scan.close"),
        Binding("left,up", "app.focus_previous", N_("Previous choice"), show=False),
        Binding("right,down", "app.focus_next", N_("Next choice"), show=False),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(Content(_("Models of other programs")), id="dialog-title")
            yield Static(Content(_("Looking…")), id="dialog-message")
            with VerticalScroll(id="scan-results", can_focus=False):
                yield Static(Content(), id="scan-rows")
            with Horizontal(id="dialog-choices"):
                yield Button(Content(_("Use them")), id="use", compact=True)
                yield Button(Content(_("Close")), id="close", compact=True)

    def on_mount(self) -> None:
        self.query_one("#use").display = False
        self.query_one("#close").focus()
        self.look()

    @work(exclusive=True, group="scan", exit_on_error=False)
    async def look(self) -> None:
        """Find what there is; nothing is changed."""
        results = await self._scan(dry_run=True)
        if results is not None and any(each.status is ScanStatus.ADOPTED for each in results):
            use = self.query_one("#use", Button)
            use.display = True
            use.focus()

    @work(exclusive=True, group="scan", exit_on_error=False)
    async def use(self) -> None:
        """Make what was found part of the library, where it is."""
        self.query_one("#use").display = False
        if await self._scan(dry_run=False) is not None:
            self.leave(True)

    async def _scan(self, *, dry_run: bool) -> tuple[ScanResult, ...] | None:
        from localllm.library.scan.places import places_here
        from localllm.library.scan.sweep import sweep
        from localllm.tui.downloads.thread_call import in_daemon_thread

        store = self.runtime.store
        try:
            results = await in_daemon_thread(
                lambda: tuple(sweep(store, places_here(), dry_run=dry_run))
            )
        except LocalLLMError as error:
            self.query_one("#dialog-message", Static).update(literal.lines(str(error)))
            return None
        self.query_one("#dialog-message", Static).update(literal.lines(scan_summary(results)))
        rows = "\n".join(map(result_line, results))
        self.query_one("#scan-rows", Static).update(literal.lines(rows))
        return results

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "use":
            self.use()
        else:
            self.action_close()

    def action_close(self) -> None:
        self.leave(False)
