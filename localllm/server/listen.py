"""The socket, the HTTP connections on it, and the orderly end: uvicorn with its gaps closed.

uvicorn limits neither how long a client may take to send its headers, nor how many connections
are open, nor how long a client may leave its answer unread. `Connection` does.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from localllm.errors import ServeError
from localllm.server.dialects.openai.errors import error_body
from localllm.server.errors import ApiError
from localllm.server.security import MAX_HEADER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much patience the server has; times in seconds.

    `head_s`: for the headers of a request, and for what is left of a body that nobody reads.
    `unread_s`: for a client that reads nothing of its answer. `idle_s`: for a connection without
    a request; longer than the pools of the common clients keep one. `grace_s`: after the first
    signal, for the answers that are being written.
    """

    connections: int = 512
    head_s: float = 15.0
    unread_s: float = 60.0
    idle_s: int = 75
    grace_s: float = 5.0


DEFAULT_LIMITS = Limits()
_BACKLOG = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server listens: an IP address and a port, both as bound."""

    ip: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.ip.partition("%")[0]).is_loopback

    @property
    def url(self) -> str:
        """A URL that reaches it from this machine."""
        any_of = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        ip = any_of.get(self.ip, self.ip)
        return f"http://[{ip}]:{self.port}" if ":" in ip else f"http://{ip}:{self.port}"


def find_address(host: str, port: int) -> Address:
    """Resolve `host` to the one address that would be bound. Raises ServeError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a host name"
        raise ServeError(f"Cannot listen on {host!r}: {reason}. Try --host 127.0.0.1.") from error
    return Address(ip=str(found[0][4][0]), port=port)


def open_socket(address: Address) -> socket.socket:
    """Bind and listen; from here on the port is ours. Raises ServeError.

    Clients that come before `serve` wait in the backlog.
    """
    family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option lets two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.ip, address.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, error) from error
    sock.setblocking(False)
    return sock


def bound_address(sock: socket.socket) -> Address:
    ip, port = sock.getsockname()[:2]
    return Address(ip=str(ip), port=int(port))


class StopSignals:
    """SIGINT and SIGTERM as events: the first asks for an orderly end, the second for a fast one.

    Used as a context: the handlers that were there before come back.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        self.signal: signal.Signals | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator["StopSignals"]:
        loop = asyncio.get_running_loop()

        def received(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.receive, signal.Signals(number))

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, received) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def receive(self, number: signal.Signals) -> None:
        if self.asked.is_set():
            self.insisted.set()
        else:
            self.signal = number
            self.asked.set()


async def serve(
    app: ASGIApp,
    sock: socket.socket,
    stop: StopSignals,
    *,
    end_answers: Callable[[], Awaitable[None]],
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Answer requests on `sock` until `stop`.

    After the first signal answers have `limits.grace_s` seconds to end by themselves; then, or
    at the second signal, `end_answers` ends them.
    """
    server = _Server(_config(app, limits))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await _first(serving, stop.asked.wait())
        server.should_exit = True
        await _first(serving, stop.insisted.wait(), timeout_s=limits.grace_s)
        if not serving.done():
            await end_answers()
        server.force_exit = stop.insisted.is_set()
    finally:
        server.should_exit = True
        await serving


async def _first(
    serving: asyncio.Task[None], event: Awaitable[object], timeout_s: float | None = None
) -> None:
    """Wait until `serving` ends, `event` comes or `timeout_s` has passed."""
    other = asyncio.ensure_future(event)
    await asyncio.wait((serving, other), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    other.cancel()


class Connection(H11Protocol):
    """One client's connection, with a deadline for whatever it owes us."""

    limits = DEFAULT_LIMITS
    _deadline: asyncio.TimerHandle | None = None
    _reader_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as H11Protocol narrows it
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(_BUSY)
            transport.close()
            return
        self._time_the_client()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._reader_deadline):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_the_client()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # With nothing begun, uvicorn's keep-alive timer runs.
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._time_the_client()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_deadline = self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_deadline is not None:
            self._reader_deadline.cancel()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_raw(ApiError(msg, status=400, code="invalid_http")))
        self.transport.close()

    def _time_the_client(self) -> None:
        """Start or stop the clock: it runs while a head, or a body nobody reads, is incomplete."""
        theirs = self.conn.their_state
        unread = theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE
        owing = (theirs is h11.IDLE or unread) and not self.transport.is_closing()
        if owing and self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.head_s, self.transport.abort)
        elif not owing and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # StopSignals has them, also while the model loads


def _config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    # uvicorn makes the connections itself and passes nothing of ours on: a class of this server.
    connection = type("Connection", (Connection,), {"limits": limits})
    return uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # the rest are notes on malformed requests: anyone could fill the disk
        access_log=False,
        proxy_headers=False,  # nobody in front of us is trusted to rewrite the client's address
        server_header=False,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=int(limits.grace_s) + 10,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,  # HostGuard measures complete ones
        backlog=_BACKLOG,
    )


def _cannot_listen(address: Address, error: OSError) -> ServeError:
    where = f"{address.ip} port {address.port}"
    match error.errno:
        case errno.EADDRINUSE:
            reason = "another program listens there. Try another --port, or 0 for any free one"
        case errno.EACCES:
            reason = "that port needs privileges. Try a --port above 1023"
        case errno.EADDRNOTAVAIL:
            reason = "this machine has no such address. Try --host 127.0.0.1"
        case _:
            reason = error.strerror or str(error)
    return ServeError(f"Cannot listen on {where}: {reason}.")


def _raw(error: ApiError) -> bytes:
    """Write an error as a whole HTTP response, for when no request could be read."""
    body = error_body(error)  # the default envelope: there is no path
    phrase = {400: "Bad Request", 503: "Service Unavailable"}[error.status]
    head = (
        f"HTTP/1.1 {error.status} {phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


_BUSY = _raw(ApiError("Too many connections.", status=503, code="too_many_connections"))
