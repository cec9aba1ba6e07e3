"""The queue of the app's downloads: they run in the background, one or a few at a time.

The queue lives as long as the app, whichever place is on the screen. A download is a value that is
replaced; who shows it looks at `items` and is called when one changes its state. Progress is only
stored: it comes in the transfer's thread, and who shows it looks a few times a second.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from localllm.core.units import format_bytes
from localllm.errors import DownloadStopped, LocalLLMError
from localllm.library.files import paths
from localllm.library.store.installed import InstalledModel
from localllm.translation import _
from localllm.tui.downloads import saved
from localllm.tui.downloads.problems import DownloadProblem, describe_problem
from localllm.tui.downloads.source import DownloadPreview, DownloadRequest, DownloadSource
from localllm.tui.downloads.thread_call import in_daemon_thread

if TYPE_CHECKING:
    from localllm.library.download.progress import Progress
    from localllm.runtime.pull import PullPlan

STOP_S: Final = 5.0
"""How long the end of the program waits for a transfer to write down what it has. One that is cut
off harder leaves something to go on from as well."""

MUCH_LARGER: Final = 1.05
"""The catalogue computes sizes. A download that turns out this much larger is asked for again."""

MAX_AT_ONCE: Final = 4


class DownloadState(StrEnum):
    """The state of a download."""

    WAITING = "waiting"  # for its turn
    ASKING = "asking"  # the Hub, which files these are
    RUNNING = "running"
    PAUSED = "paused"  # by a person, or by the end of the app
    FAILED = "failed"
    DONE = "done"


ACTIVE: Final = frozenset({DownloadState.ASKING, DownloadState.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One download of the queue. `done_bytes` are here from before; `progress` is that of this run.

    `host` is asked for it. `problem` says why it failed, or why it waits to be resumed.
    """

    number: int
    request: DownloadRequest
    state: DownloadState
    done_bytes: int = 0
    total_bytes: int = 0
    plan: "PullPlan | None" = None
    progress: "Progress | None" = None
    problem: DownloadProblem | None = None
    model: InstalledModel | None = None
    host: str = ""
    stopping: bool = False
    checked: bool = False
    """True when the Hub listed a SHA-256 and the bytes that came have it."""

    @property
    def fraction(self) -> float:
        """The part of the bytes that is here."""
        if self.state is DownloadState.DONE:
            return 1.0
        done, total = self.done_bytes, self.total_bytes
        if self.progress is not None:
            done, total = self.progress.done_bytes, self.progress.total_bytes
        return min(1.0, done / total) if total > 0 else 0.0


def _to_loop(error: BaseException) -> None:
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "A download ended", "exception": error})


class Downloads:
    """Every download of the app, in the order in which they run.

    Belongs to one event loop. `data_dir` is where the list of those that are not done is kept.
    """

    def __init__(self, source: DownloadSource, *, data_dir: Path | None = None) -> None:
        self.source = source
        self.at_once = 1
        self.report: Callable[[BaseException], None] = _to_loop
        """Takes an error that nobody foresaw."""
        self._data_dir = data_dir
        self._items: dict[int, Download] = {}
        self._progress: dict[int, Progress] = {}
        """Written by the threads of the transfers, one number each."""
        self._order: list[int] = []
        self._numbers = itertools.count(1)
        self._stops: dict[int, threading.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pulling: set[asyncio.Future[object]] = set()
        self._listeners: list[Callable[[], None]] = []
        self._closed = False

    # --- looking ---

    @property
    def items(self) -> tuple[Download, ...]:
        """The downloads, in their order."""
        return tuple(map(self._with_progress, self._order))

    def find(self, number: int) -> Download | None:
        """Return a download; None when it was taken from the queue."""
        return self._with_progress(number) if number in self._items else None

    def _with_progress(self, number: int) -> Download:
        return replace(self._items[number], progress=self._progress.get(number))

    @property
    def active(self) -> tuple[Download, ...]:
        """The downloads that run now."""
        return tuple(each for each in self.items if each.state in ACTIVE)

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` in the loop when a download changes its state, comes or goes."""
        self._listeners.append(changed)

    def unlisten(self, changed: Callable[[], None]) -> None:
        """Call it no more."""
        with suppress(ValueError):
            self._listeners.remove(changed)

    async def preview(self, request: DownloadRequest) -> DownloadPreview:
        """Look up what is known before the network is asked. Raises UsageError."""
        return await asyncio.to_thread(self.source.preview, request)

    # --- what a person does ---

    async def find_stopped(self) -> int:
        """Add the downloads of before, paused; return how many there are."""
        stopped = await asyncio.to_thread(saved.load, self._data())
        requests = (each.request for each in self.items)
        new = saved.without_done(stopped, requests)
        for each in new:
            self._add(each.request, DownloadState.PAUSED, done_bytes=each.done_bytes)
        if new:
            self._changed(save=False)
        return len(new)

    def add(self, request: DownloadRequest) -> Download:
        """Put a download at the end of the queue; one of the same file goes on instead."""
        for each in self.items:
            if each.request.same_file(request) and each.state is not DownloadState.DONE:
                self.resume(each.number)
                return self._items[each.number]
        item = self._add(request, DownloadState.WAITING)
        self._changed()
        return self._items[item.number]

    def pause(self, number: int) -> None:
        """Stop a download; what came is kept."""
        item = self._items.get(number)
        if item is None or item.state in (DownloadState.DONE, DownloadState.FAILED):
            return
        self._stop(number)
        if item.state is DownloadState.RUNNING:  # it says itself when it has stopped
            self._set(number, stopping=True)
        else:
            self._set(number, state=DownloadState.PAUSED)
        self._changed()

    def resume(self, number: int) -> None:
        """Let a download wait for its turn again, whatever stopped it."""
        item = self._items.get(number)
        if item is None or item.state not in (DownloadState.PAUSED, DownloadState.FAILED):
            return
        self._set(number, state=DownloadState.WAITING, problem=None)
        self._changed()

    async def remove(self, number: int, *, discard: bool) -> int:
        """Take a download from the queue, stopping it; return the bytes that were freed.

        `discard` deletes what came of it, unless it is done.
        """
        item = self._items.get(number)
        if item is None:
            return 0
        self._stop(number)
        task = self._tasks.get(number)
        self._order.remove(number)
        del self._items[number]
        self._changed()
        if task is not None:
            await asyncio.wait((task,), timeout=STOP_S)
        if not discard or item.state is DownloadState.DONE:
            return 0
        return await asyncio.to_thread(saved.discard, self._data(), item.request)

    def move(self, number: int, by: int) -> None:
        """Move a download up (negative) or down in the queue."""
        if number not in self._items:
            return
        at = self._order.index(number)
        self._order.pop(at)
        self._order.insert(max(0, at + by), number)
        self._changed()

    def set_at_once(self, count: int) -> None:
        """Run so many downloads at a time; those that run already go on."""
        self.at_once = max(1, min(count, MAX_AT_ONCE))
        self._changed(save=False)

    def forget_done(self) -> None:
        """Take the downloads that are done from the list."""
        for item in self.items:
            if item.state is DownloadState.DONE:
                self._order.remove(item.number)
                del self._items[item.number]
        self._changed(save=False)

    async def close(self) -> None:
        """Stop every transfer and wait until it has written down what it has."""
        self._closed = True
        self._save()
        for stop in self._stops.values():
            stop.set()
        for task in self._tasks.values():
            task.cancel()
        if self._pulling:
            await asyncio.wait(self._pulling, timeout=STOP_S)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()), timeout=STOP_S)

    # --- one download ---

    def _begin(self, number: int) -> None:
        self._stops[number] = threading.Event()
        task = asyncio.get_running_loop().create_task(self._run(number))
        self._tasks[number] = task
        task.add_done_callback(partial(self._ended, number))

    async def _run(self, number: int) -> None:
        item, stop = self._items[number], self._stops[number]
        try:
            host = (await asyncio.to_thread(self.source.access)).host
            plan = item.plan
            if plan is None:
                self._set(number, state=DownloadState.ASKING, host=host)
                self._notify()
                plan = await in_daemon_thread(partial(self.source.plan_pull, item.request))
                if stop.is_set():
                    return
                if not self._as_expected(number, plan):
                    return
            self._set(number, state=DownloadState.RUNNING, host=host, total_bytes=plan.size_bytes)
            self._notify()
            await self._pull(number, plan, stop)
        except DownloadStopped:
            self._set(number, state=DownloadState.PAUSED)
        except LocalLLMError as error:
            problem = describe_problem(error, item.request.repository)
            self._set(number, state=DownloadState.FAILED, problem=problem)

    def _as_expected(self, number: int, plan: "PullPlan") -> bool:
        """Keep the files of a download; False when they are much larger than was shown, so that a
        person has to resume it."""
        expected = self._items[number].request.size_bytes
        self._set(number, plan=plan, total_bytes=plan.size_bytes)
        if plan.size_bytes <= expected * MUCH_LARGER:
            return True
        problem = DownloadProblem(
            what=_("The Hub lists {size} and not {expected}.").format(
                size=format_bytes(plan.size_bytes), expected=format_bytes(expected)
            ),
            hint=_("Resume to download it all the same."),
        )
        self._set(number, state=DownloadState.PAUSED, problem=problem)
        return False

    async def _pull(self, number: int, plan: "PullPlan", stop: threading.Event) -> None:
        def on_progress(progress: "Progress") -> None:  # in the transfer's thread
            self._progress[number] = progress

        pulling = in_daemon_thread(
            partial(self.source.pull, plan, on_progress=on_progress, stop=stop)
        )
        waited: asyncio.Future[object] = pulling  # type: ignore[assignment]  # its result is unused
        self._pulling.add(waited)
        waited.add_done_callback(self._pull_ended)
        try:
            pulled = await asyncio.shield(pulling)
        except asyncio.CancelledError:
            stop.set()
            raise
        checked = pulled.sha256 is not None
        self._set(number, state=DownloadState.DONE, model=pulled.model, checked=checked)

    def _pull_ended(self, pulling: "asyncio.Future[object]") -> None:
        self._pulling.discard(pulling)
        if not pulling.cancelled():
            pulling.exception()  # whoever waited has it; nobody may have

    def _ended(self, number: int, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(number, None)
        self._stops.pop(number, None)
        self._set(number, stopping=False)
        item = self._items.get(number)
        if item is not None and item.state in ACTIVE:  # stopped while the Hub was asked, or a bug
            state = DownloadState.PAUSED if task.cancelled() else DownloadState.FAILED
            error = None if task.cancelled() else task.exception()
            if error is None:
                state = DownloadState.PAUSED
            self._set(number, state=state)
        if not self._closed:
            self._changed()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.report(error)

    # --- state ---

    def _add(
        self, request: DownloadRequest, state: DownloadState, *, done_bytes: int = 0
    ) -> Download:
        number = next(self._numbers)
        item = Download(
            number=number,
            request=request,
            state=state,
            done_bytes=done_bytes,
            total_bytes=max(request.size_bytes, done_bytes),
        )
        self._items[number] = item
        self._order.append(number)
        return item

    def _set(self, number: int, **changes: object) -> None:
        if (item := self._items.get(number)) is not None:
            self._items[number] = replace(item, **changes)  # type: ignore[arg-type]

    def _stop(self, number: int) -> None:
        if (stop := self._stops.get(number)) is not None:
            stop.set()
            if self._items[number].state is DownloadState.ASKING:
                self._tasks[number].cancel()  # the answer of the Hub is dropped

    def _changed(self, *, save: bool = True) -> None:
        """Begin what has its turn, and tell the listeners."""
        if self._closed:
            return
        for item in self.items:
            if len(self._tasks) >= self.at_once:
                break
            if item.state is DownloadState.WAITING and item.number not in self._tasks:
                self._begin(item.number)
        if save:
            self._save()
        self._notify()

    def _notify(self) -> None:
        for changed in tuple(self._listeners):
            changed()

    def _save(self) -> None:
        unfinished = (e.request for e in self.items if e.state is not DownloadState.DONE)
        with suppress(OSError):  # a full disk: the journals of what came are still there
            saved.save(self._data(), unfinished)

    def _data(self) -> Path:
        return paths.data_dir() if self._data_dir is None else self._data_dir
