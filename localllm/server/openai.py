"""The OpenAI dialect: `/v1/models` and `/v1/chat/completions`, as its official clients speak it.

A request is taken apart field by field (`ChatRequest.parse`); the events of the runtime are put
together as one answer (`completion`) or as a stream of chunks (`chunks`).
"""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass

from localllm.engine.events import (
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    Message,
    Role,
    Sampling,
    Timings,
    Token,
)
from localllm.errors import LocalLLMError
from localllm.server.fields import Fields, Neutral
from localllm.server.problems import ApiError, api_error, encode

MAX_NATIVE_INT = 2**31 - 1
MAX_STOPS = 16
MAX_STOP_LENGTH = 256

NEUTRAL: Neutral = {
    "n": (1,),
    "store": (False,),
    "metadata": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of the dialect that this server does not serve, with the values that ask for nothing."""

NEUTRAL_IN_MESSAGE: Neutral = {
    "name": (),
    "refusal": (),
    "audio": (),
    "function_call": (),
    "tool_calls": ([],),
    "tool_call_id": (),
    "annotations": ([],),
}

LABELS = ("user", "safety_identifier", "prompt_cache_key")
"""Names that a client gives its request; no value of theirs changes the answer."""

ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What `/v1/chat/completions` was asked. `usage_apart`: usage in a chunk of its own."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    usage_apart: bool

    @classmethod
    def parse(cls, body: dict[str, object]) -> "ChatRequest":
        """Take every field of a body. Raises ApiError that names the field at fault."""
        fields = Fields(body)
        model = fields.text("model", longest=512)
        if model is None:
            raise fields.problem("model", "is required", "missing_required_parameter")
        stream = fields.flag("stream")
        request = cls(
            model=model,
            messages=_messages(fields),
            sampling=_sampling(fields),
            max_tokens=_max_tokens(fields),
            stop=_stop(fields),
            stream=stream,
            usage_apart=_usage_apart(fields, stream=stream),
        )
        for label in LABELS:
            fields.text(label, longest=512)
        fields.neutral(NEUTRAL)
        fields.done()
        return request

    def generate_request(self) -> GenerateRequest:
        """Say the same to the engine, under a new name."""
        return GenerateRequest(
            request_id=f"chatcmpl-{secrets.token_hex(12)}",
            messages=self.messages,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            stop=self.stop,
        )


def model_card(name: str, loaded_at: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": loaded_at, "owned_by": "localllm"}


async def completion(
    asked: ChatRequest, request_id: str, events: AsyncGenerator[GenerateEvent, None]
) -> dict[str, object]:
    """Wait for the whole answer. Raises what `events` raises; closes `events` in any case."""
    text: list[str] = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Token():
                    text.append(event.text)
                case Finished():
                    choice = {
                        "index": 0,
                        "message": {"role": "assistant", "content": "".join(text), "refusal": None},
                        "logprobs": None,
                        "finish_reason": _finish_reason(event),
                    }
                    head = _head(asked, request_id, "chat.completion")
                    return head | {"choices": [choice]} | _counts(event)
    raise _unfinished()


async def chunks(
    asked: ChatRequest, request_id: str, events: AsyncGenerator[GenerateEvent, None]
) -> AsyncGenerator[bytes, None]:
    """Write the answer as server-sent events while it comes.

    An error before the first event is raised: it can still be an HTTP status. A later one ends
    the stream as an event of its own, without `[DONE]`. The last chunk carries usage and timings.
    """
    head = _head(asked, request_id, "chat.completion.chunk")
    started = False
    async with aclosing(events):
        try:
            async for event in events:
                if not started:
                    started = True
                    yield _event(head | _delta({"role": "assistant", "content": ""}))
                match event:
                    case Token(text=text) if text:
                        yield _event(head | _delta({"content": text}))
                    case Finished():
                        yield _ending(asked, head, event)
                        return
            raise _unfinished()
        except LocalLLMError as error:
            if not started:
                raise
            yield _event(api_error(error).body())


def _messages(fields: Fields) -> tuple[Message, ...]:
    value = fields.required("messages")
    if not isinstance(value, list):
        raise fields.wrong_type("messages", "an array")
    if not value:
        raise fields.problem("messages", "must hold at least one message")
    return tuple(_message(fields, item, i) for i, item in enumerate(value))


def _message(fields: Fields, value: object, index: int) -> Message:
    message = fields.of(value, f"messages[{index}]")
    role = message.required("role")
    if not isinstance(role, str) or role not in ROLES:
        raise message.problem("role", f"must be one of {', '.join(ROLES)}")
    content = _content(message)
    message.neutral(NEUTRAL_IN_MESSAGE)
    message.done()
    return Message(role=ROLES[role], content=content)


def _content(message: Fields) -> str:
    """A string, or the text parts of a list, each on its own line (as llama-server joins them)."""
    value = message.required("content")
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise message.wrong_type("content", "a string or an array of text parts")
    if not value:
        raise message.problem("content", "must hold at least one part")
    return "\n".join(_text_part(message, part, i) for i, part in enumerate(value))


def _text_part(message: Fields, value: object, index: int) -> str:
    part = message.of(value, f"content[{index}]")
    if part.required("type") != "text":
        raise part.problem("type", 'must be "text": images, sound and files are not supported')
    text = part.required("text")
    if not isinstance(text, str):
        raise part.wrong_type("text", "a string")
    part.done()
    return text


def _sampling(fields: Fields) -> Sampling:
    """Take the ranges that `Sampling` documents; what is not given keeps the engine's default."""
    given = {
        "temperature": fields.number("temperature", 0, 5),
        "top_p": fields.number("top_p", 0, 1),
        "min_p": fields.number("min_p", 0, 1),
        "top_k": fields.integer("top_k", 0, MAX_NATIVE_INT),
        "repeat_penalty": fields.number("repeat_penalty", 0, 10, above=True),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "seed": fields.integer("seed", 0, 2**32 - 2),
    }
    return Sampling(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # int and float fields share one mapping


def _max_tokens(fields: Fields) -> int | None:
    old = fields.integer("max_tokens", 1, MAX_NATIVE_INT)
    new = fields.integer("max_completion_tokens", 1, MAX_NATIVE_INT)
    if old is not None and new is not None and old != new:
        raise fields.problem("max_tokens", f"is {old} but `max_completion_tokens` is {new}")
    return new if new is not None else old


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.value("stop")
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    if len(stops) > MAX_STOPS:
        raise fields.problem("stop", f"holds more than {MAX_STOPS} strings")
    checked = []
    for stop in stops:
        if not isinstance(stop, str):
            raise fields.wrong_type("stop", "a string or an array of strings")
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise fields.problem("stop", f"needs strings of 1 to {MAX_STOP_LENGTH} characters")
        checked.append(stop)
    return tuple(checked)


def _usage_apart(fields: Fields, *, stream: bool) -> bool:
    options = fields.nested("stream_options")
    if options is None:
        return False
    wanted = options.flag("include_usage")
    options.neutral({"include_obfuscation": (False,)})
    options.done()
    if wanted and not stream:
        raise fields.problem("stream_options", "has a meaning only with `stream`: true")
    return wanted


def _head(asked: ChatRequest, request_id: str, kind: str) -> dict[str, object]:
    return {"id": request_id, "object": kind, "created": int(time.time()), "model": asked.model}


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {"choices": [choice]}


def _ending(asked: ChatRequest, head: dict[str, object], event: Finished) -> bytes:
    last = head | _delta({}, _finish_reason(event))
    if not asked.usage_apart:
        return _event(last | _counts(event)) + _DONE
    return _event(last) + _event(head | {"choices": []} | _counts(event)) + _DONE


def _counts(event: Finished) -> dict[str, object]:
    return {"usage": _usage(event), "timings": _timings(event.timings)}


def _usage(event: Finished) -> dict[str, object]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": event.cached_tokens},
    }


def _timings(timings: Timings) -> dict[str, float | None]:
    return dict(asdict(timings))


def _finish_reason(event: Finished) -> str:
    if event.reason is FinishReason.CANCELLED:
        raise ApiError("The request was cancelled.", status=503, code="cancelled")
    return event.reason.value


def _unfinished() -> ApiError:
    return ApiError("The engine's answer ended early.", status=500, code="generation_failed")


def _event(value: dict[str, object]) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


_DONE = b"data: [DONE]\n\n"
