"""What the engine's process says to its parent."""

from dataclasses import dataclass

from localllm.core.hardware import EngineBuild
from localllm.core.sizing.load import Allocation
from localllm.engine.messages.types import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    build: EngineBuild


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """`fraction` of the weights that are in place, 0..1."""

    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The model is ready. `allocations` is what llama.cpp said it allocated (read back), `draft`
    what for the draft model."""

    allocations: tuple[Allocation, ...]
    context: int  # tokens one conversation can hold
    cells: int  # of the KV cache
    parallel: int
    gpu_layers: int
    has_chat_template: bool
    chat_template_sha256: str | None
    load_s: float
    vision: bool = False  # whether messages may have images
    vision_unavailable: str | None = None  # why not, when it was asked to see
    draft: tuple[Allocation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What llama.cpp would allocate; model buffers are not part of it (a dry run prints 0)."""

    allocations: tuple[Allocation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadError:
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
    """One token of an answer; `text` is empty while bytes of a character, or what may become a
    stop string, are held back.

    `index`: the choice, of `n`. `logprob` and `top_logprobs` (the most likely tokens, best first)
    are there when the request asked for them, except in the event that flushes the rest of the
    text at the end. `of_prompt`: a token of the prompt, for `echo`; the first has no `logprob`.
    """

    request_id: str
    text: str
    logprob: TokenLogprob | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()
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
class RequestError:
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
class StateError:
    """Nothing was written or read; `message` says why."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The process lives; about one a second while it has work, and one when it is ready for it.

    `steps` is larger than last time when the computing thread has moved on since. `long_call`: it
    is in a call that may take minutes and shows nothing meanwhile.
    """

    steps: int
    long_call: bool = False


Event = (
    BuildInfo
    | LoadProgress
    | Loaded
    | Probed
    | LoadError
    | PromptProgress
    | Token
    | Reasoning
    | ToolCallBegan
    | ToolCallArguments
    | Finished
    | Embedded
    | Reranked
    | RequestError
    | StateSaved
    | StateRestored
    | StateError
    | Heartbeat
)
GenerateEvent = PromptProgress | Token | Reasoning | ToolCallBegan | ToolCallArguments | Finished
