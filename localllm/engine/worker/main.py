"""The engine's process: lines in, lines out, one model, one thread that computes.

A reader thread takes commands from stdin while llama.cpp computes (ctypes releases the GIL); the
main thread does everything else between two steps. When stdin ends, the parent is gone and so is
this process: no orphan occupies a GPU.
"""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, NoReturn

from localllm.engine.messages import (
    Cancel,
    Command,
    Event,
    Finished,
    GenerateRequest,
    Reasoning,
    RequestError,
    Shutdown,
    Token,
)
from localllm.engine.messages.codec import (
    BAD_INPUT_STATUS,
    UNAVAILABLE_STATUS,
    WireError,
    decode_command,
    encode,
)
from localllm.engine.worker import seccomp
from localllm.errors import BadRequest, EngineUnavailable


def main() -> int:
    """Serve the parent until it sends Shutdown or goes away. Returns the exit status."""
    protocol = _take_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C on the terminal is the parent's
    try:
        from localllm.engine.worker.commands import WorkerEngine
        from localllm.engine.worker.llama.heartbeat import HeartbeatState, HeartbeatThread
    except EngineUnavailable as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")  # the parent shows the last line
        sys.stderr.flush()
        return UNAVAILABLE_STATUS
    seccomp.restrict()  # the libraries are loaded; no prompt has been read
    outbox, heartbeat = Outbox(protocol), HeartbeatState()
    heartbeats = HeartbeatThread(heartbeat, outbox.send)
    engine = WorkerEngine(outbox.put, outbox.flush, heartbeat)
    commands = Inbox(sys.stdin.buffer, on_cancel=engine.interrupt, on_bad_request=outbox.send)
    while True:
        if not engine.busy:
            outbox.flush(now=True)
            heartbeats.pause()
            commands.wait()
            heartbeats.resume()
        for command, arrived in commands.take():
            if isinstance(command, Shutdown):
                engine.close()
                return 0
            outbox.note(command)
            engine.handle(command, arrived)
            outbox.flush()
        engine.step(commands.empty)
        outbox.flush()


class Outbox:
    """Events on their way to the parent: one write for all the events of a step.

    Tokens of requests with a `stream_interval_s` wait for each other that long, unless something
    else is to be written. `clock` gives seconds, monotonic. `note`, `put` and `flush` belong to the
    thread that computes; `send` may be called from any.
    """

    def __init__(self, stream: BinaryIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lines: list[bytes] = []
        self._writing = threading.Lock()
        self._intervals: dict[str, float] = {}
        self._streaming: set[str] = set()
        """Those of the requests with an interval whose first token was put."""
        self._due_s: float | None = None
        """When the lines must be written; None: at the next flush."""

    def note(self, command: Command) -> None:
        """Look at a command before it is handled: a request says how its tokens are sent."""
        if isinstance(command, GenerateRequest) and command.stream_interval_s > 0:
            self._intervals[command.request_id] = command.stream_interval_s

    def put(self, event: Event) -> None:
        due_s = self._due(event)
        if not self._lines:
            self._due_s = due_s
        elif self._due_s is not None:
            self._due_s = None if due_s is None else min(self._due_s, due_s)
        self._lines.append(encode(event))

    def _due(self, event: Event) -> float | None:
        """Return when an event must be written, None for at once."""
        if not self._intervals:
            return None
        if isinstance(event, Token | Reasoning):
            interval_s = self._intervals.get(event.request_id)
            if interval_s is not None and event.request_id in self._streaming:
                return self._clock() + interval_s
            if interval_s is not None:
                self._streaming.add(event.request_id)
        elif isinstance(event, RequestError) or (
            isinstance(event, Finished) and not event.remaining
        ):
            self._intervals.pop(event.request_id, None)
            self._streaming.discard(event.request_id)
        return None

    def flush(self, *, now: bool = False) -> None:
        """Write the lines that are due, or with `now` all."""
        if not self._lines:
            return
        if not now and self._due_s is not None and self._clock() < self._due_s:
            return
        self._write(b"".join(self._lines))
        self._lines.clear()

    def send(self, event: Event) -> None:
        """Write one event now."""
        self._write(encode(event))

    def _write(self, lines: bytes) -> None:
        try:
            with self._writing:
                self._stream.write(lines)
                self._stream.flush()
        except BrokenPipeError:
            os._exit(0)  # the parent is gone


class Inbox:
    """Commands from the parent, read by a thread of their own."""

    def __init__(
        self,
        stream: BinaryIO,
        *,
        on_cancel: Callable[[str], None],
        on_bad_request: Callable[[RequestError], None],
    ) -> None:
        self._stream = stream
        self._on_cancel = on_cancel
        self._on_bad_request = on_bad_request
        self._queue: queue.SimpleQueue[tuple[Command, float]] = queue.SimpleQueue()
        self._first: tuple[Command, float] | None = None
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def empty(self) -> bool:
        """Return True when no command has arrived since `take`."""
        return self._queue.empty()

    def wait(self) -> None:
        """Wait for a command; `take` returns it."""
        self._first = self._queue.get()

    def take(self) -> list[tuple[Command, float]]:
        """Return every command that has arrived, each with its time of arrival."""
        taken = [] if self._first is None else [self._first]
        self._first = None
        while not self._queue.empty():
            taken.append(self._queue.get())
        return taken

    def _read(self) -> NoReturn:
        status = BAD_INPUT_STATUS  # also when memory runs out: nothing would be read
        try:
            for line in self._stream:
                try:
                    self._receive(decode_command(line))
                except WireError as error:
                    self._refuse(error)
            status = 0  # stdin ended: the parent is gone, even if a decode is still running
        except (WireError, MemoryError) as error:
            sys.stderr.write(f"localllm worker: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _refuse(self, error: WireError) -> None:
        """Refuse a malformed request; the others go on. Raises WireError when its id is unknown."""
        if error.request_id is None:
            raise error
        message = f"The engine does not understand this request: {error}"
        self._on_bad_request(
            RequestError(request_id=error.request_id, code=BadRequest.code, message=message)
        )

    def _receive(self, command: Command) -> None:
        self._queue.put((command, time.monotonic()))
        if isinstance(command, Cancel):
            self._on_cancel(command.request_id)


def _take_stdout() -> BinaryIO:
    """Keep fd 1 for the protocol and point fd 1 at stderr, so that no native printf reaches it."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return protocol
