"""OpenTelemetry spans of requests, exported only when `--otel-endpoint` names a collector.

One span a request, made when it has ended, of what the access log has: no prompt, no answer, no
path that a client wrote. Nothing is configured by the environment (OTEL_*): spans are made here and
sent by our own HTTP client, which knows offline mode; of OpenTelemetry the batch processor and the
encoder are used.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm import __version__
from localllm.errors import LocalLLMError, UsageError
from localllm.server.monitoring.trace_context import TraceContext
from localllm.server.request_record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger("localllm.server")

_QUEUE_SPANS = 2048
_BATCH_SPANS = 512
_DELAY_MS = 5000.0
_TIMEOUT_MS = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpan:
    """A request as a span: times in nanoseconds since 1970. `parent` None: it begins a trace."""

    method: str
    route: str
    status: int | None
    trace_id: str
    span_id: str
    parent: TraceContext | None
    began_ns: int
    ended_ns: int


def new_trace_id() -> str:
    """Make the id of a trace; never zero."""
    while not int(text := secrets.token_hex(16), 16):
        pass
    return text


def span_attributes(span: RequestSpan, record: RequestRecord) -> Mapping[str, str | int | float]:
    """Return what is written of a request, under OpenTelemetry's names where it has one
    (semantic conventions for HTTP and generative AI)."""
    known: dict[str, str | int | float | None] = {
        "http.request.method": span.method,
        "http.route": span.route,
        "http.response.status_code": span.status,
        "localllm.request_id": record.request_id,
        "localllm.key": record.caller.name if record.caller is not None else None,
        "gen_ai.request.model": record.model,
    }
    if record.has_tokens:
        known["gen_ai.usage.input_tokens"] = record.prompt_tokens
        known["gen_ai.usage.output_tokens"] = record.completion_tokens
        known["gen_ai.usage.cache_read.input_tokens"] = record.cached_tokens
    if record.first_token is not None:
        known["localllm.time_to_first_token_s"] = record.first_token - record.started
    return {name: value for name, value in known.items() if value is not None}


class Tracer:
    """Makes spans of requests, and exports them in batches from a thread of its own."""

    def __init__(self, post: Callable[[bytes], None]) -> None:
        """`post` sends one batch to the collector; raises LocalLLMError. Raises UsageError when
        OpenTelemetry is not installed."""
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UsageError(
                "--otel-endpoint needs OpenTelemetry. Try: pip install 'localllm[otel]'"
            ) from error
        # Not Resource.create, which reads the environment and describes machine and user.
        self._resource = Resource({"service.name": "localllm", "service.version": __version__})
        self._processor = BatchSpanProcessor(
            _exporter(post),
            max_queue_size=_QUEUE_SPANS,
            schedule_delay_millis=_DELAY_MS,
            max_export_batch_size=_BATCH_SPANS,
            export_timeout_millis=_TIMEOUT_MS,
        )

    def export(self, span: RequestSpan, record: RequestRecord) -> None:
        """Queue the span of a request; not when its caller has decided against it. A full queue
        loses spans, and costs no answer."""
        if span.parent is None or span.parent.sampled:
            self._processor.on_end(self._readable(span, record))

    def close(self) -> None:
        """Send what is queued."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # it has no annotation

    def _readable(self, span: RequestSpan, record: RequestRecord) -> "ReadableSpan":
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        def context(span_id: str, *, remote: bool) -> SpanContext:
            return SpanContext(
                trace_id=int(span.trace_id, 16),
                span_id=int(span_id, 16),
                is_remote=remote,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )

        failed = span.status is None or span.status >= 500
        return ReadableSpan(
            name=f"{span.method} {span.route}",
            context=context(span.span_id, remote=False),
            parent=context(span.parent.span_id, remote=True) if span.parent else None,
            resource=self._resource,
            attributes=span_attributes(span, record),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=span.began_ns,
            end_time=span.ended_ns,
        )


def _exporter(post: Callable[[bytes], None]) -> "SpanExporter":
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        _failed = False

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            try:
                post(encode_spans(spans).SerializeToString())
            except LocalLLMError as error:
                if not self._failed:  # once, until it works again
                    logger.warning("%s", error)
                self._failed = True
                return SpanExportResult.FAILURE
            self._failed = False
            return SpanExportResult.SUCCESS

    return Exporter()
