"""Progress of hashing, downloading and loading on stderr: bars on a terminal, lines elsewhere.

The runtime and the downloader are imported where they are used: `verify` and `import` hash only.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from localllm.cli.output import info, literal, stderr, warn
from localllm.core.quality.quality import cache_loss
from localllm.core.text import single_line
from localllm.core.units import format_bandwidth, format_bytes, format_duration
from localllm.library.files.names import printable

if TYPE_CHECKING:
    from localllm.library.download.progress import Progress
    from localllm.runtime.load_plan import LoadPlan
    from localllm.runtime.runtime import ResidentModel, Runtime

T = TypeVar("T")

LINE_EVERY_S = 10.0
"""Plain lines are no more frequent: they end in log files."""
_POLL_S = 0.2  # a signal handler runs only between two waits


@contextmanager
def hashing_bar(what: str, total_bytes: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far the hashing of `what` is; the function given takes counts of bytes read."""
    console = stderr()
    if not quiet and not console.is_terminal:
        info(f"Hashing {what} ({format_bytes(total_bytes)})")
    bar = Bars(
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
        task = bar.add_task(printable(what), total=total_bytes)
        yield lambda count: bar.advance(task, count)


# --- loading ---


async def load_with_progress(
    runtime: "Runtime", plan: "LoadPlan", *, force: bool, quiet: bool
) -> "ResidentModel":
    """Load behind a bar, which is gone when it is done and not drawn where there is no terminal.

    What speaks against the load is said first, and a cache type that can change answers is named
    with its published cost.
    """
    from localllm.engine.messages import LoadProgress

    for warning in plan.warnings:
        warn(warning)
    if (change := await runtime.engine_change()) is not None:
        warn(change)
    settings = plan.candidates[0]
    loss = cache_loss(plan.spec.architecture, settings.kv_type_k, settings.kv_type_v)
    if loss is not None and not quiet:
        info(loss)
    console = stderr()
    bar = Bars(
        TextColumn("Loading {task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        name = single_line(plan.model.name)
        task = bar.add_task(name, total=1.0)
        async with aclosing(runtime.load(plan, force=force)) as events:
            async for event in events:
                if isinstance(event, LoadProgress):
                    testing = " (testing the GPU)" if event.testing_devices else ""
                    bar.update(task, completed=event.fraction, description=f"{name}{testing}")
                else:
                    return event
    raise AssertionError("a load ends with its resident model")


# --- downloading ---


class Interrupted(Exception):
    """Ctrl+C: the work was told to stop and has ended."""


def interruptible(run: Callable[[threading.Event], T]) -> T:
    """Run a blocking call that ends soon after its event is set, and give back its result.

    Ctrl+C sets the event and raises Interrupted once the call has ended. Raises what it raises.
    """
    stop = threading.Event()
    # A handler, and no KeyboardInterrupt: one that is raised while a lock is being taken leaves
    # it taken for ever.
    with ThreadPoolExecutor(1) as workers, _ctrl_c_sets(stop):
        future = workers.submit(run, stop)
        while not future.done():
            wait((future,), timeout=_POLL_S)
    error = future.exception()
    if stop.is_set() and error is not None:
        raise Interrupted from error
    return future.result()


@contextmanager
def _ctrl_c_sets(stop: threading.Event) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressLines:
    """Show progress as plain lines: one every LINE_EVERY_S, and each note when it is new."""

    def __init__(
        self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._next_s = clock()
        self._note: str | None = None

    def show(self, progress: "Progress") -> None:
        now = self._clock()
        new = progress.message is not None and progress.message != self._note
        if not new and now < self._next_s:
            return
        self._note = progress.message
        self._next_s = now + LINE_EVERY_S
        self._write(progress_line(progress))


def progress_line(progress: "Progress") -> str:
    """Write progress in one line: bytes of bytes, rate, time left, note."""
    percent = 100 * progress.done_bytes / max(1, progress.total_bytes)
    parts = [
        f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}"
        f" ({percent:.0f} %)"
    ]
    parts += [_rate(progress), _left(progress), progress.message or ""]
    return ", ".join(part for part in parts if part)


@contextmanager
def download_bar(total_bytes: int, *, quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """Show how far a download is: a bar on a terminal, lines elsewhere, nothing when `quiet`."""
    console = stderr()
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _bars(console) as bars:
            yield _bar(bars, total_bytes)
    else:
        yield ProgressLines(info).show


def _bars(console: Console) -> Bars:
    return Bars(
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", style="yellow", markup=False),
        console=console,
        transient=True,
        expand=True,
    )


def _bar(bars: Bars, total_bytes: int) -> Callable[["Progress"], None]:
    task = bars.add_task("", total=total_bytes, amount="", rate="", left="", note="")

    def show(progress: "Progress") -> None:
        bars.update(
            task,
            total=progress.total_bytes,
            completed=progress.done_bytes,
            amount=f"{format_bytes(progress.done_bytes)} / {format_bytes(progress.total_bytes)}",
            rate=_rate(progress),
            left=_left(progress),
            note=literal(progress.message or "").plain,
        )

    return show


def _rate(progress: "Progress") -> str:
    rate = progress.rate_bytes_per_s
    return "" if rate is None else format_bandwidth(rate)


def _left(progress: "Progress") -> str:
    left_s = progress.remaining_s
    return "" if left_s is None else f"{format_duration(left_s)} left"
