"""Fields that Ollama's `/api/chat` and `/api/generate` share, and types of both."""

import json
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from localllm.engine.messages import (
    Effort,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Overflow,
    Thinking,
    ToolCall,
)
from localllm.engine.messages.limits import MAX_IMAGES
from localllm.server.dialects.ollama.options import KeepAlive, Options
from localllm.server.generation.request import (
    REQUEST_RANGES,
    decode_image,
    json_schema_grammar,
    new_request_id,
)
from localllm.server.schema import (
    WHOLE,
    ModelName,
    RequestModel,
    also_named,
    field_error,
    in_range,
)


def _decode(value: object) -> object:
    """Decode an image; some clients send the data: URL of a browser."""
    if not isinstance(value, str):
        raise field_error("invalid_type", "must be a string of base64")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    return decode_image(value)


Images = Annotated[
    list[Annotated[bytes, BeforeValidator(_decode)]], Field(max_length=MAX_IMAGES, fail_fast=True)
]


def _format(value: object) -> object:
    """Accept "json" and a schema, also as the text of one; an empty text is none."""
    if isinstance(value, str) and value not in ("", "json"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, str | dict):
        raise field_error("invalid_value", 'must be "json" or a JSON Schema')
    return value


Format = Annotated[str | dict[str, object], BeforeValidator(_format)]

Think = bool | Literal["low", "medium", "high", "max"]

_EFFORTS = {"low": Effort.LOW, "medium": Effort.MEDIUM, "high": Effort.HIGH, "max": Effort.XHIGH}


def _think(value: object) -> object:
    if not isinstance(value, bool) and not (isinstance(value, str) and value in _EFFORTS):
        raise field_error("invalid_value", "must be true, false, 'low', 'medium', 'high' or 'max'")
    return value


class ModelFields(RequestModel):
    """What every request has. `name` is the older name of `model`."""

    model: Annotated[ModelName | None, also_named("model", "name")] = None
    keep_alive: KeepAlive | None = None


class AnswerFields(ModelFields):
    """Fields of a request for a generated answer.

    `truncate`, which is true when it is absent, leaves out the oldest turns of a conversation that
    does not fit the context.
    """

    options: Options = Options()
    format: Format | None = None
    stream: bool | None = None
    think: Annotated[Think | None, BeforeValidator(_think)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, in_range(REQUEST_RANGES["top_logprobs"]), WHOLE] | None = None
    truncate: bool | None = None
    debug_render_only: Annotated[bool | None, Field(alias="_debug_render_only")] = None

    @property
    def streams(self) -> bool:
        return self.stream is not False

    def base_request(self) -> GenerateRequest:
        """Make the engine's request of these fields, under a new id; the prompt is added."""
        return replace(
            self.options.base_request(new_request_id("ollama")),
            stop=tuple(self.options.stop or ()),
            max_tokens=self.options.num_predict,
            grammar=self._grammar,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            thinking=self._thinking,
            overflow=Overflow.ERROR if self.truncate is False else Overflow.ROLL,
        )

    @property
    def _grammar(self) -> Grammar | None:
        if isinstance(self.format, dict):
            return json_schema_grammar(self.format)
        return Grammar(kind=GrammarKind.JSON_OBJECT) if self.format else None

    @property
    def _thinking(self) -> Thinking:
        if self.think is None or isinstance(self.think, bool):
            return Thinking(enabled=self.think)
        return Thinking(enabled=True, effort=_EFFORTS[self.think])


def context_warnings(num_ctx: int | None, context: int | None) -> tuple[str, ...]:
    """Name a context that was asked for and is larger than that of the loaded model."""
    if num_ctx is None or context is None or num_ctx <= context:
        return ()
    return (
        f"num_ctx is {num_ctx}, but the model is loaded with a context of {context} tokens, which "
        "is decided when it is loaded (--ctx).",
    )


def read_arguments(call: ToolCall) -> dict[str, object] | None:
    """Read the arguments of a call as Ollama writes them, an object; None when they are none, as
    those of a call that `num_predict` has cut."""
    try:
        value = json.loads(call.arguments)
        # Half of a surrogate pair, which a model may write as an escape, is no UTF-8.
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text_of_arguments(value: object) -> object:
    if value is None or value in ("", []):
        return "{}"
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise field_error("invalid_value", "is nested too deeply") from None


ArgumentsText = Annotated[str, BeforeValidator(_text_of_arguments)]
"""The arguments of an earlier call: an object, or the text of one as OpenAI has it."""
