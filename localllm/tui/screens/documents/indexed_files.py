"""What is indexed of a folder: every file with its passages, and why others are not."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Static

from localllm.chat.documents.collection import Collection, FileEntry
from localllm.chat.documents.folder_scan import Skipped
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.widgets.key_hints import KeyHints

MAX_ROWS = 5000
"""A table of more is slow to build and nobody reads it to its end."""


class IndexedFilesScreen(WorkScreen[None]):
    """The files of a collection, those that could not be read first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", N_("Close"), id="files.close",
                tooltip=N_("Return to the collections"))
    ]  # fmt: skip

    def __init__(self, collection: Collection) -> None:
        super().__init__()
        self._collection = collection

    def compose(self) -> ComposeResult:
        info = self._collection.current_info()
        yield Static(literal.line(f"{info.name} · {info.root}"), id="source-title")
        yield Static(literal.line(self._summary()), id="source-remark")
        yield DataTable[Text](cursor_type="row", zebra_stripes=False)
        yield KeyHints()

    def _summary(self) -> str:
        info = self._collection.current_info()
        kept = _("{size} are kept").format(size=format_bytes(info.stored_bytes))
        left_out = ", ".join(
            f"{count:,} {_(reason)}"
            for reason, count in info.skipped.items()
            if reason in set(Skipped)
        )
        return " · ".join(
            [kept, _("left out: {reasons}").format(reasons=left_out)] if left_out else [kept]
        )

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for title in (_("file"), _("size"), _("passages")):
            table.add_column(Text(title))
        entries = sorted(
            self._collection.entries().values(), key=lambda each: (not each.problem, each.path)
        )
        for entry in entries[:MAX_ROWS]:
            table.add_row(*map(Text, _cells(entry)))
        if (more := len(entries) - MAX_ROWS) > 0:
            words = ngettext("{count} more file", "{count} more files", more)
            table.add_row(Text(words.format(count=f"{more:,}")), Text(), Text())
        table.focus()

    def action_close(self) -> None:
        self.leave(None)


def _cells(entry: FileEntry) -> tuple[str, str, str]:
    found = f"✗ {single_line(entry.problem)}" if entry.problem else f"{len(entry.passages):,}"
    return single_line(entry.path), format_bytes(entry.size_bytes), found
