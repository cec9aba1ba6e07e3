"""How far a download is: a bar, the numbers, and what is going on when it is not just running."""

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


class Transfer(Vertical):
    """Hidden until something is known."""

    def compose(self) -> ComposeResult:
        yield Bar(id="transfer-bar")
        yield Static(Content(), id="transfer-numbers")
        yield Static(Content(), id="transfer-note")

    def show(self, progress: "Progress", *, running: bool) -> None:
        """Draw the state of a transfer; one that is over has no rate."""
        total = progress.total_bytes
        self.query_one(Bar).fraction = progress.done_bytes / total if total else None
        self.query_one("#transfer-numbers", Static).update(Content(numbers(progress, running)))
        note = self.query_one("#transfer-note", Static)
        note.update(literal.line(progress.message or ""))
        note.display = running and bool(progress.message)
        self.display = True


def numbers(progress: "Progress", running: bool) -> str:
    """ "1.2 GiB of 7.8 GiB · 41.3 MiB/s · 2m 44s left"."""
    parts = [f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}"]
    if running and progress.rate_bytes_per_s is not None:
        parts.append(f"{format_bytes(int(progress.rate_bytes_per_s))}/s")
    if running and progress.remaining_s is not None:
        parts.append(f"{format_duration(progress.remaining_s)} left")
    return " · ".join(parts)
