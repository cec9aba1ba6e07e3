"""The engine as its parent sees it: one model, one child process, streams of events.

`Engine` is the protocol that the runtime depends on; `ProcessEngine` implements it with a process,
`fake.FakeEngine` with a script.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from localllm.core.hardware import EngineBuild
from localllm.engine.builds.candidates import RequestedEngine
from localllm.engine.client.child_process import WORKER, ChildProcess, launch
from localllm.engine.client.examination import proved_engine
from localllm.engine.client.exit_reason import last_words
from localllm.engine.client.pending import ControlEvent, ControlEvents, PendingRequests, SingleEvent
from localllm.engine.client.watchdog import Watchdog, WatchdogTimeouts
from localllm.engine.messages import (
    ApplyTemplateRequest,
    Architectures,
    ArchitecturesRequest,
    BuildInfo,
    BuildInfoRequest,
    Cancel,
    Command,
    CountTokensRequest,
    Detokenized,
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    ExportState,
    GenerateEvent,
    GenerateRequest,
    ImportState,
    ListStates,
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
    StatesListed,
    TemplateApplied,
    Tokenized,
    TokenizeRequest,
    TokensCounted,
)
from localllm.engine.messages.codec import UNAVAILABLE_STATUS, WireError, decode_event, encode
from localllm.engine.messages.validation import (
    check_detokenize,
    check_embed,
    check_generate,
    check_rerank,
    check_tokenize,
)
from localllm.errors import (
    BadRequest,
    EngineCrashed,
    EngineUnavailable,
    GenerationFailed,
    LoadFailed,
    LocalLLMError,
    QueueFull,
    StateFailed,
    UsageError,
)

_SHUTDOWN_GRACE_S = 3.0
_READER_GRACE_S = 10.0
"""For the end of the output of a process that was killed: longer than `ChildProcess.exit_reason`
takes to find that it cannot be."""

MAX_REQUEST_BYTES = 64 * 2**20
"""Of one request on the wire, pictures included; the engine's process reads it whole."""

_MAX_UNREAD_BYTES = 64 * 2**20

StateCommand = SaveState | RestoreState | ListStates | ExportState | ImportState

ControlCommand = BuildInfoRequest | LoadRequest | ProbeRequest | ArchitecturesRequest | StateCommand
"""Commands that are answered in their order; other requests are answered at the same time."""

SingleRequest = (
    EmbedRequest
    | RerankRequest
    | TokenizeRequest
    | DetokenizeRequest
    | ApplyTemplateRequest
    | CountTokensRequest
)
"""Requests that are answered by one event, as soon as it is there."""

C = TypeVar("C", bound=ControlEvent)
S = TypeVar("S", bound=SingleEvent)


CrashAdvice = Callable[[str], str]
"""What a person can do about a crash, by its reason (exit_reason.exit_reason): " A sentence.", or
nothing."""


def no_advice(_reason: str) -> str:
    """Advise nothing."""
    return ""


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
        """Return what the installed llama.cpp can use. Raises EngineUnavailable."""

    def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        """Load a model; the last event is `Loaded`. Raises LoadFailed, EngineUnavailable."""

    async def probe(self, request: ProbeRequest) -> Probed:
        """Ask llama.cpp what a load would allocate. Raises LoadFailed."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Answer one request; the last event is the `n`th `Finished`, with none remaining.

        Closing the iterator (`aclose`) cancels the request. Raises GenerationFailed classes.
        """

    async def architectures(self, names: tuple[str, ...]) -> Architectures:
        """Ask llama.cpp which of these it runs. Raises LoadFailed, EngineUnavailable."""

    async def save_state(self, request: SaveState) -> StateSaved:
        """Save a conversation's cells to a file. Raises StateFailed."""

    async def restore_state(self, request: RestoreState) -> StateRestored:
        """Load them from a file. Raises StateFailed, and the cache is as it was or emptier."""

    async def list_states(self) -> tuple[int, ...]:
        """List the conversations in the cache, used last first, by their tokens. Raises
        StateFailed."""

    async def export_state(self, request: ExportState) -> StateSaved:
        """Copy one of those that were listed out of the process. Raises StateFailed."""

    async def import_state(self, request: ImportState) -> StateRestored:
        """Take back what was exported; as `restore_state`."""

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Turn texts into vectors. Being cancelled cancels the request.

        Raises GenerationFailed classes: BadRequest also for a model that was not loaded for it.
        """

    async def rerank(self, request: RerankRequest) -> Reranked:
        """Score documents against a query; as `embed`."""

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """Cut a text into tokens, between two steps of the answers that run. Raises BadRequest."""

    async def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Write tokens as text; as `tokenize`."""

    async def apply_template(self, request: GenerateRequest) -> str:
        """Write the prompt of a request as text; as `tokenize`. Raises GenerationFailed classes."""

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Count the tokens of the prompt of a request; as `apply_template`."""

    async def cancel(self, request_id: str) -> None:
        """End a request; its stream ends with `Finished(reason=CANCELLED)`."""

    def silent_s(self) -> float:
        """Seconds since the last sign of life while a request is pending; 0 while none is."""

    def memory_bytes(self) -> int | None:
        """Resident memory of the process (RSS, shared pages of the mapped file included)."""

    async def close(self) -> None:
        """End the process and free everything it holds. Safe to call twice."""


class ProcessEngine:
    """The real engine: `python -m localllm.engine.worker` in a process of its own.

    The process starts at the first call. llama.cpp's log goes to a file in `log_dir` (None: a
    temporary file that a clean end removes). A process that shows no sign of life within `timeouts`
    while a request is pending is ended: EngineCrashed. `crash_advice` knows the machine, which this
    room does not.
    """

    def __init__(
        self,
        *,
        log_dir: Path | None = None,
        timeouts: WatchdogTimeouts | None = None,
        program: Sequence[str] = WORKER,
        crash_advice: CrashAdvice = no_advice,
        verdicts: Path | None = None,
        requested: RequestedEngine | None = None,
    ) -> None:
        """`verdicts` keeps what examinations of the engine have found (None: only this process
        remembers); `requested` is the build that a person has chosen (examination.proved_engine).
        """
        self._requested = requested
        self._reason = ""
        self._crash_advice = crash_advice
        self._log_dir = log_dir
        self._program = program
        self._verdicts = verdicts
        self._timeouts = timeouts or WatchdogTimeouts()
        self._watchdog = Watchdog(self._timeouts)
        self._child: ChildProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._pending = PendingRequests()
        self._crash: EngineCrashed | EngineUnavailable | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.running else None

    @property
    def alive(self) -> bool:
        return self._crash is None and not self._closing

    def silent_s(self) -> float:
        return self._watchdog.silent_s(time.monotonic())

    def memory_bytes(self) -> int | None:
        if self.pid is None:
            return None
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return None

    async def describe(self) -> EngineBuild:
        build = (await self._control(BuildInfoRequest(), BuildInfo)).build
        return replace(build, reason=self._reason)

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        events = await self._send_control(request)
        done = False
        try:
            while not done:
                event = await events.get()
                done = not isinstance(event, LoadProgress)
                if not isinstance(event, LoadProgress | Loaded):
                    raise _error_of(event, request)
                yield event
        finally:
            if not done and self._child is not None:
                self._closing = True  # a load that nobody waits for: only the end stops it
                self._child.kill()

    async def probe(self, request: ProbeRequest) -> Probed:
        return await self._control(request, Probed)

    async def architectures(self, names: tuple[str, ...]) -> Architectures:
        return await self._control(ArchitecturesRequest(names=names), Architectures)

    async def save_state(self, request: SaveState) -> StateSaved:
        return await self._control(request, StateSaved)

    async def restore_state(self, request: RestoreState) -> StateRestored:
        return await self._control(request, StateRestored)

    async def list_states(self) -> tuple[int, ...]:
        return (await self._control(ListStates(), StatesListed)).tokens

    async def export_state(self, request: ExportState) -> StateSaved:
        return await self._control(request, StateSaved)

    async def import_state(self, request: ImportState) -> StateRestored:
        return await self._control(request, StateRestored)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        check_generate(request)
        line = _line(request)
        child = await self._accepting_child()
        stream = self._pending.add_stream(request.request_id)
        child.send(line)
        try:
            while not stream.finished:
                yield await stream.get()
        finally:
            if not stream.finished:
                await self.cancel(request.request_id)

    async def embed(self, request: EmbedRequest) -> Embedded:
        check_embed(request)
        return await self._single(request, Embedded)

    async def rerank(self, request: RerankRequest) -> Reranked:
        check_rerank(request)
        return await self._single(request, Reranked)

    async def tokenize(self, request: TokenizeRequest) -> Tokenized:
        check_tokenize(request)
        return await self._single(request, Tokenized)

    async def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        check_detokenize(request)
        return await self._single(request, Detokenized)

    async def apply_template(self, request: GenerateRequest) -> str:
        check_generate(request)
        command = ApplyTemplateRequest(request_id=request.request_id, request=request)
        return (await self._single(command, TemplateApplied)).text

    async def count_tokens(self, request: GenerateRequest) -> int:
        check_generate(request)
        command = CountTokensRequest(request_id=request.request_id, request=request)
        return (await self._single(command, TokensCounted)).prompt_tokens

    async def cancel(self, request_id: str) -> None:
        if self._child is not None and self.alive:
            self._child.send(encode(Cancel(request_id=request_id)))

    async def close(self) -> None:
        self._closing = True
        async with self._starting:  # a process that is being started is there afterwards
            child, reader = self._child, self._reader
        if child is None or reader is None:
            return
        await child.close(grace_s=_SHUTDOWN_GRACE_S, last_line=encode(Shutdown()))
        await asyncio.wait((reader,), timeout=_READER_GRACE_S)
        reader.cancel()
        self._fail(_closed())
        if self._log_dir is None and child.log_path is not None:
            child.log_path.unlink(missing_ok=True)

    # --- requests ---

    async def _started_child(self) -> ChildProcess:
        """Return the child, started now if it was not. Nothing may be awaited between this and the
        first write to it: whatever has happened to the child until then is checked here."""
        async with self._starting:
            if self._child is None and not self._closing:
                proved = await proved_engine(self._verdicts, self._crash_advice, self._requested)
                self._reason, directory = proved.reason, proved.candidate.directory
                self._child = await launch(self._log_dir, self._program, engine=directory)
                self._reader = asyncio.create_task(self._read(self._child))
                self._watcher = asyncio.create_task(self._watch(self._child))
        if self._crash is not None:
            raise self._crash
        if self._closing or self._child is None:
            raise _closed()
        return self._child

    async def _accepting_child(self) -> ChildProcess:
        """Return the child. Raises QueueFull when it has not read much of what it was sent."""
        child = await self._started_child()
        if child.unread_bytes > _MAX_UNREAD_BYTES:
            raise QueueFull(
                f"The engine still has {child.unread_bytes} bytes of requests to read. "
                "Try again later."
            )
        return child

    async def _control(self, command: ControlCommand, kind: type[C]) -> C:
        """Send a control command and wait for an event of this kind. Raises the error that comes
        instead."""
        event = await (await self._send_control(command)).get()
        if isinstance(event, kind):
            return event
        raise _error_of(event, command)

    async def _send_control(self, command: ControlCommand) -> ControlEvents:
        line = _line(command)
        child = await self._started_child()
        events = self._pending.add_control()
        child.send(line)
        return events

    async def _single(self, request: SingleRequest, kind: type[S]) -> S:
        """Send a request that has one event, and wait for it."""
        line = _line(request)
        child = await self._accepting_child()
        future = self._pending.add_single(request.request_id)
        child.send(line)
        try:
            event = await future
        except asyncio.CancelledError:
            await self.cancel(request.request_id)
            raise
        if isinstance(event, kind):
            return event
        raise GenerationFailed(f"The engine answered {type(event).__name__}.")

    # --- the child's events and its end ---

    async def _read(self, child: ChildProcess) -> None:
        """Dispatch the child's events until it ends."""
        garbage: str | None = None
        try:
            async with aclosing(child.lines()) as lines:
                async for line in lines:
                    event = decode_event(line)
                    self._watchdog.record(event, time.monotonic())
                    if (overflown := self._pending.dispatch(event)) is not None:
                        await self.cancel(overflown)
        except ValueError as error:  # a WireError, or a line without end
            garbage = f"garbage on its output: {error}"
            child.kill()
        reason = await child.exit_reason(grace_s=_SHUTDOWN_GRACE_S)
        crash = _crashed(garbage or reason, child, self._crash_advice)
        self._fail(_closed() if self._closing else crash)

    async def _watch(self, child: ChildProcess) -> None:
        """End the process when it shows no sign of life although a request is pending."""
        while True:
            if not self._pending.active.is_set():
                self._watchdog.pause()
                await self._pending.active.wait()
            reason = self._watchdog.check(time.monotonic(), long_call=self._pending.controls > 0)
            if reason is not None:
                self._fail(_closed() if self._closing else _hung(reason, child))
                child.kill()
                return
            child.trim_log()
            await asyncio.sleep(self._timeouts.interval_s)

    def _fail(self, error: EngineCrashed | EngineUnavailable) -> None:
        """Fail all pending requests: the process is gone, or will be. Later calls fail too, with
        the first reason."""
        self._crash = self._crash or error
        self._pending.fail_all(self._crash)
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()


def _crashed(
    reason: str, child: ChildProcess, advise: CrashAdvice
) -> EngineCrashed | EngineUnavailable:
    """Make the error of a process that has ended; `reason` is that of ChildProcess.exit_reason."""
    tail = child.log_tail()
    if reason == f"exit status {UNAVAILABLE_STATUS}":
        return EngineUnavailable(tail[-1] if tail else "llama.cpp cannot be loaded.")
    hint = (
        " The system's out-of-memory killer ends processes this way: try a smaller quant or --ctx."
        if reason == "SIGKILL"
        else advise(reason)
    )
    words = last_words(tail)
    why = f": {words}" if words is not None else ""
    return EngineCrashed(
        f"The engine's process ended ({reason}){why}.{hint} {_log_hint(child)}",
        reason=reason,
        log_tail=tail,
    )


def _hung(reason: str, child: ChildProcess) -> EngineCrashed:
    """Make the error of a process that its parent ends; `reason` is that of Watchdog.check."""
    return EngineCrashed(
        f"The engine's process {reason} and was ended. {_log_hint(child)}",
        reason=reason,
        log_tail=child.log_tail(),
    )


def _closed() -> EngineCrashed:
    return EngineCrashed("The engine was closed.", reason="closed")


def _log_hint(child: ChildProcess) -> str:
    return f"Its log: {child.log_path}" if child.log_path else "No log of it could be written."


def _error_of(event: ControlEvent | LocalLLMError, command: ControlCommand) -> LocalLLMError:
    """Make the error of a control command that got this event."""
    if isinstance(event, LocalLLMError):
        return event
    if isinstance(event, LoadError):
        return UsageError(event.message) if event.usage else LoadFailed(event.message)
    if isinstance(event, StateError):
        return StateFailed(event.message)
    return LoadFailed(f"The engine answered {type(event).__name__} to {type(command).__name__}.")


def _line(command: Command) -> bytes:
    """Encode a command. Raises the error of its kind when it cannot be encoded or is too long."""
    try:
        line = encode(command)
    except WireError as error:
        if isinstance(command, GenerateRequest | SingleRequest):
            raise BadRequest(f"The request is not valid Unicode: {error}") from error
        if isinstance(command, StateCommand):
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


async def engine_build(
    crash_advice: CrashAdvice = no_advice,
    verdicts: Path | None = None,
    requested: RequestedEngine | None = None,
) -> EngineBuild:
    """Return the build of the engine; the arguments are those of `ProcessEngine`.

    Raises EngineError classes and TimeoutError.
    """
    engine = ProcessEngine(crash_advice=crash_advice, verdicts=verdicts, requested=requested)
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            return await engine.describe()
    finally:
        await engine.close()


async def runnable_architectures(
    names: tuple[str, ...],
    verdicts: Path | None = None,
    requested: RequestedEngine | None = None,
) -> Architectures:
    """Ask the engine which of these architectures it runs; the others as for `ProcessEngine`.

    Raises EngineError classes and TimeoutError.
    """
    engine = ProcessEngine(verdicts=verdicts, requested=requested)
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            return await engine.architectures(names)
    finally:
        await engine.close()
