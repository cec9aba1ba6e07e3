"""What this process sent to other machines and what came: counted where the requests are made.

`client.py` and `export.py` report every request here, so nothing that leaves can be missing. The
counts of this process are in memory; connections to other machines also go to a file
(`connection_file.py`), at once when a host is first asked and then every few seconds. Connections
within this machine never left it and are not in the file.
"""

import atexit
import contextlib
import functools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from localllm.core.text import single_line
from localllm.library.files import paths
from localllm.library.http import connection_file
from localllm.library.http.connection_file import Connection, Purpose
from localllm.library.http.hosts import is_loopback

SAME_CONNECTION_S = 600.0
"""Requests for the same thing within this time are one connection: a download asks many times."""
WRITE_INTERVAL_S = 10.0
NOTIFY_INTERVAL_S = 0.5
"""How often listeners hear of bytes; of a request that begins or ends they hear at once."""
_RATE_WINDOW_S = 2.0
_BUCKET_S = 0.25
_MAX_KEPT = 1000
"""Connections of one process in memory, so that a server that runs for months stays small."""
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkActivity:
    """What the network does now, and did since the start of this process.

    `host` is asked at this moment, None: no request is under way. `sent_bytes` and
    `received_bytes` are those of other machines; both 0: nothing was sent.
    """

    host: str | None
    rate_bytes_per_s: float
    sent_bytes: int
    received_bytes: int


class NetworkLedger:
    """The connections of this process. May be used by several threads at once.

    `file` gives the file that they are kept in, None: in memory only. `clock` gives seconds since
    1970, `monotonic` seconds for rates. `problem` says why the file could not be written, or None:
    a request never fails because of it.
    """

    def __init__(
        self,
        file: Callable[[], Path] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self._file = file
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._connections: dict[str, Connection] = {}
        self._unsaved: set[str] = set()
        self._current: dict[tuple[str, Purpose, str | None, str | None], str] = {}
        self._active: dict[str, str] = {}
        self._buckets: deque[tuple[float, int]] = deque()
        self._sent_bytes = self._received_bytes = 0
        self._listeners: list[Callable[[], object]] = []
        self._written_at = self._notified_at = float("-inf")

    @contextlib.contextmanager
    def listening(self, changed: Callable[[], object]) -> Iterator[None]:
        """Call `changed` while the block runs, in whatever thread makes a request."""
        self.listen(changed)
        try:
            yield
        finally:
            self.unlisten(changed)

    def listen(self, changed: Callable[[], object]) -> None:
        """Call `changed` when a request begins or ends, and from time to time while bytes come; in
        the thread that makes the request."""
        with self._lock:
            self._listeners.append(changed)

    def unlisten(self, changed: Callable[[], object]) -> None:
        """Call it no more."""
        with self._lock, contextlib.suppress(ValueError):
            self._listeners.remove(changed)

    def activity(self) -> NetworkActivity:
        """Return what the network does now."""
        now = self._monotonic()
        with self._lock:
            recent = sum(count for at, count in self._buckets if now - at < _RATE_WINDOW_S)
            return NetworkActivity(
                host=next(reversed(self._active.values()), None),
                rate_bytes_per_s=recent / _RATE_WINDOW_S,
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
            )

    def connections(self) -> tuple[Connection, ...]:
        """Return the connections of this process, newest first, those within this machine too."""
        with self._lock:
            return connection_file.merged((), self._connections.values(), limit=_MAX_KEPT)

    def history(self) -> tuple[Connection, ...]:
        """Return the connections to other machines that are known, newest first.

        Those of every process of this user. Reads the file; raises OSError when it cannot.
        """
        with self._lock:
            own = [each for each in self._connections.values() if not is_loopback(each.host)]
        stored = connection_file.read(self._file()) if self._file is not None else ()
        return connection_file.merged(stored, own)

    def begin(
        self, host: str, purpose: Purpose, *, name: str | None = None, proxy: str | None = None
    ) -> "Exchange":
        """Record that a request to `host` is about to be sent; report the rest to what returns."""
        host, now = single_line(host.lower())[:_MAX_TEXT], self._clock()
        name = None if name is None else single_line(name)[:_MAX_TEXT]
        key = (host, purpose, name, proxy)
        with self._lock:
            known = self._connections.get(self._current.get(key, ""))
            if known is None or not 0 <= now - known.ended_at <= SAME_CONNECTION_S:
                known = Connection(
                    id=secrets.token_hex(8),
                    host=host,
                    purpose=purpose,
                    name=name,
                    proxy=proxy,
                    started_at=now,
                    ended_at=now,
                )
                self._current[key] = known.id
                is_new = True
            else:
                is_new = False
            self._keep(replace(known, requests=known.requests + 1, ended_at=now))
            exchange = Exchange(self, known.id, host)
            self._active[exchange.token] = host
        if is_new:
            self.flush()
        self._notify(force=True)
        return exchange

    def flush(self) -> None:
        """Write what the file does not have yet."""
        with self._lock:
            new = [self._connections[each] for each in self._unsaved if each in self._connections]
            self._unsaved.clear()
            self._written_at = self._monotonic()
        if not new or self._file is None:
            return
        try:
            with self._writing:
                connection_file.add(self._file(), new)
            self.problem = None
        except OSError as error:
            self.problem = single_line(error.strerror or str(error))[:_MAX_TEXT]
            with self._lock:
                self._unsaved |= {each.id for each in new}

    def erase(self) -> None:
        """Forget every connection, here and in the file. Raises OSError.

        The sums since the start stay: they say that something was sent, not what.
        """
        with self._lock:
            self._connections.clear()
            self._current.clear()
            self._unsaved.clear()
        if self._file is not None:
            with self._writing:
                connection_file.erase(self._file())

    def _sent(self, exchange: "Exchange", count: int) -> None:
        with self._lock:
            self._count(exchange, bytes_out=count)

    def _received(self, exchange: "Exchange", count: int) -> None:
        now = self._monotonic()
        with self._lock:
            self._count(exchange, bytes_in=count)
            if self._buckets and now - self._buckets[-1][0] < _BUCKET_S:
                self._buckets[-1] = (self._buckets[-1][0], self._buckets[-1][1] + count)
            else:
                self._buckets.append((now, count))
                while now - self._buckets[0][0] >= _RATE_WINDOW_S:
                    self._buckets.popleft()
            if self._active.pop(exchange.token, None) is not None:
                self._active[exchange.token] = exchange.host  # the last one is shown
            is_due = now - self._written_at >= WRITE_INTERVAL_S
        if is_due:
            self.flush()
        self._notify()

    def _end(self, exchange: "Exchange", *, failed: bool) -> None:
        with self._lock:
            if self._active.pop(exchange.token, None) is None:
                return
            self._count(exchange, failures=int(failed))
            is_due = self._monotonic() - self._written_at >= WRITE_INTERVAL_S
        if is_due:
            self.flush()
        self._notify(force=True)

    def _count(
        self, exchange: "Exchange", *, bytes_out: int = 0, bytes_in: int = 0, failures: int = 0
    ) -> None:
        if not exchange.is_local:
            self._sent_bytes += bytes_out
            self._received_bytes += bytes_in
        if (known := self._connections.get(exchange.connection_id)) is None:
            return  # erased meanwhile
        self._keep(
            replace(
                known,
                ended_at=max(self._clock(), known.started_at),
                failures=known.failures + failures,
                bytes_out=known.bytes_out + bytes_out,
                bytes_in=known.bytes_in + bytes_in,
            )
        )

    def _keep(self, connection: Connection) -> None:
        self._connections[connection.id] = connection
        if not is_loopback(connection.host):
            self._unsaved.add(connection.id)
        while len(self._connections) > _MAX_KEPT:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            self._unsaved.discard(oldest)

    def _notify(self, *, force: bool = False) -> None:
        now = self._monotonic()
        with self._lock:
            if not force and now - self._notified_at < NOTIFY_INTERVAL_S:
                return
            self._notified_at = now
            listeners = tuple(self._listeners)
        for changed in listeners:
            changed()


class Exchange:
    """One request and its response, as they are reported to a ledger."""

    def __init__(self, ledger: NetworkLedger, connection_id: str, host: str) -> None:
        self.token = secrets.token_hex(8)
        self.connection_id = connection_id
        self.host = host
        self.is_local = is_loopback(host)
        self._ledger = ledger

    def sent(self, count: int) -> None:
        """Count bytes that went out."""
        self._ledger._sent(self, count)

    def received(self, count: int) -> None:
        """Count bytes that came."""
        self._ledger._received(self, count)

    def end(self, *, failed: bool = False) -> None:
        """Record that the response was read, given up, or never came; the first call counts."""
        self._ledger._end(self, failed=failed)


@functools.cache
def process_ledger() -> NetworkLedger:
    """Return the ledger of this process, which keeps its connections in this user's file."""
    ledger = NetworkLedger(lambda: paths.connections_file(paths.data_dir()))
    atexit.register(ledger.flush)
    return ledger
