"""A line for a path, with the files and folders that it can become below it."""

import asyncio
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from localllm.chat.attachments.path_completion import (
    PathCompletion,
    PathCompletions,
    complete_path,
)
from localllm.chat.commands.table import path_argument
from localllm.core.units import format_bytes
from localllm.translation import N_, _
from localllm.tui import literal

MAX_ROWS = 8


class PathChanged(Message):
    """Another path was typed; `path` is "" for none."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


class PathEntered(Message):
    """Enter was pressed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


class PathInput(Vertical):
    """Type a path; ↑ and ↓ choose a completion, tab takes it. Posts PathChanged and PathEntered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "take", N_("Complete"), id="path.take", priority=True,
                tooltip=N_("Take the completion that is marked")),
        Binding("down", "move(1)", N_("Next"), id="path.next", show=False, priority=True,
                tooltip=N_("Mark the next completion")),
        Binding("up", "move(-1)", N_("Previous"), id="path.previous", show=False, priority=True,
                tooltip=N_("Mark the completion before")),
    ]  # fmt: skip

    def __init__(self, *, placeholder: str, folders_only: bool = False) -> None:
        super().__init__()
        self._placeholder = placeholder
        self._folders_only = folders_only
        self._completions: tuple[PathCompletion, ...] = ()
        self._marked = 0

    def compose(self) -> ComposeResult:
        yield Input(placeholder=self._placeholder, compact=True, select_on_focus=False)
        yield Static(Content(), classes="path-completions")

    @property
    def path(self) -> str:
        """The path as it is typed, without quotes."""
        return path_argument(self.query_one(Input).value)

    def on_mount(self) -> None:
        self.complete()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        self.complete()
        self.post_message(PathChanged(self.path))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(PathEntered(self.path))

    @work(exclusive=True, group="complete-path", exit_on_error=False)
    async def complete(self) -> None:
        """Show what the path can become."""
        found = await asyncio.to_thread(
            complete_path, self.path, base=Path(), folders_only=self._folders_only
        )
        self._completions, self._marked = found.completions, 0
        self._show(found)

    def action_move(self, by: int) -> None:
        if self._completions:
            self._marked = (self._marked + by) % len(self._completions)
            self._show(PathCompletions(completions=self._completions))

    def action_take(self) -> None:
        if self._completions:
            line = self.query_one(Input)
            line.value = self._completions[self._marked].text
            line.cursor_position = len(line.value)

    def _show(self, found: PathCompletions) -> None:
        first = max(0, self._marked - MAX_ROWS + 1)
        rows = [
            _row(each, marked=number == self._marked)
            for number, each in enumerate(found.completions[first : first + MAX_ROWS], first)
        ]
        if (more := len(found.completions) - first - MAX_ROWS) > 0 or found.incomplete:
            count = f"{max(0, more):,}" + ("+" if found.incomplete else "")
            rows.append(Content("  " + _("{count} more").format(count=count)))
        self.query_one(".path-completions", Static).update(Content("\n").join(rows))


def _row(completion: PathCompletion, *, marked: bool) -> Content:
    name = literal.line(completion.name + ("/" if completion.is_folder else ""))
    size = "" if completion.size_bytes is None else f"  {format_bytes(completion.size_bytes)}"
    return Content.assemble("▌ " if marked else "  ", name, size)
