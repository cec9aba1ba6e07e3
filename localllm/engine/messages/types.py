"""Values that commands and events are made of, in both directions.

Nothing here says which process sends it: `commands.py` goes to the worker, `events.py` comes
from it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from localllm.core.sizing.lora import MAX_SCALE
from localllm.engine.messages.limits import (
    MAX_INT32,
    MAX_LORAS,
    MAX_PENALTY_WINDOW,
    MAX_SEED,
    Range,
)


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call of an earlier assistant turn.

    `arguments` is the text of a JSON object, or what the model has written instead: a call that
    `max_tokens` has cut is no JSON.
    """

    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a message: the bytes of its file, and the offset in characters of the content
    before which it stands."""

    data: bytes
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file, or a piece of one, that helps to fill in the middle of another one."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    `tool_calls` and `reasoning` belong to an assistant's turn; a turn of the role TOOL is the
    result of the call `tool_call_id`. `name` is the tool's, and is looked up by that id when it
    is None. `images` are sorted by their offset.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    images: tuple[Image, ...] = ()


_FRACTION = Range(float, 0, 1)
_PENALTY = Range(float, -2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters, with llama.cpp's names and meanings (common/common.h, b11434).

    Neutral values switch a stage off; temperature 0 is greedy. `seed` None: a random one. With
    `mirostat` 1 or 2 only the penalties and the temperature come before it, as in llama.cpp.
    `logit_bias` is added to single tokens' logits: (token, bias).
    """

    temperature: Annotated[float, Range(float, 0, 5)] = 0.8
    top_k: Annotated[int, Range(int, 0, MAX_INT32)] = 40
    top_p: Annotated[float, _FRACTION] = 0.95
    min_p: Annotated[float, _FRACTION] = 0.05
    repeat_penalty: Annotated[float, Range(float, 0, 10, low_open=True)] = 1.0
    frequency_penalty: Annotated[float, _PENALTY] = 0.0
    presence_penalty: Annotated[float, _PENALTY] = 0.0
    penalty_last_n: Annotated[int, Range(int, 0, MAX_PENALTY_WINDOW)] = 64
    seed: Annotated[int | None, Range(int, 0, MAX_SEED)] = None
    typical_p: Annotated[float, _FRACTION] = 1.0
    top_n_sigma: Annotated[float, Range(float, 0, 100)] = 0.0
    dynatemp_range: Annotated[float, Range(float, 0, 5)] = 0.0
    dynatemp_exponent: Annotated[float, Range(float, 0, 10)] = 1.0
    xtc_probability: Annotated[float, _FRACTION] = 0.0
    xtc_threshold: Annotated[float, _FRACTION] = 0.1
    dry_multiplier: Annotated[float, Range(float, 0, 100)] = 0.0
    dry_base: Annotated[float, Range(float, 0, 10)] = 1.75
    dry_allowed_length: Annotated[int, Range(int, 0, MAX_INT32)] = 2
    dry_penalty_last_n: Annotated[int, Range(int, 0, MAX_PENALTY_WINDOW)] = 1024
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: Annotated[int, Range(int, 0, 2)] = 0
    mirostat_tau: Annotated[float, Range(float, 0, 100)] = 5.0
    mirostat_eta: Annotated[float, Range(float, 0, 10)] = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()


class GrammarKind(StrEnum):
    JSON_OBJECT = "json_object"  # any JSON object; no text
    JSON_SCHEMA = "json_schema"  # the text of a JSON Schema
    REGEX = "regex"  # Rust's syntax, the whole answer
    CHOICE = "choice"  # a JSON list of texts, one of them
    LARK = "lark"  # llguidance's dialect
    GBNF = "gbnf"  # llama.cpp's own
    TOOL_CALLS = "tool_calls"  # llguidance's dialect, as the worker writes it for its `tools`


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The grammar of an answer (structured output).

    Of a JSON Schema that is not `strict`, what the grammar cannot follow is checked on the finished
    answer, whose `Finished.warnings` name it; of a strict one it is an error.
    """

    kind: GrammarKind
    text: str = ""
    strict: bool = False


class Overflow(StrEnum):
    """The treatment of a conversation that does not fit the context."""

    ERROR = "error"
    ROLL = "roll"  # its oldest turns are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call. `parameters` is the text of a JSON Schema.

    A forced call of a `strict` one is an error where the grammar cannot follow all of the schema.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'
    strict: bool = False


class Effort(StrEnum):
    """How long a model thinks before it answers, with OpenAI's names."""

    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


NO_EFFORT = "none"
"""OpenAI's name for no thinking at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a model that can think does so before its answer; a model that cannot ignores it.

    `enabled` None: as the model does by itself. `effort` is a word that some chat templates know;
    for the others it is a budget. `budget`: tokens of reasoning after which the engine ends it,
    0 for none at all.
    """

    enabled: bool | None = None
    effort: Effort | None = None
    budget: Annotated[int | None, Range(int, 0, MAX_INT32)] = None

    @classmethod
    def of_effort(cls, name: str | None) -> "Thinking":
        """Make it of an effort's name, of which `NO_EFFORT` switches thinking off."""
        if name == NO_EFFORT:
            return cls(enabled=False)
        return cls(effort=None if name is None else Effort(name))


class ToolMode(StrEnum):
    AUTO = "auto"  # the model decides
    NONE = "none"  # the tools stay out of the prompt
    REQUIRED = "required"  # at least one call
    NAMED = "named"  # one call of the named tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """The rule of an answer's tool calls. `name` is set with NAMED, and only then."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraScale:
    """The scale of one LoRA adapter; `id` is its index among those loaded with the model."""

    id: Annotated[int, Range(int, 0, MAX_LORAS - 1)]
    scale: Annotated[float, Range(float, -MAX_SCALE, MAX_SCALE)] = 1.0


class FinishReason(StrEnum):
    STOP = "stop"  # end-of-generation token or a stop string
    LENGTH = "length"  # max_tokens or the end of the context
    CANCELLED = "cancelled"
    TOOL_CALLS = "tool_calls"  # as STOP, of an answer that asks for tools
