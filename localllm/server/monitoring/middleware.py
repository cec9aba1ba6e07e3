"""The outermost middleware: a record for every request, its ids in the answer, its line in the log.

It sees every answer, also those of the guards. What uvicorn refuses because it is no HTTP has no
request, and is not here.
"""

import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.server.access.guard import PEER
from localllm.server.access.scopes import route_of
from localllm.server.monitoring.access_log import AccessLog, Exchange, access_line
from localllm.server.monitoring.activity import Activity
from localllm.server.monitoring.metrics import ServerMetrics
from localllm.server.monitoring.trace_context import (
    TraceContext,
    new_span_id,
    parse_traceparent,
)
from localllm.server.monitoring.tracing import RequestSpan, Tracer, new_trace_id
from localllm.server.request_record import RequestRecord, use_record

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT = 499


def request_id_of(offered: list[str]) -> str:
    """Return the id that the client gave, if it is one word that a log can carry; else a new
    one."""
    if len(offered) == 1 and _REQUEST_ID.fullmatch(offered[0]) is not None:
        return offered[0]
    return f"req_{secrets.token_hex(12)}"


class MonitoringMiddleware:
    """Record each request; `log` and `tracer` None: no line, no span; `activity` None: nobody
    watches."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ServerMetrics,
        log: AccessLog | None = None,
        tracer: Tracer | None = None,
        activity: Activity | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._tracer = tracer
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parent = parse_traceparent(_values(scope, b"traceparent"), _values(scope, b"tracestate"))
        record = RequestRecord(
            request_id=request_id_of(_values(scope, b"x-request-id")),
            started=self._metrics.clock(),
            peer=_peer(scope),
        )
        if parent is not None:
            record.trace_id = parent.trace_id
        elif self._tracer is not None:
            record.trace_id = new_trace_id()
        use_record(record)
        if self._activity is not None:
            agent = " ".join(_values(scope, b"user-agent"))
            self._activity.begin(record, route=_route(scope), client=agent)
        began_ns = time.time_ns()
        span_id = new_span_id() if self._tracer is not None else None
        headers = _answer_headers(record, parent, span_id)
        status: int | None = None

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            seconds = self._metrics.clock() - record.started
            self._ended(scope, record, status, seconds)
            if self._tracer is not None and span_id is not None and record.trace_id is not None:
                span = RequestSpan(
                    method=_method(scope),
                    route=_route(scope),
                    status=status,
                    trace_id=record.trace_id,
                    span_id=span_id,
                    parent=parent,
                    began_ns=began_ns,
                    ended_ns=began_ns + int(seconds * 1e9),
                )
                self._tracer.export(span, record)

    def _ended(
        self, scope: Scope, record: RequestRecord, status: int | None, seconds: float
    ) -> None:
        self._metrics.request_finished(
            record,
            method=_method(scope),
            route=_route(scope),
            status=status or _CLIENT_LEFT,
            seconds=seconds,
        )
        if self._activity is not None:
            self._activity.end(record, status=status or _CLIENT_LEFT)
        if self._log is not None:
            exchange = Exchange(
                method=scope["method"], path=scope["path"], status=status, duration_s=seconds
            )
            self._log.write(access_line(exchange, record, time.time()))


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def _route(scope: Scope) -> str:
    """Name the route of a request; a path that is none of ours is the client's own text."""
    return route_of(scope["path"]) or "other"


def _answer_headers(
    record: RequestRecord, trace: TraceContext | None, span_id: str | None
) -> list[tuple[bytes, bytes]]:
    # OpenAI's name of it, and Anthropic's.
    headers = [
        (name, record.request_id.encode("ascii")) for name in (b"x-request-id", b"request-id")
    ]
    if trace is not None:
        headers.append((b"traceparent", trace.traceparent(span_id).encode("ascii")))
        if trace.state:
            headers.append((b"tracestate", trace.state.encode("ascii")))
    return headers


def _peer(scope: Scope) -> str:
    """Name the kind of connection: it tells this machine's programs from others, not who."""
    if PEER in scope.get("extensions", {}):
        return "unix"
    client = scope.get("client")
    host = client[0] if client else ""
    kind = "loopback" if host.startswith("127.") or host == "::1" else "network"
    return f"{kind}+tls" if scope["scheme"] == "https" else kind


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
