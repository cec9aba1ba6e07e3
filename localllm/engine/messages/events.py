"""Events: messages from the worker to the parent, which answer commands (`commands.py`).

`Heartbeat` alone answers nothing: it comes about once a second while the worker is busy. Events
with a `request_id` belong to that request; the others answer control commands in their order.
The `*Error` events are data; the client raises an exception of `localllm.errors` for them.
"""

from dataclasses import dataclass, field

from localllm.core.hardware import DeviceTest, EngineBuild
from localllm.core.sizing.load import Allocation
from localllm.core.speed.threads import ThreadTrial
from localllm.engine.messages.prompt_cache import CacheUsage, HostCacheStats
from localllm.engine.messages.types import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """The installed llama.cpp build and the devices that it can use."""

    build: EngineBuild


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """`fraction` of the weights is loaded, 0..1. `testing_devices`: the GPU is being tested, before
    the load and behind it."""

    fraction: float
    testing_devices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyInfo:
    """A model's vocabulary: its size and its special tokens as it writes them, None for none.

    `adds_bos`: a prompt begins with BOS without anybody writing it. `infill`: it has the tokens
    that fill in the middle.
    """

    size: int = 0
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    adds_bos: bool = False
    infill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The model is ready.

    `allocations`: the buffers that llama.cpp allocated, as its log reports them; `draft`: those of
    the draft model. `chat_template_problem`: why a template that is there cannot be used, or what
    it does to a conversation. `vision_unavailable`: why messages may not have images although a
    projector was to be loaded. `threads` compute a token, `threads_batch` several at once;
    `thread_trials` were compared for that, none where nothing was. `device_test`: what came of
    testing its devices; None: they were not tested.
    """

    allocations: tuple[Allocation, ...]
    context: int  # tokens of one sequence
    cells: int  # of the KV cache, for all sequences
    parallel: int
    gpu_layers: int
    has_chat_template: bool
    chat_template_sha256: str | None
    load_s: float
    chat_template_problem: str | None = None
    vision: bool = False  # messages may have images
    vision_unavailable: str | None = None
    draft: tuple[Allocation, ...] = ()
    vocabulary: VocabularyInfo = field(default_factory=VocabularyInfo)
    chat_template: str | None = None  # its source, if it has one
    threads: int | None = None
    threads_batch: int | None = None
    thread_trials: tuple[ThreadTrial, ...] = ()
    device_test: DeviceTest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """The buffers that llama.cpp would allocate, without the weights (a dry run reports 0)."""

    allocations: tuple[Allocation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architectures:
    """The architectures of the request that llama.cpp runs, and the version of its package."""

    runnable: tuple[str, ...]
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadError:
    """A load or a dry run failed; `message` is the reason. The worker goes on.

    `usage`: not the model is to blame but what was given beside it.
    """

    message: str
    usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptProgress:
    """`processed` of `total` prompt tokens are in the KV cache; `cached` of them were reused.

    The first of a request, with `processed` 0, comes as soon as the worker has accepted it: what
    can be wrong with it by itself has been checked, and it waits for its turn. `elapsed_s` is 0
    then, and later the time since its prompt's turn came first.
    """

    request_id: str
    processed: int
    total: int
    cached: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token and its natural log probability, from the logits before any sampler changes them.

    `raw` are its bytes, possibly a part of a character; `text` is their lossy decoding, or the
    name of a control token, which has no bytes.
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
    """A piece of the reasoning before the answer; no part of the answer's text.

    Its tokens also come as `Token`, with an empty text. `index`: the choice, of `n`.
    """

    request_id: str
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallBegan:
    """A tool call began: number `call` (from 0) of choice `index`, to the tool `name`."""

    request_id: str
    call: int
    id: str
    name: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallArguments:
    """The next piece of a call's arguments. Joined, the pieces are the text of a JSON object, or
    the beginning of one when `max_tokens` cut the answer."""

    request_id: str
    call: int
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Durations in seconds and rates in tokens/s, measured in the worker; None: not timed.

    `ttft_s` counts from the request's arrival to its first token, queueing included. Of `drafted`
    speculative tokens `accepted` were right and saved a decode step each. `cache`: where the tokens
    of the prompt came from; None: not known, for the answer was broken off from outside.
    """

    queue_s: float
    ttft_s: float | None
    total_s: float
    prefill_tps: float | None
    decode_tps: float | None
    drafted: int = 0
    accepted: int = 0
    cache: CacheUsage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Choice `index` has ended; `remaining` of the request's `n` have not, so 0 ends the request.

    `prompt_tokens` is the same in all of them: the prompt was computed once. `dropped_messages`:
    that many of the oldest, after the leading system messages, did not fit the context and were
    left out (with `overflow` ROLL). `warnings`: sentences about what was done to the request to
    answer it, such as messages that had to be merged for the chat template. `reasoning_tokens` of
    the completion's were reasoning. `batches`: in how many calls of llama_decode the answer was;
    `batch_share`: their sum with each divided by the answers in it, so that the shares of all
    answers together are the calls. `stop`: the stop string that ended the answer.
    `host_cache`: the second tier of the cache now, of all answers; None: there is none.
    """

    request_id: str
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    timings: Timings
    dropped_messages: int = 0
    warnings: tuple[str, ...] = ()
    reasoning_tokens: int = 0
    stop: str | None = None
    index: int = 0
    remaining: int = 0
    batches: int = 0
    batch_share: float = 0.0
    host_cache: HostCacheStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A vector for each input, as float32, little-endian (`array("f")` reads them).

    `tokens`: the count of each input. With pooling NONE a vector holds a row for each token.
    """

    request_id: str
    vectors: tuple[bytes, ...]
    tokens: tuple[int, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """A relevance score for each document, on the model's own scale; higher is better."""

    request_id: str
    scores: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """The tokens of a text, and the bytes of each, possibly a part of a character."""

    request_id: str
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detokenized:
    """The text of a list of tokens."""

    request_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateApplied:
    """A prompt as text, without the BOS that the tokenizer adds."""

    request_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensCounted:
    """The number of tokens of a prompt: the `prompt_tokens` of its answer."""

    request_id: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestError:
    """A request failed; the worker goes on. `code` is that of a `GenerationFailed` class."""

    request_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSaved:
    """The KV cache of `tokens` tokens was written to a file of `size_bytes`."""

    tokens: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRestored:
    """The KV cache holds `tokens` tokens of the saved conversation again."""

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesListed:
    """The conversations that the KV cache holds, by their numbers of tokens: used last first."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateError:
    """A state was neither written nor restored; `message` is the reason."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The worker process lives: about one a second while it is busy, and one when it is ready.

    `steps` grows when the computing thread has got on since the last one. `long_call`: it is in a
    native call that may take minutes without a sign of progress (a load, a first batch).
    """

    steps: int
    long_call: bool = False


Event = (
    BuildInfo
    | LoadProgress
    | Loaded
    | Probed
    | Architectures
    | LoadError
    | PromptProgress
    | Token
    | Reasoning
    | ToolCallBegan
    | ToolCallArguments
    | Finished
    | Embedded
    | Reranked
    | Tokenized
    | Detokenized
    | TemplateApplied
    | TokensCounted
    | RequestError
    | StateSaved
    | StateRestored
    | StatesListed
    | StateError
    | Heartbeat
)
GenerateEvent = PromptProgress | Token | Reasoning | ToolCallBegan | ToolCallArguments | Finished
