"""The engine as its parent sees it: one model, one child process, streams of events.

`Engine` is what the runtime depends on; `ProcessEngine` is the real one and `fake.FakeEngine`
the scripted one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from localllm.core.hardware import EngineBuild
from localllm.engine.client.child_process import WORKER, ChildProcess, launch
from localllm.engine.client.failures import closed, crash, gave_up
from localllm.engine.client.pending import Answers, ControlEvent, OneAnswer, Replies
from localllm.engine.client.watchdog import Patience, Watchdog
from localllm.engine.messages import (
    BuildInfo,
    BuildInfoRequest,
    Cancel,
    Command,
    Embedded,
    EmbedRequest,
    GenerateEvent,
    GenerateRequest,
    Loaded,
    LoadError,
    LoadProgress,
    LoadRequest,
    Probed,
    ProbeRequest,
    Reranked,
    RerankRequest,
    RestoreState,
    SaveState,
    Shutdown,
    StateError,
    StateRestored,
    StateSaved,
)
from localllm.engine.messages.codec import WireError, decode_event, encode
from localllm.engine.messages.validation import check_embed, check_generate, check_rerank
from localllm.errors import (
    BadRequest,
    EngineCrashed,
    EngineUnavailable,
    GenerationFailed,
    LoadFailed,
    LocalLLMError,
    QueueFull,
    StateFailed,
)

_SHUTDOWN_GRACE_S = 3.0
_READER_GRACE_S = 10.0
"""For the end of the output of a process that was killed: longer than it takes to find that it
cannot be (process.py)."""
MAX_REQUEST_BYTES = 64 * 2**20
"""Of one request on the wire, pictures included; the engine's process reads it whole."""

_MAX_UNREAD_BYTES = 64 * 2**20

Question = BuildInfoRequest | LoadRequest | ProbeRequest | SaveState | RestoreState
"""A command that is answered in turn; `GenerateRequest`s are answered at the same time."""

E = TypeVar("E", bound=ControlEvent)
S = TypeVar("S", bound=OneAnswer)


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
        """Answer one request; the last event is the `n`th `Finished`, with none remaining.

        Closing the iterator (`aclose`) cancels the request. Raises GenerationFailed classes.
        """

    async def save_state(self, request: SaveState) -> StateSaved:
        """Keep a conversation's cells in a file. Raises StateFailed."""

    async def restore_state(self, request: RestoreState) -> StateRestored:
        """Bring them back. Raises StateFailed, and the cache is as it was or emptier."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Turn texts into vectors. Being cancelled cancels the request.

        Raises GenerationFailed classes: BadRequest also for a model that was not loaded for it.
        """

    async def rerank(self, request: RerankRequest) -> Reranked:
        """Score documents against a query; as `embed`."""

    async def cancel(self, request_id: str) -> None:
        """End a request; its stream ends with `Finished(reason=CANCELLED)`."""

    def memory_bytes(self) -> int | None:
        """Resident memory of the process (RSS, shared pages of the mapped file included)."""

    async def close(self) -> None:
        """End the process and free everything it holds. Safe to call twice."""


class ProcessEngine:
    """The real engine: `python -m localllm.engine.worker` in a process of its own.

    The process starts at the first call. What llama.cpp writes goes to a file in `log_dir`
    (None: a temporary file that a clean end removes). A process that shows no life for as long as
    `patience` says, although somebody waits for an answer, is ended: EngineCrashed.
    """

    def __init__(
        self,
        *,
        log_dir: Path | None = None,
        patience: Patience | None = None,
        program: Sequence[str] = WORKER,
    ) -> None:
        self._log_dir = log_dir
        self._program = program
        self._patience = patience or Patience()
        self._watchdog = Watchdog(self._patience)
        self._child: ChildProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._replies = Replies()
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
        return (await self._answer(BuildInfoRequest(), BuildInfo)).build

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        answers = await self._ask(request)
        done = False
        try:
            while not done:
                event = await answers.get()
                done = not isinstance(event, LoadProgress)
                if not isinstance(event, LoadProgress | Loaded):
                    raise _unexpected(event, request)
                yield event
        finally:
            if not done and self._child is not None:
                self._closing = True  # a load that nobody waits for: only the end stops it
                self._child.kill()

    async def probe(self, request: ProbeRequest) -> Probed:
        return await self._answer(request, Probed)

    async def save_state(self, request: SaveState) -> StateSaved:
        return await self._answer(request, StateSaved)

    async def restore_state(self, request: RestoreState) -> StateRestored:
        return await self._answer(request, StateRestored)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        check_generate(request)
        line = _line(request)
        child = await self._with_room()
        stream = self._replies.open(request.request_id)
        child.send(line)
        try:
            while not stream.ended:
                yield await stream.take()
        finally:
            if not stream.ended:
                await self.cancel(request.request_id)

    async def embed(self, request: EmbedRequest) -> Embedded:
        check_embed(request)
        return await self._single(request, Embedded)

    async def rerank(self, request: RerankRequest) -> Reranked:
        check_rerank(request)
        return await self._single(request, Reranked)

    async def cancel(self, request_id: str) -> None:
        if self._child is not None and self.alive:
            self._child.send(encode(Cancel(request_id=request_id)))

    async def close(self) -> None:
        self._closing = True
        async with self._starting:  # a process that is being started is there afterwards
            child, reader = self._child, self._reader
        if child is None or reader is None:
            return
        await child.close(grace_s=_SHUTDOWN_GRACE_S, farewell=encode(Shutdown()))
        await asyncio.wait((reader,), timeout=_READER_GRACE_S)
        reader.cancel()
        self._end(closed())
        if self._log_dir is None and child.log_path is not None:
            child.log_path.unlink(missing_ok=True)

    # --- inside ---

    async def _running(self) -> ChildProcess:
        """The child, started now if it was not. Nothing may be awaited between this and the
        first write to it: what has happened to the child until then is checked here."""
        async with self._starting:
            if self._child is None and not self._closing:
                self._child = await launch(self._log_dir, self._program)
                self._reader = asyncio.create_task(self._read(self._child))
                self._watcher = asyncio.create_task(self._watch(self._child))
        if self._crash is not None:
            raise self._crash
        if self._closing or self._child is None:
            raise closed()
        return self._child

    async def _with_room(self) -> ChildProcess:
        """The running child. Raises QueueFull when it has not read much of what it was sent."""
        child = await self._running()
        if child.unread_bytes > _MAX_UNREAD_BYTES:
            raise QueueFull(
                f"The engine still has {child.unread_bytes} bytes of requests to read. "
                "Try again later."
            )
        return child

    async def _answer(self, question: Question, kind: type[E]) -> E:
        """Ask, and wait for an answer of this kind. Raises what came instead."""
        event = await (await self._ask(question)).get()
        if isinstance(event, kind):
            return event
        raise _unexpected(event, question)

    async def _single(self, request: EmbedRequest | RerankRequest, kind: type[S]) -> S:
        """Send a request that has one answer, and wait for it."""
        line = _line(request)
        child = await self._with_room()
        answer = self._replies.expect(request.request_id)
        child.send(line)
        try:
            event = await answer
        except asyncio.CancelledError:
            await self.cancel(request.request_id)
            raise
        if isinstance(event, kind):
            return event
        raise GenerationFailed(f"The engine answered {type(event).__name__}.")

    async def _ask(self, question: Question) -> Answers:
        line = _line(question)
        child = await self._running()
        answers = self._replies.ask()
        child.send(line)
        return answers

    async def _read(self, child: ChildProcess) -> None:
        garbage: str | None = None
        try:
            async with aclosing(child.lines()) as lines:
                async for line in lines:
                    event = decode_event(line)
                    self._watchdog.heard(event, time.monotonic())
                    if (unread := self._replies.deliver(event)) is not None:
                        await self.cancel(unread)
        except ValueError as error:  # a WireError, or a line without end
            garbage = f"garbage on its output: {error}"
            child.kill()
        reason = await child.exit_reason(grace_s=_SHUTDOWN_GRACE_S)
        self._end(closed() if self._closing else crash(garbage or reason, child))

    async def _watch(self, child: ChildProcess) -> None:
        """End the process when it shows no life although somebody waits for an answer."""
        while True:
            if not self._replies.wanted.is_set():
                self._watchdog.rest()
                await self._replies.wanted.wait()
            reason = self._watchdog.look(time.monotonic(), long=self._replies.questions > 0)
            if reason is not None:
                self._end(closed() if self._closing else gave_up(reason, child))
                child.kill()
                return
            child.trim_log()
            await asyncio.sleep(self._patience.look_s)

    def _end(self, error: EngineCrashed | EngineUnavailable) -> None:
        """The process is gone, or nobody will wait for it: everybody gets the first reason."""
        self._crash = self._crash or error
        self._replies.end(self._crash)
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()


def _unexpected(event: ControlEvent | LocalLLMError, question: Question) -> LocalLLMError:
    """Why a question was not answered as it should be."""
    if isinstance(event, LocalLLMError):
        return event
    if isinstance(event, LoadError):
        return LoadFailed(event.message)
    if isinstance(event, StateError):
        return StateFailed(event.message)
    return LoadFailed(f"The engine answered {type(event).__name__} to {type(question).__name__}.")


def _line(command: Command) -> bytes:
    try:
        line = encode(command)
    except WireError as error:
        if isinstance(command, GenerateRequest | EmbedRequest | RerankRequest):
            raise BadRequest(f"The request is not valid Unicode: {error}") from error
        if isinstance(command, SaveState | RestoreState):
            raise StateFailed(f"The engine cannot be told this path or text: {error}") from error
        raise LoadFailed(
            f"The engine cannot be told this path; rename the file to plain letters: {error}"
        ) from error
    if len(line) > MAX_REQUEST_BYTES:
        raise BadRequest(
            f"The request has {len(line)} bytes; at most {MAX_REQUEST_BYTES} are accepted."
        )
    return line


ENGINE_TIMEOUT_S = 60.0
"""A first import from a cold disk takes seconds; a hung driver for ever."""


async def engine_build() -> EngineBuild:
    """Ask the installed engine what it is. Raises EngineError classes and TimeoutError."""
    engine = ProcessEngine()
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            return await engine.describe()
    finally:
        await engine.close()
