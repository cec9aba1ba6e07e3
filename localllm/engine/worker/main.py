"""The engine's process: lines in, lines out, one model, one thread that computes.

A reader thread takes commands from stdin while llama.cpp computes (ctypes releases the GIL); the
main thread does everything else between two steps. When stdin ends, the parent is gone and so
are we: no orphan holds a GPU.
"""

import importlib.util
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import BinaryIO, NoReturn

from localllm.engine.events import Cancel, Command, Event, Shutdown
from localllm.engine.wire import (
    BAD_INPUT_STATUS,
    UNAVAILABLE_STATUS,
    WireError,
    decode_command,
    encode,
)


def main() -> int:
    """Serve the parent until it says Shutdown or goes away."""
    protocol = _take_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C on the terminal is the parent's
    package = importlib.util.find_spec("llama_cpp")
    if package is None:
        return _unavailable("llama-cpp-python is not installed")
    _without_its_init(package)
    try:
        from localllm.engine.worker.engine import WorkerEngine
    except (ImportError, OSError, RuntimeError) as error:
        return _unavailable(f"llama-cpp-python does not import: {error}")
    outbox = Outbox(protocol)
    engine = WorkerEngine(outbox.put, outbox.flush)
    commands = Inbox(sys.stdin.buffer, on_cancel=engine.interrupt)
    while True:
        for command, arrived in commands.take(wait=not engine.busy):
            if isinstance(command, Shutdown):
                engine.close()
                return 0
            engine.handle(command, arrived)
            outbox.flush()
        engine.step(commands.nothing_new)
        outbox.flush()


class Outbox:
    """Events on their way to the parent: one write for all the events of a step."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []

    def put(self, event: Event) -> None:
        self._lines.append(encode(event))

    def flush(self) -> None:
        if not self._lines:
            return
        try:
            self._stream.write(b"".join(self._lines))
            self._stream.flush()
        except BrokenPipeError:
            os._exit(0)  # the parent is gone
        self._lines.clear()


class Inbox:
    """Commands from the parent, read by a thread of their own."""

    def __init__(self, stream: BinaryIO, *, on_cancel: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_cancel = on_cancel
        self._queue: queue.SimpleQueue[tuple[Command, float]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def nothing_new(self) -> bool:
        return self._queue.empty()

    def take(self, *, wait: bool) -> list[tuple[Command, float]]:
        """Every command that has arrived, with when; waits for the first when asked to."""
        taken = [self._queue.get()] if wait else []
        while not self._queue.empty():
            taken.append(self._queue.get())
        return taken

    def _read(self) -> NoReturn:
        status = BAD_INPUT_STATUS  # also when memory runs out here: a deaf worker is no worker
        try:
            for line in self._stream:
                self._take_in(decode_command(line))
            status = 0  # stdin ended: the parent is gone, even if a decode is still running
        except (WireError, MemoryError) as error:
            sys.stderr.write(f"localllm worker: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _take_in(self, command: Command) -> None:
        self._queue.put((command, time.monotonic()))
        if isinstance(command, Cancel):
            self._on_cancel(command.request_id)


def _take_stdout() -> BinaryIO:
    """Keep fd 1 for the protocol and point fd 1 at stderr, so that no native printf reaches it."""
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return protocol


def _without_its_init(package: ModuleSpec) -> None:
    """Make `import llama_cpp.llama_cpp` skip llama_cpp/__init__.py: the high-level API there is
    not used here and imports numpy and more (measured: 0.23 s of a start, 14 MB of memory)."""
    module = ModuleType("llama_cpp")
    module.__path__ = list(package.submodule_search_locations or ())
    module.__spec__ = package
    sys.modules["llama_cpp"] = module


def _unavailable(message: str) -> int:
    sys.stderr.write(
        f"{message}. Install it with: pip install --force-reinstall llama-cpp-python\n"
    )
    sys.stderr.flush()
    return UNAVAILABLE_STATUS
