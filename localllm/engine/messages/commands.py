"""What the parent says to the engine's process."""

from dataclasses import dataclass, field

from localllm.core.sizing.load import LoadSettings, Pooling
from localllm.engine.messages.types import (
    Grammar,
    LoraScale,
    Message,
    Overflow,
    Sampling,
    Tool,
    ToolChoice,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfoRequest:
    """Ask what the installed llama.cpp build is; answered by `BuildInfo`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """Load the GGUF at `path`; answered by `LoadProgress`* then `Loaded` or `LoadError`."""

    path: str
    settings: LoadSettings = field(default_factory=LoadSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """Ask llama.cpp what this load would allocate, without allocating it (dry run).

    Only the header of the file at `path` is read; answered by `Probed` or `LoadError`.
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
    `parallel_tool_calls` False: it ends with the first call. `loras`: these and no others
    (None: all that were loaded, as they were loaded).
    `n`: each answer has a sampler of its own (seeds `seed`, `seed` + 1, ...); what cannot run at
    once waits. `echo`: the prompt's own text comes first, as Tokens `of_prompt`, once for all
    answers; with `top_logprobs` its log probabilities too, and then nothing of it is taken from
    the cache. `max_tokens` 0 goes with `echo` only: the prompt is scored and nothing is drawn.
    `deadline_s`: seconds from the request's arrival after which it is refused, wherever it is.
    Answered by `PromptProgress`*, then `Token`, `Reasoning`, `ToolCallBegan` and
    `ToolCallArguments` in any order, and `n` times `Finished`, or by `RequestError`.
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
    loras: tuple[LoraScale, ...] | None = None
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
    Answered by `Embedded` or `RequestError`.
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
    Answered by `Reranked` or `RequestError`.
    """

    request_id: str
    query: str
    documents: tuple[str, ...]
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveState:
    """Write what the KV cache holds of this conversation to the file `path`.

    `key` (64 hexadecimal digits) signs it: only a file of the same key is read again. More than
    `max_bytes` are not written. Answered by `StateSaved` or `StateError`.
    """

    path: str
    messages: tuple[Message, ...]
    key: str
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreState:
    """Bring back what `SaveState` wrote, for the next prompt that begins the same way.

    Answered by `StateRestored` or `StateError`.
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
    BuildInfoRequest
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
