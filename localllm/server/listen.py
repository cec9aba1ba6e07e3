"""The socket, the HTTP connections on it and the graceful shutdown: uvicorn with its gaps closed.

uvicorn limits neither how long a client may take to send its headers, nor how many connections
are open, nor how long a client may leave its answer unread. `LimitedProtocol` does.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from localllm.errors import ServeError
from localllm.server.access.guard import PEER
from localllm.server.access.unix_socket import is_allowed, peer_uid
from localllm.server.dialects.openai.errors import error_body
from localllm.server.errors import ApiError
from localllm.server.security import MAX_HEADER_BYTES
from localllm.server.streaming import HALF_CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Timeouts of connections in seconds, and their number.

    `probe_s`: after a client has closed its sending side, to a sign of life before its answer.

    `header_timeout_s`: for the headers of a request, and for the rest of a body that no endpoint
    reads. `send_timeout_s`: for a client that reads nothing of its answer. `keep_alive_s`: for a
    connection without a request; longer than the pools of the common clients keep one.
    `shutdown_grace_s`: after the first signal, for the answers that are being written.
    """

    max_connections: int = 512
    header_timeout_s: float = 15.0
    send_timeout_s: float = 60.0
    keep_alive_s: int = 75
    shutdown_grace_s: float = 5.0
    probe_s: float = 1.0


DEFAULT_LIMITS = ConnectionLimits()
_BACKLOG = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The IP address and the port that the server is bound to, and whether it speaks TLS there."""

    ip: str
    port: int
    tls: bool = False

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.ip.partition("%")[0]).is_loopback

    @property
    def url(self) -> str:
        """The URL that reaches it from this machine."""
        any_of = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        ip = any_of.get(self.ip, self.ip)
        host = f"[{ip}]" if ":" in ip else ip
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


LOOPBACK = ("127.0.0.1", "::1")
"""What `localhost` stands for: clients try one or the other first, whatever a resolver says."""


def find_addresses(host: str, port: int) -> tuple[Address, ...]:
    """Resolve `host` to the addresses to bind: for `localhost` both loopback addresses, for any
    other name the first that it has. Raises ServeError."""
    if host.lower().removesuffix(".") == "localhost":
        return tuple(Address(ip=ip, port=port) for ip in LOOPBACK)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a host name"
        raise ServeError(f"Cannot listen on {host!r}: {reason}. Try --host 127.0.0.1.") from error
    return (Address(ip=str(found[0][4][0]), port=port),)


_PORT_TRIES = 16
"""For a port that is free on all addresses; of the 28,000 that a system hands out few are taken."""

_NO_IPV6 = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})


def open_sockets(
    addresses: Sequence[Address], open_one: Callable[[Address], socket.socket] | None = None
) -> tuple[socket.socket, ...]:
    """Bind and listen on all addresses, port 0 becoming one free port of all. Raises ServeError.

    The first must be there; others that this machine does not have (IPv6 is off) are left out. One
    whose port another program has is an error: clients of `localhost` would reach that program.
    """
    open_one = open_one or open_socket
    for tries_left in reversed(range(_PORT_TRIES)):
        sockets = [open_one(addresses[0])]
        port = bound_address(sockets[0]).port
        try:
            for address in addresses[1:]:
                try:
                    sockets.append(open_one(replace(address, port=port)))
                except ServeError as error:
                    if _errno_of(error) not in _NO_IPV6:
                        raise
        except ServeError as error:
            for sock in sockets:
                sock.close()
            if addresses[0].port or not tries_left or _errno_of(error) != errno.EADDRINUSE:
                raise
        else:
            return tuple(sockets)
    raise AssertionError("the last try returns or raises")


def _errno_of(error: ServeError) -> int | None:
    cause = error.__cause__
    return cause.errno if isinstance(cause, OSError) else None


def open_socket(address: Address) -> socket.socket:
    """Bind and listen; from here on the port is ours. Raises ServeError.

    Clients that come before `serve` wait in the backlog.
    """
    family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # a system without IPv6
        raise _cannot_listen(address, error) from error
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


def bound_address(sock: socket.socket, *, tls: bool = False) -> Address:
    ip, port = sock.getsockname()[:2]
    return Address(ip=str(ip), port=int(port), tls=tls)


class StopSignals:
    """SIGINT and SIGTERM as events: the first shuts down gracefully, the second at once.

    While `handled` is entered; then the previous handlers are restored.
    """

    def __init__(self) -> None:
        self.should_exit = asyncio.Event()
        self.force_exit = asyncio.Event()
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
        if self.should_exit.is_set():
            self.force_exit.set()
        else:
            self.signal = number
            self.should_exit.set()


async def serve(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    stop: StopSignals,
    *,
    abort_requests: Callable[[], Awaitable[None]],
    limits: ConnectionLimits = DEFAULT_LIMITS,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve requests on `sockets` until `stop`, with `tls` on those that are no Unix sockets.

    After the first signal answers have `limits.shutdown_grace_s` seconds to end by themselves;
    then, or at the second signal, `abort_requests` ends them.
    """
    limits = replace(limits, max_connections=allow_connections(limits.max_connections))
    local = [sock for sock in sockets if sock.family not in _INTERNET]
    servers = {
        _Server(_config(app, limits, context)): chosen
        for chosen, context in (
            ([sock for sock in sockets if sock not in local], tls),
            (local, None),
        )
        if chosen
    }
    serving = asyncio.gather(*(each.serve(sockets=own) for each, own in servers.items()))
    try:
        await _wait_first(serving, stop.should_exit.wait())
        for server in servers:
            server.should_exit = True
        await _wait_first(serving, stop.force_exit.wait(), timeout_s=limits.shutdown_grace_s)
        if not serving.done():
            await abort_requests()
        for server in servers:
            server.force_exit = stop.force_exit.is_set()
    finally:
        for server in servers:
            server.should_exit = True
        await serving


_INTERNET = (socket.AF_INET, socket.AF_INET6)


async def _wait_first(
    serving: "asyncio.Future[list[None]]", event: Awaitable[object], timeout_s: float | None = None
) -> None:
    """Wait until `serving` ends, `event` is set or `timeout_s` has passed."""
    other = asyncio.ensure_future(event)
    await asyncio.wait((serving, other), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    other.cancel()


class LimitedProtocol(H11Protocol):
    """One client's connection, with timeouts for the parts that uvicorn waits for without any."""

    limits = DEFAULT_LIMITS
    _receive_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _probe_timer: asyncio.TimerHandle | None = None
    _half_closed: asyncio.Event
    _peer: dict[object, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as H11Protocol narrows it
        super().connection_made(transport)
        self._half_closed = asyncio.Event()
        sock = transport.get_extra_info("socket")
        if sock.family not in _INTERNET:
            try:
                uid = peer_uid(sock)
            except ServeError:
                uid = -1
            if not is_allowed(uid):
                transport.write(_FOREIGN)
                transport.close()
                return
            self._peer = {"uid": uid}
        if len(self.connections) > self.limits.max_connections:
            transport.write(_BUSY)
            transport.close()
            return
        self._update_receive_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._receive_timer, self._send_timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_receive_timer()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # its task has not begun
            extensions = self.scope.setdefault("extensions", {})
            extensions[HALF_CLOSED] = {"event": self._half_closed}
            if self._peer is not None:
                extensions[PEER] = self._peer

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio takes an answer
        """Keep the connection of a client that has sent its request and closed its sending side:
        it still reads. One that has closed both sides looks the same until something is written."""
        theirs = self.conn.their_state
        if self.transport.get_extra_info("sslcontext") is not None:
            return None  # TLS has no half: asyncio closes it, whatever is returned
        if self.cycle is None or self.cycle.response_complete or theirs is not h11.DONE:
            return None  # the request is not complete, or there is none: close
        self._half_closed.set()
        self._probe_timer = self.loop.call_later(self.limits.probe_s, self._probe)
        return True

    def _probe(self) -> None:
        """Write what is no part of the answer while there is none of it: if the client is gone, its
        system answers with a reset, and the next write fails. Streams write comments themselves.

        A client of HTTP/1.1 must accept any number of interim responses (RFC 9110, section 15.2);
        one of HTTP/1.0 gets none, and its answer is computed to the end.
        """
        if self.cycle.response_started or self.conn.their_http_version != b"1.1":
            return
        interim = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
        self.transport.write(self.conn.send(interim))
        self._probe_timer = self.loop.call_later(self.limits.probe_s, self._probe)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_closed.is_set():
            if self.cycle.response_complete or self.conn.their_state is not h11.DONE:
                self.transport.close()  # there is no other request, or only a part of one
            else:
                self._probe_timer = self.loop.call_later(self.limits.probe_s, self._probe)
            return
        # Between two requests uvicorn's own keep-alive timer runs.
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._update_receive_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_raw_response(ApiError(msg, status=400, code="invalid_http")))
        self.transport.close()

    def _update_receive_timer(self) -> None:
        """Start or stop the timer: it runs while headers, or a body no endpoint reads, come."""
        theirs = self.conn.their_state
        unread_body = theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE
        incomplete = (theirs is h11.IDLE or unread_body) and not self.transport.is_closing()
        if incomplete and self._receive_timer is None:
            self._receive_timer = self.loop.call_later(
                self.limits.header_timeout_s, self.transport.abort
            )
        elif not incomplete and self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but with a timeout for handshakes that is ours: a connection
        counts only after its handshake, and a minute of silence before it would be too long."""
        config, loop = self.config, asyncio.get_running_loop()
        await self.lifespan.startup()

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]  # as H11Protocol has them
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        timeout_s = None if config.ssl is None else _HANDSHAKE_TIMEOUT_S
        self.servers = [
            await loop.create_server(
                protocol,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=timeout_s,
            )
            for sock in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # StopSignals handles them, also while the model loads


_HANDSHAKE_TIMEOUT_S = 10.0


def _config(app: ASGIApp, limits: ConnectionLimits, tls: ssl.SSLContext | None) -> uvicorn.Config:
    # uvicorn makes the protocol itself and passes nothing of ours on, so the class carries it.
    protocol = type("LimitedProtocol", (LimitedProtocol,), {"limits": limits})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # below are malformed requests: anyone could fill the disk
        access_log=False,
        proxy_headers=False,  # nobody in front of us is trusted to rewrite the client's address
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=int(limits.shutdown_grace_s) + 10,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,  # HostGuard measures complete ones
        backlog=_BACKLOG,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )


RESERVED_FILES = 128
"""For what is no connection: pipes to engines, model files, logs, sockets of uploads."""


def allow_connections(wanted: int) -> int:
    """Raise the soft limit of open files so that `wanted` connections fit, as far as the hard one
    lets it. Returns how many fit, `wanted` at most. Windows has no such limit.

    A system's default can be far below what a server needs (macOS: 256). Beyond it a connection
    cannot be accepted, and an engine that has crashed cannot be started again.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    limit = raised_limit(
        wanted + RESERVED_FILES,
        soft=None if soft == unlimited else soft,
        hard=None if hard == unlimited else hard,
    )
    if limit is None:
        return wanted
    if limit != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):  # the system has a limit above the hard one's word
            limit = soft
    return connections_within(limit, wanted)


def raised_limit(wanted: int, *, soft: int | None, hard: int | None) -> int | None:
    """Return the soft limit to set for `wanted` files; None: there is none, and none is needed.
    A limit that is high enough stays."""
    if soft is None:
        return None
    return max(soft, wanted if hard is None else min(wanted, hard))


def connections_within(limit: int, wanted: int) -> int:
    """Return how many connections a limit of open files leaves room for: one at least."""
    return max(1, min(wanted, limit - RESERVED_FILES))


def _cannot_listen(address: Address, error: OSError) -> ServeError:
    where = f"{address.ip} port {address.port}"
    match error.errno:
        case errno.EADDRINUSE:
            reason = "another program listens there. Try another --port, or 0 for any free one"
        case errno.EACCES:
            reason = "that port needs privileges. Try a --port above 1023"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            reason = "this machine has no such address. Try --host 127.0.0.1"
        case _:
            reason = error.strerror or str(error)
    return ServeError(f"Cannot listen on {where}: {reason}.")


def _raw_response(error: ApiError) -> bytes:
    """Write an error as a whole HTTP response, for bytes that are no request."""
    body = error_body(error)  # the default envelope: there is no path
    phrase = HTTPStatus(error.status).phrase
    later = "Retry-After: 1\r\n" if error.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {error.status} {phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{later}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


_BUSY = _raw_response(ApiError("Too many connections.", status=503, code="too_many_connections"))
_FOREIGN = _raw_response(
    ApiError("This socket is for processes of its owner.", status=403, code="foreign_peer")
)
