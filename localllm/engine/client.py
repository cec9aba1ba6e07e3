"""The engine as its parent sees it: one model, one child process, streams of events.

`Engine` is what the runtime depends on; `ProcessEngine` is the real one and `fake.FakeEngine`
the scripted one.
"""

import asyncio
import os
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import psutil

from localllm.core.hardware import EngineBuild
from localllm.engine.events import (
    Cancel,
    Command,
    Describe,
    Described,
    Event,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Loaded,
    LoadProgress,
    LoadRefused,
    LoadRequest,
    Probed,
    ProbeRequest,
    PromptProgress,
    Refused,
    Shutdown,
    Token,
)
from localllm.engine.limits import check_request
from localllm.engine.process import ChildProcess
from localllm.engine.wire import UNAVAILABLE_STATUS, WireError, decode_event, encode
from localllm.errors import (
    BadRequest,
    ContextOverflow,
    EngineCrashed,
    EngineUnavailable,
    GenerationFailed,
    LoadFailed,
    LocalLLMError,
    QueueFull,
)

_SHUTDOWN_GRACE_S = 3.0
_KEPT_LOGS = 20
_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # keeps gdb out of the log (design notes, ENGINE.md)
    "PYTHONUTF8": "1",
}


class Engine(Protocol):
    """One model in one process.

    Every method may raise EngineCrashed when the process is gone; all requests in flight get
    it. A crashed engine stays crashed: start a new one.
    """

    @property
    def pid(self) -> int | None:
        """The child's process id, None when it does not run."""

    @property
    def alive(self) -> bool: ...

    async def describe(self) -> EngineBuild:
        """Say what the installed llama.cpp can use. Raises EngineUnavailable."""

    def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        """Load a model; the last event is `Loaded`. Raises LoadFailed, EngineUnavailable."""

    async def probe(self, request: ProbeRequest) -> Probed:
        """Ask llama.cpp what a load would allocate. Raises LoadFailed."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Answer one request; the last event is `Finished`.

        Closing the iterator (`aclose`) cancels the request. Raises GenerationFailed classes.
        """

    async def cancel(self, request_id: str) -> None:
        """End a request; its stream ends with `Finished(reason=CANCELLED)`."""

    def memory_bytes(self) -> int | None:
        """Resident memory of the process (RSS, shared pages of the mapped file included)."""

    async def close(self) -> None:
        """End the process and free everything it holds. Safe to call twice."""


class ProcessEngine:
    """The real engine: `python -m localllm.engine.worker` in a process of its own.

    The process starts at the first call. What llama.cpp writes goes to a file in `log_dir`
    (None: a temporary file that a clean end removes).
    """

    def __init__(self, *, log_dir: Path | None = None) -> None:
        self._log_dir = log_dir
        self._child: ChildProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._asked: deque[asyncio.Queue[_Control]] = deque()
        """Whoever waits for a Described, Probed or Loaded, in the order of their commands, which
        is that of the worker's answers. Who has given up stays until the answer has come."""
        self._streams: dict[str, asyncio.Queue[_Answer]] = {}
        """By request id, until the worker has said the last word: an id is not free earlier."""
        self._crash: EngineCrashed | EngineUnavailable | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.running else None

    @property
    def alive(self) -> bool:
        return self._crash is None and not self._closing

    def memory_bytes(self) -> int | None:
        if self.pid is None:
            return None
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return None

    async def describe(self) -> EngineBuild:
        event = await (await self._ask(Describe())).get()
        if isinstance(event, Described):
            return event.build
        raise _unexpected(event, "Describe")

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        answers = await self._ask(request)
        done = False
        try:
            while not done:
                event = await answers.get()
                done = not isinstance(event, LoadProgress)
                if not isinstance(event, LoadProgress | Loaded):
                    raise _unexpected(event, "LoadRequest")
                yield event
        finally:
            if not done and self._child is not None:
                self._closing = True  # a load that nobody waits for: only the end stops it
                self._child.kill()

    async def probe(self, request: ProbeRequest) -> Probed:
        event = await (await self._ask(request)).get()
        if isinstance(event, Probed):
            return event
        raise _unexpected(event, "ProbeRequest")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        check_request(request)
        line = _line(request)
        child = await self._running()
        if request.request_id in self._streams:
            raise BadRequest(f"A request with the id {request.request_id!r} is running already.")
        answers = self._streams[request.request_id] = asyncio.Queue()
        done = False
        try:
            await child.send(line)
            while not done:
                event = await answers.get()
                done = not isinstance(event, PromptProgress | Token)
                if isinstance(event, LocalLLMError):
                    raise event
                yield event
        finally:
            if not done:
                await self.cancel(request.request_id)

    async def cancel(self, request_id: str) -> None:
        if self._child is not None and self.alive:
            await self._child.send(encode(Cancel(request_id=request_id)))

    async def close(self) -> None:
        self._closing = True
        async with self._starting:  # a process that is being started is there afterwards
            child, reader = self._child, self._reader
        if child is None or reader is None:
            return
        await child.close(grace_s=_SHUTDOWN_GRACE_S, farewell=encode(Shutdown()))
        await asyncio.wait((reader,))
        if self._log_dir is None:
            child.log_path.unlink(missing_ok=True)

    async def _running(self) -> ChildProcess:
        """The child, started now if it was not. Nothing may be awaited between this and the
        first write to it: what has happened to the child until then is checked here."""
        async with self._starting:
            if self._child is None and not self._closing:
                self._child = await _start(self._log_dir)
                self._reader = asyncio.create_task(self._read(self._child))
        if self._crash is not None:
            raise self._crash
        if self._closing or self._child is None:
            raise _closed()
        return self._child

    async def _ask(self, command: Describe | LoadRequest | ProbeRequest) -> "_Answers":
        line = _line(command)
        child = await self._running()
        answers: _Answers = asyncio.Queue()
        self._asked.append(answers)
        try:
            await child.send(line)
        except asyncio.CancelledError:
            if isinstance(command, LoadRequest):
                self._closing = True
                child.kill()
            raise
        return answers

    async def _read(self, child: ChildProcess) -> None:
        garbage: str | None = None
        try:
            async with aclosing(child.lines()) as lines:
                async for line in lines:
                    self._dispatch(decode_event(line))
        except ValueError as error:  # a WireError, or a line without end
            garbage = f"garbage on its output: {error}"
            child.kill()
        reason = await child.exit_reason(grace_s=_SHUTDOWN_GRACE_S)
        self._crash = _closed() if self._closing else _crash(garbage or reason, child)
        for asked in self._asked:
            asked.put_nowait(self._crash)
        for answers in self._streams.values():
            answers.put_nowait(self._crash)
        self._asked.clear()
        self._streams.clear()

    def _dispatch(self, event: Event) -> None:
        match event:
            case PromptProgress() | Token():
                if (answers := self._streams.get(event.request_id)) is not None:
                    answers.put_nowait(event)
            case Finished() | Refused():
                if (answers := self._streams.pop(event.request_id, None)) is not None:
                    answers.put_nowait(_failure(event) if isinstance(event, Refused) else event)
            case _ if not self._asked:
                raise WireError(f"{type(event).__name__}, which nobody has asked for")
            case LoadProgress():
                self._asked[0].put_nowait(event)
            case _:
                self._asked.popleft().put_nowait(event)


_ControlEvent = Described | LoadProgress | Loaded | Probed | LoadRefused
_Control = _ControlEvent | LocalLLMError
_Answers = asyncio.Queue[_Control]
_Answer = GenerateEvent | LocalLLMError
_FAILURES: dict[str, type[GenerationFailed]] = {
    kind.code: kind for kind in (GenerationFailed, BadRequest, ContextOverflow, QueueFull)
}


def _unexpected(event: _Control, command: str) -> LocalLLMError:
    """Why a command was not answered as it should be."""
    if isinstance(event, LocalLLMError):
        return event
    if isinstance(event, LoadRefused):
        return LoadFailed(event.message)
    return LoadFailed(f"The engine answered {type(event).__name__} to {command}.")


def _line(command: Command) -> bytes:
    try:
        return encode(command)
    except WireError as error:
        if isinstance(command, GenerateRequest):
            raise BadRequest(f"The request is not valid Unicode: {error}") from error
        raise LoadFailed(
            f"The engine cannot be told this path; rename the file to plain letters: {error}"
        ) from error


def _closed() -> EngineCrashed:
    return EngineCrashed("The engine was closed.", reason="closed")


async def _start(log_dir: Path | None) -> ChildProcess:
    try:
        return await ChildProcess.start(
            # -P: a llama_cpp.py in the current directory must not be imported.
            [sys.executable, "-P", "-m", "localllm.engine.worker"],
            log_path=_log_path(log_dir),
            environment=os.environ | _ENVIRONMENT,
        )
    except OSError as error:  # no such directory, no more processes, no memory for one
        raise EngineUnavailable(f"The engine's process does not start: {error}") from error


def _failure(event: Refused) -> GenerationFailed:
    return _FAILURES.get(event.code, GenerationFailed)(event.message)


def _crash(reason: str, child: ChildProcess) -> EngineCrashed | EngineUnavailable:
    tail = child.log_tail()
    if reason == f"exit status {UNAVAILABLE_STATUS}":
        return EngineUnavailable(tail[-1] if tail else "llama-cpp-python does not import.")
    hint = (
        " The system's out-of-memory killer ends processes this way: try a smaller quant or --ctx."
        if reason == "SIGKILL"
        else ""
    )
    return EngineCrashed(
        f"The engine's process ended ({reason}).{hint} Its log: {child.log_path}",
        reason=reason,
        log_tail=tail,
    )


def _log_path(directory: Path | None) -> Path:
    """A new log file; of the older ones in `directory` the last few are kept."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        logs = sorted(directory.glob("engine-*.log"), key=_written)
        for old in logs[: -_KEPT_LOGS + 1]:
            old.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="engine-", suffix=".log", dir=directory)
    os.close(descriptor)
    return Path(name)


def _written(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:  # another engine has just removed it
        return 0.0
