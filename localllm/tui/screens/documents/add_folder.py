"""Make a collection of a folder: which one, and what would be read of it."""

import asyncio
import threading
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from localllm.chat.documents.collection import CollectionInfo
from localllm.chat.documents.folder_scan import FolderScan, scan_folder, skipped_sentence
from localllm.chat.documents.service import Documents
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError
from localllm.library.files import paths
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.widgets.documents.path_input import PathChanged, PathEntered, PathInput

_PAUSE_S = 0.4
"""After the last key, before a folder is looked through."""


class AddFolderScreen(WorkScreen[CollectionInfo | None], ModalScreen[CollectionInfo | None]):
    """Ask for a folder until it can be a collection; the result is the collection, None after
    escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", N_("Add"), id="add.enter",
                tooltip=N_("Make a collection of this folder and index it")),
        Binding("escape", "close", N_("Close"), id="add.close",
                tooltip=N_("Close without adding a folder"))
    ]  # fmt: skip

    def __init__(self, documents: Documents) -> None:
        super().__init__()
        self._documents = documents
        self._stopped = threading.Event()

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(Content(_("Add a folder")), id="dialog-title")
            yield Static(
                Content(
                    _(
                        "Its texts and PDF files are read and indexed on this machine. The files "
                        "stay as they are, and nothing is sent."
                    )
                ),
                id="dialog-message",
            )
            yield PathInput(placeholder=_("path of the folder"), folders_only=True)
            yield Static(Content(), id="import-remark")
            yield Static(Content(_("tab completes · enter adds · escape closes")), id="import-keys")

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    @on(PathChanged)
    def _path_changed(self, event: PathChanged) -> None:
        self._stopped.set()
        self._show("")
        self.preview(event.path)

    @work(exclusive=True, group="preview", exit_on_error=False)
    async def preview(self, path: str) -> None:
        """Say what the folder holds."""
        await asyncio.sleep(_PAUSE_S)
        root = paths.absolute(Path(path))
        if not path or not await asyncio.to_thread(root.is_dir):
            return
        self._stopped = stopped = threading.Event()
        self._show(_("looking at the folder…"))
        try:
            scan = await asyncio.to_thread(scan_folder, root, stopped=stopped.is_set)
        except LocalLLMError as error:
            self._show(str(error), failed=True)
        else:
            self._show(scan_sentence(scan))
        finally:
            stopped.set()

    @on(PathEntered)
    def _path_entered(self, event: PathEntered) -> None:
        event.stop()
        self.action_enter()

    def action_enter(self) -> None:
        path = self.query_one(PathInput).path
        if path:
            self.create(Path(path))
        else:
            self._show(_("Write the path of a folder first."), failed=True)

    @work(exclusive=True, group="create", exit_on_error=False)
    async def create(self, path: Path) -> None:
        self._stopped.set()
        try:
            info = await asyncio.to_thread(self._documents.collections.create, path)
        except LocalLLMError as error:
            self._show(str(error), failed=True)
        else:
            self.leave(info)

    def _show(self, text: str, *, failed: bool = False) -> None:
        line = self.query_one("#import-remark", Static)
        line.update(literal.line(text))
        line.display = bool(text)
        line.set_class(failed, "-failed")

    def action_close(self) -> None:
        self._stopped.set()
        self.leave(None)


def scan_sentence(scan: FolderScan) -> str:
    """Say what would be read of a folder, and what is left out."""
    count = len(scan.files)
    words = ngettext("{count} file, {size}.", "{count} files, {size}.", count)
    size = format_bytes(sum(each.size_bytes for each in scan.files))
    text = words.format(count=f"{count:,}", size=size)
    if skipped := skipped_sentence(scan.skipped):
        text += " " + _("Left out: {reasons}.").format(reasons=skipped)
    return text
