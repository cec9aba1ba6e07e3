"""A source of an answer, opened at its place: the file as it is now, with the passage marked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from localllm.chat.attachments.files import read_file
from localllm.chat.conversation import Citation
from localllm.chat.documents.collection import Collection, FileEntry
from localllm.chat.documents.service import Documents
from localllm.errors import LocalLLMError
from localllm.translation import N_, _
from localllm.tui import literal
from localllm.tui.screens.base import WorkScreen
from localllm.tui.widgets.documents.marked_text import MarkedText
from localllm.tui.widgets.key_hints import KeyHints


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """What is shown of a source: `text` with the lines `marked` (from 1), and a remark."""

    text: str
    marked: range
    remark: str = ""


class SourceScreen(WorkScreen[None]):
    """The sources of an answer, one at a time. Nothing is changed, and no program is started."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", N_("Close"), id="source.close",
                tooltip=N_("Return to the conversation")),
        Binding("left,p", "go(-1)", N_("Previous"), id="source.previous",
                tooltip=N_("Show the source before this one")),
        Binding("right,n", "go(1)", N_("Next"), id="source.next",
                tooltip=N_("Show the next source")),
        Binding("y", "copy", N_("Copy"), id="source.copy",
                tooltip=N_("Copy the passage")),
    ]  # fmt: skip

    def __init__(self, documents: Documents, sources: Sequence[Citation], number: int) -> None:
        super().__init__()
        self._documents = documents
        self._sources = tuple(sources)
        numbers = [each.number for each in self._sources]
        self._at = numbers.index(number) if number in numbers else 0

    def compose(self) -> ComposeResult:
        yield Static(Content(), id="source-title")
        yield Static(Content(), id="source-remark")
        yield MarkedText()
        yield KeyHints()

    def on_mount(self) -> None:
        self.query_one(MarkedText).focus()
        self.show_source()

    def action_go(self, by: int) -> None:
        self._at = (self._at + by) % len(self._sources)
        self.show_source()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self._sources[self._at].text)

    def action_close(self) -> None:
        self.leave(None)

    @work(exclusive=True, group="source", exit_on_error=False)
    async def show_source(self) -> None:
        source = self._sources[self._at]
        place = (
            _("page {page}").format(page=source.page)
            if source.page is not None
            else _("line {line}").format(line=source.line)
        )
        title = f"[{source.number}] {source.path} · {place} · {source.collection}"
        count = f"  {self._at + 1}/{len(self._sources)}" if len(self._sources) > 1 else ""
        self.query_one("#source-title", Static).update(literal.line(title + count))
        shown = await source_text(self._documents, source)
        remark = self.query_one("#source-remark", Static)
        remark.update(literal.line(shown.remark))
        remark.display = bool(shown.remark)
        self.query_one(MarkedText).show(shown.text, marked=shown.marked)


async def source_text(documents: Documents, source: Citation) -> SourceText:
    """Read the file of a source, and find the passage in it; the passage alone where the file
    cannot be read, with a remark."""
    alone = SourceText(text=source.text, marked=range(1, source.text.count("\n") + 2))
    try:
        collection = await asyncio.to_thread(documents.collections.open, source.collection)
    except LocalLLMError as error:
        return SourceText(text=alone.text, marked=alone.marked, remark=str(error))
    if source.page is not None:
        return _page(collection, source, alone)
    try:
        content = await read_file(collection.root / source.path)
    except LocalLLMError as error:
        return SourceText(
            text=alone.text,
            marked=alone.marked,
            remark=_("Only what was indexed can be shown. {reason}").format(reason=error),
        )
    return located(content.text, source)


def located(text: str, source: Citation) -> SourceText:
    """Find the passage in the text of its file: where it was, or else where its first line is."""
    lines = text.split("\n")
    wanted = [line for line in source.text.split("\n") if line.strip()]
    count = source.text.count("\n") + 1
    start, remark = source.line, ""
    # The rows of a table come with the line of its columns, which stands elsewhere.
    if not any(_stands_at(lines, start, each) for each in wanted[:2]):
        found = next(
            (n for n in range(1, len(lines) + 1) if wanted and _stands_at(lines, n, wanted[0])),
            None,
        )
        remark = _("The file has changed since it was indexed.")
        if found is None:
            remark += " " + _("The passage is not in it any more.")
            return SourceText(text=text, marked=range(start, start), remark=remark)
        start = found
    return SourceText(text=text, marked=range(start, start + count), remark=remark)


def _stands_at(lines: Sequence[str], number: int, wanted: str) -> bool:
    return 1 <= number <= len(lines) and wanted.strip() in lines[number - 1]


def _page(collection: Collection, source: Citation, alone: SourceText) -> SourceText:
    """Return the page of a PDF as it was indexed."""
    entry: FileEntry | None = collection.entries().get(source.path)
    passages = [each for each in entry.passages if each.page == source.page] if entry else []
    if not passages:
        return alone
    text = "\n\n".join(each.text for each in passages)
    at = text.find(source.text)
    if at < 0:
        return SourceText(text=text, marked=range(0))
    first = text.count("\n", 0, at) + 1
    return SourceText(text=text, marked=range(first, first + source.text.count("\n") + 1))
