"""The access log: one line of JSON a request, without anything that was asked or answered.

What is written: time, ids, the key's name, method, path without its query, model, status, counts
and durations. A path is the client's text: it is cut, and JSON escapes what a terminal would obey.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from localllm.core.text import strip_controls
from localllm.errors import UsageError
from localllm.server.request_record import RequestRecord

logger = logging.getLogger("localllm.server")

MAX_PATH_CHARS = 200
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What the middleware saw of a request; `status` None: the client left before an answer."""

    method: str
    path: str
    status: int | None
    duration_s: float


def access_line(exchange: Exchange, record: RequestRecord, now: float) -> str:
    """Write the line of a request that has ended."""
    first = record.first_token
    fields: dict[str, object] = {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "key": record.caller.name if record.caller is not None else None,
        "peer": record.peer,
        "method": strip_controls(exchange.method)[:16],
        "path": strip_controls(exchange.path)[:MAX_PATH_CHARS],
        "model": record.model,
        "status": exchange.status,
        "prompt_tokens": record.prompt_tokens if record.has_tokens else None,
        "cached_tokens": record.cached_tokens if record.has_tokens else None,
        "completion_tokens": record.completion_tokens if record.has_tokens else None,
        "ttft_s": round(first - record.started, 4) if first is not None else None,
        "duration_s": round(exchange.duration_s, 4),
    }
    return json.dumps(fields, ensure_ascii=True)


class AccessLog:
    """Appends lines to a file that only this user can read, or to stderr.

    A file that was renamed or removed meanwhile (logrotate) is opened anew. A line that cannot be
    written is lost, and so reported once: a full disk costs no answer.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Take `path` None for stderr. Raises UsageError when the file cannot be opened."""
        self._path = path
        self._clock = clock
        self._failed = False
        self._looked_at = clock()
        self._descriptor = 2
        if path is not None:
            try:
                self._descriptor = self._open(path)
            except OSError as error:
                raise UsageError(
                    f"The access log {path} cannot be written: {error.strerror or error}."
                ) from error

    @staticmethod
    def _open(path: Path) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)

    def write(self, line: str) -> None:
        """Append a line."""
        try:
            if self._path is None:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
                return
            self._follow(self._path)
            os.write(self._descriptor, line.encode("ascii") + b"\n")
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                self._failed = True
                logger.warning("The access log cannot be written: %s", error)

    def _follow(self, path: Path) -> None:
        """Open the file again when its name leads to another one, looked at once a second."""
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        own = os.fstat(self._descriptor)
        try:
            there = path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (own.st_ino, own.st_dev):
            descriptor = self._open(path)
            os.close(self._descriptor)
            self._descriptor = descriptor

    def close(self) -> None:
        if self._path is not None:
            os.close(self._descriptor)
