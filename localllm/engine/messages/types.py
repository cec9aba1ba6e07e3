"""What commands and events are made of: messages, sampling, grammars, tools."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What an assistant asked for in an earlier turn. `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture in a message: the bytes of its file, and before which character of the content
    it stands."""

    data: bytes
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    `tool_calls` and `reasoning` are an assistant's; a turn of the role TOOL is the result of the
    call `tool_call_id`. `name` is the tool's, and is looked up by that id when it is None.
    `images` are in the order in which they stand in `content`.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Neutral values switch a stage off; temperature 0 is greedy.

    Names and meanings are llama.cpp's (common/common.h); the ranges are in `limits.py`. `seed`
    None: a random one. With `mirostat` 1 or 2 only the penalties and the temperature go before
    it, as in llama.cpp. `logit_bias` adds to single tokens' logits: (token, bias).
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int | None = None
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 1024
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
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
    """What an answer must look like."""

    kind: GrammarKind
    text: str = ""


class Overflow(StrEnum):
    """What happens to a conversation that the context has no room for."""

    ERROR = "error"
    ROLL = "roll"  # its oldest turns are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may ask for. `parameters` is the text of a JSON Schema."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


class ToolMode(StrEnum):
    AUTO = "auto"  # the model decides
    NONE = "none"  # it is not told of the tools
    REQUIRED = "required"  # at least one call
    NAMED = "named"  # one call of the tool that is named


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether an answer calls tools. `name` with NAMED, and only then."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraScale:
    """One of the LoRA adapters that were loaded with the model, by its place among them, and how
    much it counts for."""

    id: int
    scale: float = 1.0


class FinishReason(StrEnum):
    STOP = "stop"  # end-of-generation token or a stop string
    LENGTH = "length"  # max_tokens or the end of the context
    CANCELLED = "cancelled"
    TOOL_CALLS = "tool_calls"  # as STOP, of an answer that asks for tools
