"""The file by which this user's programs find the running server, and the lock that keeps it one.

Each machine has a file of its own (a home directory may be shared by several), and so has each
instance. It holds the key of this run, so it is for its owner alone; what it says counts only while
the process that wrote it lives: a process that was killed leaves its file behind.
"""

import contextlib
import json
import os
import platform
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from localllm.errors import StoreError, UsageError
from localllm.library.files.atomic_write import write_atomically
from localllm.library.files.file_lock import locked

_STARTED_TOLERANCE_S = 2.0
"""A process's start is derived from the time since the boot, which the clock's steps move."""
_MAX_BYTES = 2**16
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server and how to reach it. `key` is one of this run, with all rights; `key_file` holds the
    owner's, None: it has none, or it came from the environment. `certificate`: what it shows on
    `url` (PEM). `started_at`: seconds since 1970. `in_app`: it runs in the terminal app, whose
    process goes on when it ends; it is stopped by a request."""

    pid: int
    process_started: float
    started_at: float
    version: str
    key: str
    url: str | None = None
    socket: str | None = None
    key_file: str | None = None
    certificate: str | None = None
    log_file: str | None = None
    in_app: bool = False

    def __repr__(self) -> str:
        return f"RunningServer(pid={self.pid}, url={self.url!r}, socket={self.socket!r})"

    @property
    def where(self) -> str:
        """Where it listens, for people."""
        return " and ".join(each for each in (self.url, self.socket) if each)


def new_run_key() -> str:
    """Make the key of one run: random, and worth nothing when the process has ended."""
    return secrets.token_urlsafe(32)


def instance_name(instance: str | None) -> str:
    """Return the name of the files of an instance on this machine; None: the usual one.

    Raises UsageError for what is no name.
    """
    host = re.sub(r"[^A-Za-z0-9_-]", "-", platform.node())[:64] or "localhost"
    if instance is None:
        return host
    if not _INSTANCE.fullmatch(instance):
        raise UsageError("An instance is named by letters, digits, - and _, 32 at most.")
    return f"{host}.{instance}"


def parse_server(content: bytes) -> RunningServer:
    """Read the file's content. Raises ValueError for anything that is not whole."""
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("no object")
    known = {each.name: document.get(each.name) for each in fields(RunningServer)}
    known["in_app"] = known["in_app"] is True
    numbers = (known["process_started"], known["started_at"])
    texts = (known["version"], known["key"])
    optional = [known[name] for name in ("url", "socket", "key_file", "certificate", "log_file")]
    if (
        type(known["pid"]) is not int
        or not all(type(each) in (int, float) for each in numbers)
        or not all(isinstance(each, str) for each in texts)
        or not all(each is None or isinstance(each, str) for each in optional)
        or (known["url"] is None and known["socket"] is None)
    ):
        raise ValueError("a field is missing or has another type")
    return RunningServer(**known)  # type: ignore[arg-type]  # checked above, field by field


def find_server(path: Path) -> RunningServer | None:
    """Read where a server of this user runs; None when none does.

    Raises StoreError for a file that others could have written.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error
    if sys.platform != "win32" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        raise StoreError(
            f"{path} says where the server is, and others could have written or read it (mode "
            f"{status.st_mode & 0o777:04o}). Delete it, and start the server again."
        )
    try:
        server = parse_server(content)
    except (ValueError, RecursionError):
        return None
    return server if is_alive(server) else None


def is_alive(server: RunningServer) -> bool:
    """Tell whether the very process that wrote the file runs: ids are given to others again."""
    import psutil

    try:
        process = psutil.Process(server.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - server.process_started) <= _STARTED_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it may not be looked at: it lives
        return True


def own_process_start() -> float:
    """Return when this process was started, in seconds since 1970."""
    import psutil

    return float(psutil.Process().create_time())


@contextlib.contextmanager
def only_server(path: Path) -> Iterator[None]:
    """Be the only server of this file while the block runs.

    Raises TimeoutError when another one is, OSError where no such file can be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), wait_s=0.0):
        yield


@contextlib.contextmanager
def published(path: Path, server: RunningServer) -> Iterator[None]:
    """Say where the server is while the block runs. Raises OSError."""
    write_atomically(path, json.dumps(asdict(server)).encode(), private=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
