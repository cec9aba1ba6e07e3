"""The collections as a list: what is in each, when it was read, and how its indexing stands."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from localllm.chat.documents.collection import CollectionInfo
from localllm.chat.documents.service import IndexState
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.figures import bar

ROWS = 3
"""Lines of each collection, the blank one behind it included."""
_BAR_CELLS = 20
_NAME_CELLS = 24
_SIZE_FROM = 90
"""Columns from which the size is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRow:
    """One collection. `used`: questions of this chat are answered from it. `changes` counts the
    files that differ from what is indexed, None before that is known."""

    info: CollectionInfo
    used: bool = False
    state: IndexState | None = None
    changes: int | None = None


class CollectionMarked(Message):
    """The cursor is on another collection."""


class CollectionRows(Widget, can_focus=True):
    """The list. The cursor's row has a bar at its left."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--name", "rows--muted", "rows--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", N_("Down"), id="collections.down", show=False,
                tooltip=N_("Go to the next collection")),
        Binding("up,k", "move(-1)", N_("Up"), id="collections.up", show=False,
                tooltip=N_("Go to the collection before")),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._rows: tuple[CollectionRow, ...] = ()
        self._cursor = 0

    @property
    def current(self) -> CollectionRow | None:
        """The collection under the cursor."""
        return self._rows[self._cursor] if self._rows else None

    def show(self, rows: Sequence[CollectionRow]) -> None:
        """Show these instead; the cursor stays on its collection."""
        rows = tuple(rows)
        if rows == self._rows:
            return
        at = self.current
        ids = [each.info.id for each in rows]
        self._cursor = ids.index(at.info.id) if at is not None and at.info.id in ids else min(
            self._cursor, max(0, len(rows) - 1)
        )  # fmt: skip
        grown = len(rows) != len(self._rows)
        self._rows = rows
        self.styles.height = max(1, ROWS * len(rows))
        self.refresh(layout=grown)

    def go_to(self, collection_id: str) -> None:
        """Put the cursor on a collection."""
        for number, row in enumerate(self._rows):
            if row.info.id == collection_id:
                self._move_to(number)

    def action_move(self, by: int) -> None:
        if self._rows:
            self._move_to(max(0, min(len(self._rows) - 1, self._cursor + by)))

    def on_click(self, event: events.Click) -> None:
        if event.y // ROWS < len(self._rows):
            self._move_to(event.y // ROWS)

    def _move_to(self, number: int) -> None:
        self._cursor = number
        self.refresh()
        self.post_message(CollectionMarked())
        if self.parent is not None:
            self.screen.scroll_to_widget(self, animate=False)

    def render(self) -> Content:
        width = max(10, self.content_size.width)
        name, muted = self.get_visual_style("rows--name"), self.get_visual_style("rows--muted")
        cursor = self.get_visual_style("rows--cursor")
        lines: list[Content] = []
        for number, row in enumerate(self._rows):
            here = number == self._cursor
            mark = Content("▌ ").stylize(cursor) if here else Content("  ")
            title = literal.line(row.info.name).stylize(name)
            blank = " " * max(2, _NAME_CELLS - cell_len(single_line(row.info.name)))
            sign = "✓ " if row.used else "  "
            counts = Content(blank + counts_line(row.info, size=width >= _SIZE_FROM)).stylize(muted)
            below = literal.line(state_line(row)).stylize(muted)
            both = (
                Content.assemble(mark, sign, title, counts),
                Content.assemble(mark, "  ", below),
            )
            lines.extend(line.truncate(width, ellipsis=True) for line in both)
            lines.append(Content(""))
        return Content("\n").join(lines)


def counts_line(info: CollectionInfo, *, size: bool = True) -> str:
    """Write what is in a collection, and when it was read; `size`: and how many bytes of text."""
    if info.indexed_s is None and not info.files:
        return _("not indexed yet")
    files = ngettext("{count} file", "{count} files", info.files)
    passages = ngettext("{count} passage", "{count} passages", info.passages)
    parts = [
        files.format(count=f"{info.files:,}"),
        passages.format(count=f"{info.passages:,}"),
        *([format_bytes(info.source_bytes)] if size else []),
    ]
    if info.indexed_s is not None:
        parts.append(time.strftime("%Y-%m-%d %H:%M", time.localtime(info.indexed_s)))
    return " · ".join(parts)


def state_line(row: CollectionRow) -> str:
    """Write how indexing stands, or what is different in the folder."""
    state, info = row.state, row.info
    if state is not None and state.running:
        return progress_line(state)
    if state is not None and state.error:
        return " · ".join([state.error, info.root])
    parts: list[str] = []
    if state is not None and state.stopped:
        parts.append(_("stopped; u goes on"))
    elif row.changes:
        words = ngettext(
            "{count} file has changed: u updates", "{count} files have changed: u updates",
            row.changes,
        )  # fmt: skip
        parts.append(words.format(count=f"{row.changes:,}"))
    elif row.changes == 0 and info.indexed_s is not None:
        parts.append(_("up to date"))
    if info.problems:
        words = ngettext("{count} cannot be read", "{count} cannot be read", info.problems)
        parts.append(words.format(count=f"{info.problems:,}"))
    if info.indexed_s is not None:
        parts.append(_("words and meaning") if info.model else _("words alone"))
    return " · ".join([*parts, info.root])


def progress_line(state: IndexState) -> str:
    """Write how far indexing has come: a bar, files, the time that is left, the file."""
    progress = state.progress
    if not progress.files_total:
        return _("looking at the folder…")
    share = progress.bytes_done / progress.bytes_total if progress.bytes_total else 1.0
    parts = [
        f"{bar(share, _BAR_CELLS)} {share:.0%}",
        _("{done} of {total} files").format(
            done=f"{progress.files_done:,}", total=f"{progress.files_total:,}"
        ),
    ]
    if progress.remaining_s is not None:
        left = format_duration(progress.remaining_s)
        parts.append(_("{time} left").format(time=left))
    return " · ".join([*parts, progress.path] if progress.path else parts)
