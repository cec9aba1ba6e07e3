"""What is said between the parent and the engine's process: frozen values, two closed unions.

`Command` goes down, `Event` comes up. Nothing here knows how they travel (`wire.py`) or who
speaks (`client.py`, `worker/`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from localllm.core.hardware import EngineBuild
from localllm.core.load import Allocation, LoadSettings, Pooling


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
    at: int = 0


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
class Adapter:
    """One of the LoRA adapters that were loaded with the model, by its place among them, and how
    much it counts for."""

    id: int
    scale: float = 1.0


class FinishReason(StrEnum):
    STOP = "stop"  # end-of-generation token or a stop string
    LENGTH = "length"  # max_tokens or the end of the context
    CANCELLED = "cancelled"
    TOOL_CALLS = "tool_calls"  # as STOP, of an answer that asks for tools


# --- commands: parent -> child ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe:
    """Ask what the installed llama.cpp build is; answered by `Described`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """Load the GGUF at `path`; answered by `LoadProgress`* then `Loaded` or `LoadRefused`."""

    path: str
    settings: LoadSettings = field(default_factory=LoadSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """Ask llama.cpp what this load would allocate, without allocating it (dry run).

    Only the header of the file at `path` is read; answered by `Probed` or `LoadRefused`.
    """

    path: str
    settings: LoadSettings = field(default_factory=LoadSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One prompt, `n` answers to it. Exactly one of `messages` (through the chat template),
    `prompt` and `prompt_tokens` (taken as they are, nothing is added) is set.

    `max_tokens` None: until the model stops or the context is full. `min_tokens`: the model's end
    tokens and `stop_tokens` are not drawn before. `ignore_eos`: the model's end token is a token
    like any other, so that an answer has the length that was asked for. `stop_tokens` end the
    answer and are no part of it. `top_logprobs`: with every token its log probability and that
    of so many most likely ones (0: its own alone, None: none at all). `grammar`: every token is
    one that the grammar allows, and the answer ends when it is complete.
    `overflow`: what becomes of messages that do not fit (`worker/rolling.py`).
    `tools` (with `messages` only) are what the answer may call, `tool_choice` whether it does,
    `parallel_tool_calls` False: it ends with the first call. `adapters`: these and no others
    (None: all that were loaded, as they were loaded).
    `n`: each answer has a sampler of its own (seeds `seed`, `seed` + 1, ...); what cannot run at
    once waits. `echo`: the prompt's own text comes first, as Tokens `of_prompt`, once for all
    answers; with `top_logprobs` its log probabilities too, and then nothing of it is taken from
    the cache. `max_tokens` 0 goes with `echo` only: the prompt is scored and nothing is drawn.
    `deadline_s`: seconds from the request's arrival after which it is refused, wherever it is.
    Answered by `PromptProgress`*, then `Token`, `Reasoning`, `ToolCallBegan` and
    `ToolCallArguments` in any order, and `n` times `Finished`, or by `Refused`.
    """

    request_id: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    stop_tokens: tuple[int, ...] = ()
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    overflow: Overflow = Overflow.ERROR
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    adapters: tuple[Adapter, ...] | None = None
    n: int = 1
    echo: bool = False
    deadline_s: float | None = None
    prompt_tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Turn texts (or lists of tokens) into vectors, with a model loaded for embeddings.

    `pooling` None: what the model was loaded with; RANK is `RerankRequest`'s. `normalize`: to
    length 1. `dimensions`: only so many, of a model that was trained for it. `truncate`: cut what
    is too long instead of refusing the request.
    Answered by `Embedded` or `Refused`.
    """

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    pooling: Pooling | None = None
    normalize: bool = True
    dimensions: int | None = None
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """Score how well each document answers the query, with a reranker loaded for embeddings.

    `truncate`: cut the end of a document that is too long instead of refusing the request.
    Answered by `Reranked` or `Refused`.
    """

    request_id: str
    query: str
    documents: tuple[str, ...]
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveState:
    """Write what the KV cache holds of this conversation to the file `path`.

    `key` (64 hexadecimal digits) signs it: only a file of the same key is read again. More than
    `max_bytes` are not written. Answered by `StateSaved` or `StateRefused`.
    """

    path: str
    messages: tuple[Message, ...]
    key: str
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreState:
    """Bring back what `SaveState` wrote, for the next prompt that begins the same way.

    Answered by `StateRestored` or `StateRefused`.
    """

    path: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End a request; it finishes with reason CANCELLED. Unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Free the model and exit with status 0."""


Command = (
    Describe
    | LoadRequest
    | ProbeRequest
    | GenerateRequest
    | SaveState
    | RestoreState
    | EmbedRequest
    | RerankRequest
    | Cancel
    | Shutdown
)


# --- events: child -> parent ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    build: EngineBuild


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """`fraction` of the weights that are in place, 0..1."""

    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The model is ready. `allocations` is what llama.cpp said it allocated (read back)."""

    allocations: tuple[Allocation, ...]
    context: int  # tokens one conversation can hold
    cells: int  # of the unified KV cache
    parallel: int
    gpu_layers: int
    has_chat_template: bool
    chat_template_sha256: str | None
    load_s: float
    vision: bool = False  # whether messages may have images
    blind: str | None = None  # why not, when it was asked to see


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What llama.cpp would allocate; model buffers are not part of it (a dry run prints 0)."""

    allocations: tuple[Allocation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRefused:
    message: str
    code: str = "load_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptProgress:
    """`processed` of `total` prompt tokens are in the KV cache; `cached` of them were before."""

    request_id: str
    processed: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token and the logarithm of its probability, before anything changes the logits.

    `raw` are its bytes, which may be a part of a character; `text` shows them as well as it can,
    and a control token, which has none, by its name.
    """

    token: int
    text: str
    raw: tuple[int, ...]
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token; `text` may be empty while bytes or a possible stop are held back.

    `logprob` and `top` (the most likely tokens, best first) when they were asked for; what is
    held back at the end comes in an event that has neither. `index`: of which of the `n` answers.
    `of_prompt`: a token of the prompt that `echo` asked for; the first has no `logprob`.
    """

    request_id: str
    text: str
    logprob: TokenLogprob | None = None
    top: tuple[TokenLogprob, ...] = ()
    index: int = 0
    of_prompt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """A piece of what the model thinks before it answers; no part of the answer's text.

    Its tokens come as `Token` with an empty text besides. `index` is the choice's, of `n`.
    """

    request_id: str
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallBegan:
    """The answer's call number `call` (from 0) is of the tool `name`."""

    request_id: str
    call: int
    id: str
    name: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallArguments:
    """The next piece of a call's arguments. All pieces together are the text of a JSON object,
    or the beginning of one when `max_tokens` cut the answer."""

    request_id: str
    call: int
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds and tokens/s measured in the engine. Rates are None when nothing was timed.

    `ttft_s` counts from the request's arrival to its first token, queueing included. `drafted`
    tokens were guessed ahead, of which `accepted` were right and saved a step each.
    """

    queue_s: float
    ttft_s: float | None
    total_s: float
    prefill_tps: float | None
    decode_tps: float | None
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Answer `index` has ended; `remaining` of the request's `n` have not, so 0 is the last word.

    The prompt is counted in every one of them and was computed once. `dropped_messages`: so many
    of the oldest, after the leading system messages, were left out for want of room (only where
    `overflow` is ROLL).
    """

    request_id: str
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    timings: Timings
    dropped_messages: int = 0
    index: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A vector for each input: its numbers as float32, little-endian (`array("f")` reads them).

    `tokens` are those of each input. With pooling NONE a vector holds a row for each of them.
    """

    request_id: str
    vectors: tuple[bytes, ...]
    tokens: tuple[int, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """A score for each document, higher is better; the scale is the model's own."""

    request_id: str
    scores: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """This request failed; the engine lives. `code` is that of a GenerationFailed class."""

    request_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSaved:
    """The file holds the cells of `tokens` tokens."""

    tokens: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRestored:
    """The cells of `tokens` tokens are in the KV cache again."""

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRefused:
    """Nothing was written or read; `message` says why."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The process lives; about one a second while it has work, and one when it is ready for it.

    `moves` is larger than last time when the computing thread has moved on since. `patient`: it
    is in a call that may take minutes and shows nothing meanwhile.
    """

    moves: int
    patient: bool = False


Event = (
    Described
    | LoadProgress
    | Loaded
    | Probed
    | LoadRefused
    | PromptProgress
    | Token
    | Reasoning
    | ToolCallBegan
    | ToolCallArguments
    | Finished
    | Embedded
    | Reranked
    | Refused
    | StateSaved
    | StateRestored
    | StateRefused
    | Pulse
)
GenerateEvent = PromptProgress | Token | Reasoning | ToolCallBegan | ToolCallArguments | Finished
