"""A server without a terminal: `localllm serve --detach` starts another process and waits for it.

The two share a pipe, the child's stdout, until the child is ready: then it has written its line
there, and closes it. A pipe that ends before is a server that has failed. The child's stderr is its
log from the start, so what went wrong is there and is shown.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import StoreError

VARIABLE = "_LOCALLLM_DETACHED_LOG"
"""In the environment of the child: the path of its log."""

MAX_LOG_BYTES = 8 * 2**20
"""Of the log and of the one before it."""

_SHOWN_BYTES = 2**16
_LOOK_EVERY_S = 60.0

# Constants of Windows, which Python has there alone (subprocess, winbase.h). A console of its own
# that nobody sees: without one, every engine would open a window.
_CREATE_NEW_PROCESS_GROUP = 0x00000200
_CREATE_NO_WINDOW = 0x08000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What came of a start. `ready`: what it printed; empty: it failed, with `status`. `messages`:
    what it wrote into its log."""

    pid: int
    status: int | None
    ready: str
    messages: str


def child_command(arguments: Sequence[str]) -> list[str]:
    """Return the command of the child: this program with these arguments."""
    # -P: a module in the current directory must not be imported.
    return [sys.executable, "-P", "-m", "localllm", *arguments]


def process_options(platform: str) -> dict[str, object]:
    """Return what makes a process outlive its terminal, and Ctrl+C in it."""
    if platform == "win32":
        return {"creationflags": _CREATE_NEW_PROCESS_GROUP | _CREATE_NO_WINDOW}
    return {"start_new_session": True}


def start_detached(arguments: Sequence[str], log: Path) -> Started:
    """Start this program without a terminal, and wait until it is ready or has failed.

    Ctrl+C meanwhile ends it (KeyboardInterrupt). Raises StoreError when there is no log.
    """
    descriptor, begin = _open_log(log)
    try:
        process = subprocess.Popen(  # type: ignore[call-overload]  # its options are of two systems
            child_command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            env={**os.environ, VARIABLE: str(log)},
            **process_options(sys.platform),
        )
    finally:
        os.close(descriptor)
    try:
        ready = process.stdout.read().decode("utf-8", "replace")
        status = None if ready else process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()
    return Started(pid=process.pid, status=status, ready=ready, messages=_read_log(log, begin))


def _open_log(log: Path) -> tuple[int, int]:
    """Open the log to append, readable by its owner alone, and keep one old one. Returns also where
    this run begins."""
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > MAX_LOG_BYTES // 2:
                log.replace(_older(log))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(log, flags, 0o600)
        return descriptor, os.fstat(descriptor).st_size
    except OSError as error:
        raise StoreError(f"The log {log} cannot be written: {error.strerror or error}.") from error


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _read_log(log: Path, begin: int) -> str:
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(begin, end - _SHOWN_BYTES) if end >= begin else 0)
            return file.read(_SHOWN_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


# --- in the child ---


def take_own_log(environment: MutableMapping[str, str] = os.environ) -> Path | None:
    """Return the log of this process when it was started detached; its engines do not see it."""
    text = environment.pop(VARIABLE, None)
    return None if text is None else Path(text)


def report_ready() -> None:
    """End the pipe to the process that waits: from here on stdout is the log."""
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def short_log(log: Path) -> Iterator[None]:
    """Keep the log below MAX_LOG_BYTES while the block runs in an event loop."""

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.to_thread(shorten, sys.stderr.fileno(), log)

    task = asyncio.get_running_loop().create_task(look())
    try:
        yield
    finally:
        task.cancel()


def shorten(descriptor: int, log: Path, limit: int = MAX_LOG_BYTES) -> bool:
    """Move what is in a log, open to append, to a file beside it when it is above `limit`. True
    when that was done; a disk that is full loses the old lines.

    Not renamed: the name of a file that is open cannot be changed on Windows, and whoever reads the
    log reads on.
    """
    try:
        if os.fstat(descriptor).st_size <= limit:
            return False
        with contextlib.suppress(OSError):
            _copy(log, _older(log))
        os.ftruncate(descriptor, 0)
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with source.open("rb") as read, os.fdopen(os.open(target, flags, 0o600), "wb") as write:
        while block := read.read(2**20):
            write.write(block)
