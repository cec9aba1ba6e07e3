"""Progress of hashing: a bar on a terminal, a line a file elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from localllm.cli.output import outside, stderr
from localllm.core.units import format_bytes
from localllm.library.names import shown


@contextmanager
def progress(what: str, total_bytes: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far the hashing of `what` is; the function given is told of bytes that were read."""
    console = stderr()
    if not quiet and not console.is_terminal:
        line = f"Hashing {what} ({format_bytes(total_bytes)})"
        console.print(outside(line), soft_wrap=True)
    bar = Progress(
        TextColumn("Hashing {task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(shown(what), total=total_bytes)
        yield lambda count: bar.advance(task, count)
