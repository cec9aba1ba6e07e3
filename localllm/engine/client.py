"""The engine as its parent sees it: one model, one child process, streams of events.

`Engine` is what the runtime depends on; `ProcessEngine` is the real one and `fake.FakeEngine`
the scripted one.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
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
        self._control: asyncio.Queue[_Control] = asyncio.Queue()
        self._streams: dict[str, asyncio.Queue[_Answer]] = {}
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
        await self._send(Describe())
        event = await self._next_control()
        if isinstance(event, Described):
            return event.build
        raise LoadFailed(f"The engine answered {type(event).__name__} to Describe.")

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        await self._send(request)
        done = False
        try:
            while not done:
                event = await self._next_control()
                if isinstance(event, LoadRefused):
                    done = True
                    raise LoadFailed(event.message)
                if isinstance(event, LoadProgress | Loaded):
                    done = isinstance(event, Loaded)
                    yield event
        finally:
            if not done and self._child is not None:
                self._closing = True  # a load that nobody waits for: only the end stops it
                self._child.kill()

    async def probe(self, request: ProbeRequest) -> Probed:
        await self._send(request)
        event = await self._next_control()
        if isinstance(event, LoadRefused):
            raise LoadFailed(event.message)
        if isinstance(event, Probed):
            return event
        raise LoadFailed(f"The engine answered {type(event).__name__} to ProbeRequest.")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        answers: asyncio.Queue[_Answer] = asyncio.Queue()
        self._streams[request.request_id] = answers
        done = False
        try:
            await self._send(request)
            while not done:
                event = await answers.get()
                if isinstance(event, LocalLLMError):
                    done = True
                    raise event
                done = isinstance(event, Finished)
                yield event
        finally:
            self._streams.pop(request.request_id, None)
            if not done:
                await self.cancel(request.request_id)

    async def cancel(self, request_id: str) -> None:
        if self._child is not None and self.alive:
            await self._child.send(encode(Cancel(request_id=request_id)))

    async def close(self) -> None:
        self._closing = True
        child, reader = self._child, self._reader
        if child is None or reader is None:
            return
        if child.running:
            await child.send(encode(Shutdown()))
            await child.close(grace_s=_SHUTDOWN_GRACE_S)
        await reader
        if self._log_dir is None:
            child.log_path.unlink(missing_ok=True)

    async def _send(self, command: Command) -> None:
        if self._crash is not None:
            raise self._crash
        if self._closing:
            raise EngineCrashed("The engine was closed.", reason="closed")
        if self._child is None:
            self._child = await ChildProcess.start(
                # -P: a llama_cpp.py in the current directory must not be imported.
                [sys.executable, "-P", "-m", "localllm.engine.worker"],
                log_path=_log_path(self._log_dir),
                environment=os.environ | _ENVIRONMENT,
            )
            self._reader = asyncio.create_task(self._read(self._child))
        await self._child.send(encode(command))

    async def _next_control(self) -> "_ControlEvent":
        event = await self._control.get()
        if isinstance(event, LocalLLMError):
            self._control.put_nowait(event)  # whoever asks next gets it too
            raise event
        return event

    async def _read(self, child: ChildProcess) -> None:
        garbage: str | None = None
        async for line in child.lines():
            try:
                self._dispatch(decode_event(line))
            except WireError as error:
                garbage = str(error)
                child.kill()
                break
        reason = await child.exit_reason()
        crash = _crash(reason if garbage is None else f"garbage on its output: {garbage}", child)
        self._crash = crash
        self._control.put_nowait(crash)
        for answers in self._streams.values():
            answers.put_nowait(crash)

    def _dispatch(self, event: Event) -> None:
        match event:
            case PromptProgress() | Token() | Finished():
                if (answers := self._streams.get(event.request_id)) is not None:
                    answers.put_nowait(event)
            case Refused():
                if (answers := self._streams.get(event.request_id)) is not None:
                    answers.put_nowait(_failure(event))
            case _:
                self._control.put_nowait(event)


_ControlEvent = Described | LoadProgress | Loaded | Probed | LoadRefused
_Control = _ControlEvent | LocalLLMError
_Answer = GenerateEvent | LocalLLMError
_FAILURES: dict[str, type[GenerationFailed]] = {
    kind.code: kind for kind in (GenerationFailed, BadRequest, ContextOverflow, QueueFull)
}


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
        logs = sorted(directory.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)
        for old in logs[: -_KEPT_LOGS + 1]:
            old.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="engine-", suffix=".log", dir=directory)
    os.close(descriptor)
    return Path(name)
