"""The downloads of the app in a window: their order, how far they are, and what one can do."""

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.library.store.installed import InstalledModel
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.downloads import Download, DownloadState
from localllm.tui.downloads.queue import MAX_AT_ONCE
from localllm.tui.figures import bar
from localllm.tui.screens.base import WorkScreen
from localllm.tui.screens.dialog import Dialog, DialogButton
from localllm.tui.screens.models.download import progress_numbers

_BAR = 24
_REFRESH_S = 0.5
_STATES = {
    DownloadState.WAITING: N_("waits"),
    DownloadState.ASKING: N_("asks the Hub"),
    DownloadState.RUNNING: N_("runs"),
    DownloadState.PAUSED: N_("stopped"),
    DownloadState.FAILED: N_("failed"),
    DownloadState.DONE: N_("is here"),
}
_SIGNS = {
    DownloadState.WAITING: "…",
    DownloadState.ASKING: "●",
    DownloadState.RUNNING: "↓",
    DownloadState.PAUSED: "‖",
    DownloadState.FAILED: "!",
    DownloadState.DONE: "✓",
}


def transfer_lines(item: Download, *, cursor: bool) -> tuple[str, ...]:
    """Write a download in two lines, or three when there is something to tell of it."""
    mark = "▌" if cursor else " "
    state = _("stops…") if item.stopping else _(_STATES[item.state])
    title = single_line(item.request.title)
    lines = [f"{mark} {_SIGNS[item.state]} {title}   {state}"]
    if item.progress is not None and item.state is not DownloadState.DONE:
        running = item.state is DownloadState.RUNNING and not item.stopping
        numbers = progress_numbers(item.progress, running=running)
    elif item.state is DownloadState.DONE:
        numbers = format_bytes(item.total_bytes)
    else:
        numbers = _("{done} of {total}").format(
            done=format_bytes(item.done_bytes), total=format_bytes(item.total_bytes)
        )
    progress = bar(item.fraction, _BAR)
    lines.append(f"{mark}   {progress} {item.fraction:4.0%} · {numbers}")
    remark = ""
    if item.problem is not None:
        remark = item.problem.line
    elif item.state is DownloadState.RUNNING and item.progress and item.progress.message:
        remark = single_line(item.progress.message)
    elif item.state is DownloadState.DONE and item.checked:
        remark = _("sha256 as the Hub lists it")
    if remark:
        lines.append(f"{mark}   {remark}")
    if cursor and item.problem is not None and item.problem.detail:
        lines.append(f"{mark}   {item.problem.detail}")
    return tuple(lines)


class TransfersScreen(WorkScreen[InstalledModel | None], ModalScreen[InstalledModel | None]):
    """The queue of downloads; the result is a model that is to be opened, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,t", "close", N_("Close"), id="transfers.close"),
        Binding("up", "move_cursor(-1)", N_("Up"), show=False, id="transfers.up"),
        Binding("down", "move_cursor(1)", N_("Down"), show=False, id="transfers.down"),
        Binding("enter", "open_model", N_("Open"), id="transfers.open",
                tooltip=N_("Chat with a model that is here; resume one that was stopped")),
        Binding("p", "pause", N_("Pause"), id="transfers.pause",
                tooltip=N_("Stop a download and keep what came, or let it go on")),
        Binding("r", "resume", N_("Retry"), id="transfers.retry",
                tooltip=N_("Try a download again that failed")),
        Binding("k,backspace,delete", "cancel", N_("Cancel"), id="transfers.cancel",
                tooltip=N_("Take a download from the list; asks what becomes of what came")),
        Binding("plus,shift+up", "reorder(-1)", N_("Earlier"), id="transfers.earlier", show=False,
                tooltip=N_("Move a download up in the queue")),
        Binding("minus,shift+down", "reorder(1)", N_("Later"), id="transfers.later", show=False,
                tooltip=N_("Move a download down in the queue")),
        Binding("n", "at_once", N_("At once"), id="transfers.at-once",
                tooltip=N_("Run another number of downloads at a time")),
        Binding("c", "clear", N_("Clear"), id="transfers.clear", show=False,
                tooltip=N_("Take the downloads that are done from the list")),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._cursor: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog", classes="-wide-dialog"):
            yield Static(Content(), id="dialog-title")
            with VerticalScroll(id="transfers", can_focus=False):
                yield Static(Content(), id="transfer-rows")
            yield Static(Content(), id="transfer-keys")

    def on_mount(self) -> None:
        downloads = self.services.downloads
        downloads.listen(self._draw)
        running = downloads.active or downloads.items
        self._cursor = running[0].number if running else None
        self.set_interval(_REFRESH_S, self._draw_running)
        self._draw()

    def on_unmount(self) -> None:
        self.services.downloads.unlisten(self._draw)

    @property
    def _item(self) -> Download | None:
        return None if self._cursor is None else self.services.downloads.find(self._cursor)

    def _draw_running(self) -> None:
        if self.services.downloads.active:
            self._draw()

    def _draw(self) -> None:
        downloads = self.services.downloads
        items = downloads.items
        if self._item is None:
            self._cursor = items[0].number if items else None
        lines = [
            line
            for item in items
            for line in transfer_lines(item, cursor=item.number == self._cursor)
        ]
        title = _("Downloads: {count} at a time").format(count=downloads.at_once)
        self.query_one("#dialog-title", Static).update(Content(title))
        empty = _("Nothing is downloaded, and nothing was stopped.")
        text = literal.lines("\n".join(lines) or empty)
        self.query_one("#transfer-rows", Static).update(text)
        keys = _("⏎ open   p pause or go on   r retry   k cancel   + - order   n at once   esc")
        self.query_one("#transfer-keys", Static).update(Content(keys))

    # --- keys ---

    def action_move_cursor(self, by: int) -> None:
        numbers = [item.number for item in self.services.downloads.items]
        if self._cursor in numbers:
            at = max(0, min(numbers.index(self._cursor) + by, len(numbers) - 1))
            self._cursor = numbers[at]
            self._draw()

    def action_open_model(self) -> None:
        item = self._item
        if item is not None and item.model is not None:
            self.leave(item.model)
        elif item is not None:
            self.services.downloads.resume(item.number)

    def action_pause(self) -> None:
        if (item := self._item) is None:
            return
        if item.state in (DownloadState.PAUSED, DownloadState.FAILED):
            self.services.downloads.resume(item.number)
        else:
            self.services.downloads.pause(item.number)

    def action_resume(self) -> None:
        if (item := self._item) is not None:
            self.services.downloads.resume(item.number)

    def action_reorder(self, by: int) -> None:
        if (item := self._item) is not None:
            self.services.downloads.move(item.number, by)

    def action_at_once(self) -> None:
        downloads = self.services.downloads
        downloads.set_at_once(downloads.at_once % MAX_AT_ONCE + 1)

    def action_clear(self) -> None:
        self.services.downloads.forget_done()

    def action_cancel(self) -> None:
        if (item := self._item) is not None:
            self.cancel(item)

    @work(exclusive=True, group="cancel", exit_on_error=False)
    async def cancel(self, item: Download) -> None:
        """Take a download from the list; asks when something of it is here."""
        downloads, discard = self.services.downloads, False
        begun = item.done_bytes or (item.progress is not None and item.progress.done_bytes)
        if begun and item.state is not DownloadState.DONE:
            answer = await self.ask(
                Dialog(
                    title=_("Cancel {title}?").format(title=item.request.title),
                    message=_("What came of it can be kept, so that the download can go on."),
                    buttons=(
                        DialogButton(id="keep", label=_("Cancel it, keep what came")),
                        DialogButton(id="discard", label=_("Cancel it, delete what came")),
                        DialogButton(id="back", label=_("Back")),
                    ),
                )
            )
            if answer not in ("keep", "discard"):
                return
            discard = answer == "discard"
        await downloads.remove(item.number, discard=discard)

    def action_close(self) -> None:
        self.leave(None)
