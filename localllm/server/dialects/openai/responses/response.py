"""The answer to a request of `/v1/responses`: one document, or a stream of events."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from localllm.engine.messages import Finished, FinishReason, GenerateEvent, GenerateRequest
from localllm.server.dialects.openai.responses.documents import (
    IncompleteDetails,
    Response,
    ResponseError,
    ResponseUsage,
    Status,
    StreamEvent,
)
from localllm.server.dialects.openai.responses.output import OutputForm, ResponseOutput
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choice, Choices
from localllm.server.streaming import SSE_MEDIA_TYPE, sse_comment, sse_event


class PendingResponse:
    """A response while it is made: what it says of its request, and the items so far.

    `document` is the request's body as it came, which the response repeats in part.
    """

    def __init__(
        self,
        body: ResponseRequest,
        document: dict[str, object],
        model: str,
        generate: GenerateRequest,
        choices: Choices,
    ) -> None:
        self.id = generate.request_id
        self.choices = choices
        form = OutputForm(
            summary=body.summarizes,
            encoded=body.encodes_reasoning,
            hidden=body.hides_reasoning,
        )
        self.output = ResponseOutput(self.id, body.table, form)
        self._common = Response(
            id=self.id,
            created_at=int(time.time()),
            status="in_progress",
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=model,
            output=[],
            parallel_tool_calls=generate.parallel_tool_calls,
            previous_response_id=body.previous_response_id,
            reasoning=_object(document, "reasoning"),
            store=body.store is not False,
            temperature=generate.sampling.temperature,
            text={"format": {"type": "text"}, **_object(document, "text")},
            tool_choice=document.get("tool_choice") or "auto",
            tools=cast(list[object], document.get("tools") or []),
            top_logprobs=generate.top_logprobs or 0,
            top_p=generate.sampling.top_p,
            truncation=body.truncation or "disabled",
            user=_text(document, "user"),
            safety_identifier=_text(document, "safety_identifier"),
            prompt_cache_key=_text(document, "prompt_cache_key"),
            metadata=body.metadata or {},
        )

    def begun(self) -> Response:
        return self._common

    def finished(self) -> Response:
        """Return the whole response. Raises ApiError when it has not ended."""
        end = self.choices.finish()
        cut = end.reason is FinishReason.LENGTH
        return self._ended(
            "incomplete" if cut else "completed",
            completed_at=None if cut else int(time.time()),
            incomplete_details=IncompleteDetails() if cut else None,
            usage=ResponseUsage.of(self.choices.usage),
            timings=end.timings,
            dropped_messages=end.dropped_messages or None,
            warnings=self.choices.warnings or None,
        )

    def failed(self, error: ApiError) -> Response:
        """Return the response with what there was of it before an error."""
        return self._ended("failed", error=ResponseError(code=_failure(error), message=str(error)))

    def _ended(self, status: Status, **fields: object) -> Response:
        update = {"status": status, "output": list(self.output.items), **fields}
        return self._common.model_copy(update=update)


def _failure(error: ApiError) -> str:
    """Return the code of a failed response: OpenAI has few, and typed clients know no other. The
    event `error` before it has our own. Codex CLI looks for the first of these."""
    if error.code == "context_length_exceeded":
        return error.code
    return "server_error" if error.status >= 500 else "invalid_prompt"


def _object(document: dict[str, object], name: str) -> dict[str, object]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _text(document: dict[str, object], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None


class ResponseStreamEncoder:
    """Writes a response as server-sent events; `finished` gets the whole response before its last
    event is sent."""

    media_type = SSE_MEDIA_TYPE

    def __init__(self, pending: PendingResponse, finished: Callable[[Response], None]) -> None:
        self._pending = pending
        self._finished = finished
        self._started = False

    def encode(self, event: GenerateEvent, choices: Sequence[Choice]) -> Iterator[bytes]:
        yield from self._start()
        for choice in choices:
            choice.stop_reason  # noqa: B018 - raises for one that was cancelled
        for each in self._pending.output.add(event):
            yield _encode(each)
        if isinstance(event, Finished):
            response = self._pending.finished()
            self._finished(response)
            yield _encode(self._event(f"response.{response.status}", response=response))

    def encode_error(self, error: ApiError) -> bytes:
        failed = self._pending.failed(error)
        events = [
            *self._start(),
            _encode(self._event("error", code=error.code, message=str(error), param=error.param)),
            _encode(self._event("response.failed", response=failed)),
        ]
        return b"".join(events)

    def keep_alive(self) -> bytes:
        return sse_comment(self._pending.choices.progress.sentence())

    def _start(self) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            begun = self._pending.begun()
            yield _encode(self._event("response.created", response=begun))
            yield _encode(self._event("response.in_progress", response=begun))

    def _event(self, type_: str, **fields: object) -> StreamEvent:
        return self._pending.output.event(type_, **fields)


def _encode(event: StreamEvent) -> bytes:
    return b"event: " + event.type.encode("ascii") + b"\n" + sse_event(event.encode())
