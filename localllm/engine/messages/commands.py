"""Commands: messages from the parent to the worker.

Each docstring names the events that answer it. Control commands (`BuildInfoRequest`, loads,
probes, states) are answered one after another, in the order in which they were sent; requests
(with a `request_id`) run at the same time, and their events carry that id.
"""

from dataclasses import dataclass, field
from typing import Annotated

from localllm.core.sizing.load import LoadSettings, Pooling
from localllm.engine.messages.limits import (
    MAX_DEADLINE_S,
    MAX_INT32,
    MAX_N,
    MAX_PRIORITY,
    MAX_STREAM_INTERVAL_S,
    MAX_TOP_LOGPROBS,
    Range,
)
from localllm.engine.messages.types import (
    Grammar,
    LoraScale,
    Message,
    Overflow,
    Sampling,
    SourceFile,
    Thinking,
    Tool,
    ToolChoice,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfoRequest:
    """Describe the installed llama.cpp build. Answered by `BuildInfo`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """Load the GGUF at `path`. Answered by `LoadProgress`*, then `Loaded` or `LoadError`.

    `try_threads`: numbers of threads to compare after the load, the usual one first, none above it;
    the best is used instead of the settings' own.
    `test_devices`: compare what the devices compute with what the processor does.
    """

    path: str
    settings: LoadSettings = field(default_factory=LoadSettings)
    try_threads: tuple[int, ...] = ()
    test_devices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitecturesRequest:
    """Ask which of these architectures llama.cpp runs. Answered by `Architectures` or
    `LoadError`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """Measure what llama.cpp would allocate for this load, without allocating it (a dry run).

    Only the header of the file at `path` is read. Answered by `Probed` or `LoadError`.
    """

    path: str
    settings: LoadSettings = field(default_factory=LoadSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Generate `n` answers to one prompt.

    Answered by `PromptProgress`*, then `Token`, `Reasoning`, `ToolCallBegan` and
    `ToolCallArguments` in any order, and `n` times `Finished`; or by `RequestError`.

    The prompt is exactly one of `messages` (rendered by the chat template), `prompt` and
    `prompt_tokens` (both as they are: no BOS, no template).

    - `suffix`: fill in the middle: the answer stands between `prompt` and this text. Both are cut
      where they do not fit (`worker/prompt/infill.py`). `files`: others of the same project, the
      most important one last, for what is left of the context.

    - `max_tokens` None: until the model stops or the context is full. 0 goes with `echo` only:
      the prompt is scored and nothing is generated.
    - `min_tokens`: end-of-generation tokens and `stop_tokens` are banned before that many.
    - `ignore_eos`: the end-of-generation token is a token like any other (for benchmarks).
    - `stop`, `stop_tokens` end the answer and are no part of it.
    - `top_logprobs`: log probabilities of each token and of that many most likely ones (0: of
      the token alone, None: of none).
    - `grammar` constrains every token; the answer ends when the grammar is complete.
    - `overflow` decides about `messages` that do not fit the context (see
      `worker/prompt/context_window.py`).
    - `tools`, `tool_choice` go with `messages` only. `parallel_tool_calls` False: the answer ends
      with its first call.
    - `thinking` goes with `messages` only, and so do these two. `template_options`: further
      variables of the chat template, the text of a JSON object. `continue_final_message`: the
      answer goes on with the last message, an assistant's; None: if it is one with a text.
    - `loras` replaces the adapters and their scales (None: as loaded).
    - `n`: answer i samples with `seed` + i. Answers that cannot run at once wait.
    - `echo`: the prompt's own tokens come first, as `Token` with `of_prompt`, once for all
      answers. With `top_logprobs` the prompt is computed in full, since cached tokens have no
      logits.
    - `priority`: 0 is served first, as in vLLM. An answer rests while one of a lower number is
      being written, and gives its slot to one that waits.
    - `deterministic`: the same text again, whatever else is computed: with a seed or temperature 0
      only. The request is alone in its batches, its prompt is computed in fixed chunks, nothing is
      drafted, and of the cache no more is used than was computed in the same way.
    - `parse_special` goes with `messages` only: control tokens that somebody wrote into them are
      control tokens, and no text.
    - `stream_interval_s`: after the first token, what has come is sent together after so many
      seconds (0: at once). A program that draws a few times a second is then woken as seldom, and
      takes less from the threads that compute.
    - `deadline_s`: seconds from the request's arrival after which it ends with an error, wherever
      it is.
    """

    request_id: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: Annotated[int | None, Range(int, 0, MAX_INT32)] = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: Annotated[int, Range(int, 0, MAX_INT32)] = 0
    stop_tokens: tuple[int, ...] = ()
    top_logprobs: Annotated[int | None, Range(int, 0, MAX_TOP_LOGPROBS)] = None
    grammar: Grammar | None = None
    overflow: Overflow = Overflow.ERROR
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    thinking: Thinking = field(default_factory=Thinking)
    template_options: str = "{}"
    continue_final_message: bool | None = None
    loras: tuple[LoraScale, ...] | None = None
    n: Annotated[int, Range(int, 1, MAX_N)] = 1
    echo: bool = False
    deadline_s: Annotated[float | None, Range(float, 0, MAX_DEADLINE_S)] = None
    priority: Annotated[int, Range(int, 0, MAX_PRIORITY)] = 0
    stream_interval_s: Annotated[float, Range(float, 0, MAX_STREAM_INTERVAL_S)] = 0.0
    prompt_tokens: tuple[int, ...] | None = None
    suffix: str | None = None
    files: tuple[SourceFile, ...] = ()
    deterministic: bool = False
    parse_special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """Cut a text into tokens. Answered by `Tokenized` or `RequestError`.

    `add_special`: with the BOS and EOS that the vocabulary puts around a prompt. `parse_special`:
    control tokens that are written in the text are recognised.
    """

    request_id: str
    text: str
    add_special: bool = False
    parse_special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DetokenizeRequest:
    """Write tokens as text, control tokens by their names. Answered by `Detokenized` or
    `RequestError`."""

    request_id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyTemplateRequest:
    """Write the prompt of `request`, which has the same id, as text. Nothing is generated.

    Answered by `TemplateApplied` or `RequestError`.
    """

    request_id: str
    request: GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTokensRequest:
    """Count the tokens of the prompt of `request`, which has the same id. Nothing is generated.

    Answered by `TokensCounted` or `RequestError`.
    """

    request_id: str
    request: GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Embed texts, or lists of tokens, with a model that was loaded for embeddings.

    `pooling` None: the loaded one; RANK belongs to `RerankRequest`. `normalize`: to length 1.
    `dimensions`: the first so many, for a model that was trained for that (Matryoshka).
    `truncate`: cut an input that is too long instead of failing the request.
    Answered by `Embedded` or `RequestError`.
    """

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    pooling: Pooling | None = None
    normalize: bool = True
    dimensions: Annotated[int | None, Range(int, 1, MAX_INT32)] = None
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """Score each document's relevance to the query, with a reranker loaded for embeddings.

    `truncate`: cut the end of a document that is too long instead of failing the request.
    Answered by `Reranked` or `RequestError`.
    """

    request_id: str
    query: str
    documents: tuple[str, ...]
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveState:
    """Write the KV cache of this conversation to the file `path`.

    `thinking` is that of the request that computed it. `key` (64 hexadecimal digits) signs the
    file: only one of the same key is restored. A state of more than `max_bytes` is not written.
    Answered by `StateSaved` or `StateError`.
    """

    path: str
    messages: tuple[Message, ...]
    key: str
    thinking: Thinking = field(default_factory=Thinking)
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreState:
    """Restore what `SaveState` wrote, as a prefix for the next prompt that begins with it.

    Answered by `StateRestored` or `StateError`.
    """

    path: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStates:
    """List the conversations in the KV cache that are worth keeping. Answered by `StatesListed` or
    `StateError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportState:
    """Copy a conversation of the last `StatesListed`, by its `index` there, to the file `path`.

    The file is there already and empty: memory of the parent that has a name, or, with a `key` (64
    hexadecimal digits; used once), a file on a disk, which it is encrypted for. A state of more
    than `max_bytes` is not copied. Answered by `StateSaved` or `StateError`.
    """

    index: int
    path: str
    max_bytes: int
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportState:
    """Take back what `ExportState` has copied, as a prefix for the next prompt that begins with it.

    What is not encrypted has to be memory that is sealed: nobody can change it any more.
    Answered by `StateRestored` or `StateError`.
    """

    path: str
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Cancel a request, which ends with the reason CANCELLED. Unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Free the model and exit with status 0."""


Command = (
    BuildInfoRequest
    | LoadRequest
    | ArchitecturesRequest
    | ProbeRequest
    | GenerateRequest
    | TokenizeRequest
    | DetokenizeRequest
    | ApplyTemplateRequest
    | CountTokensRequest
    | SaveState
    | RestoreState
    | ListStates
    | ExportState
    | ImportState
    | EmbedRequest
    | RerankRequest
    | Cancel
    | Shutdown
)
