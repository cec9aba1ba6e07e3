"""Checks of commands, by the parent before it sends one and by the worker before it obeys one.

The parent checks because JSON has no NaN and no half of a character, and to name the field at
once; the worker because it trusts nobody: native code never sees a value out of its range. The
ranges of numbers stand on the fields themselves (`limits.py`); here are the rules that join
fields, and the limits of texts, tools and images.
"""

import json
from collections.abc import Collection, Sequence
from typing import LiteralString

from localllm.core.image import read_header
from localllm.core.sizing.load import LoadSettings, Pooling
from localllm.core.sizing.lora import MAX_SCALE
from localllm.core.units import format_bytes
from localllm.engine.messages import (
    DetokenizeRequest,
    EmbedRequest,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Message,
    Overflow,
    RerankRequest,
    Role,
    Sampling,
    TokenizeRequest,
    Tool,
    ToolChoice,
    ToolMode,
)
from localllm.engine.messages.limits import (
    LOGIT_BIAS,
    MAX_DRY_BREAKER_BYTES,
    MAX_DRY_BREAKERS,
    MAX_FILES,
    MAX_GRAMMAR_CHARS,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_IMAGES_BYTES,
    MAX_IMAGES_PIXELS,
    MAX_INPUTS,
    MAX_INT32,
    MAX_JSON_DEPTH,
    MAX_LOGIT_BIASES,
    MAX_LORAS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_TEMPLATE_OPTIONS,
    MAX_TEMPLATE_OPTIONS_CHARS,
    MAX_TOKENIZE_CHARS,
    MAX_TOKENIZE_TOKENS,
    MAX_TOOL_NAME,
    MAX_TOOLS,
    MAX_UINT32,
    RESERVED_TEMPLATE_OPTIONS,
    TOKEN_ID,
    TOOL_NAME_CHARS,
    Range,
    ranges_of,
)
from localllm.errors import BadRequest, LoadFailed

_SETTINGS = {
    "context": Range(int, 1, MAX_INT32),
    "parallel": Range(int, 1, 256),  # LLAMA_MAX_SEQ (llama-cparams.h, b11434)
    "batch": Range(int, 1, MAX_INT32),
    "ubatch": Range(int, 1, MAX_INT32),
    "threads": Range(int, 1, 512),  # GGML_MAX_N_THREADS (ggml.h, b11434)
    "threads_batch": Range(int, 1, 512),
    "gpu_layers": Range(int, 0, MAX_INT32),
    "cpu_moe": Range(int, 0, MAX_INT32),
    "cache_ram": Range(int, 0, 2**60),
    # A longer draft is rejected long before its end, and each token has a row of logits.
    "draft_max": Range(int, 0, 64),
}
"""Of the load settings, which belong to the core and are read by more than the engine."""


def check_generate(request: GenerateRequest) -> None:
    """Raise BadRequest, which names the field, when a value cannot be served."""
    prompts = (request.messages, request.prompt, request.prompt_tokens)
    if sum(prompt is not None for prompt in prompts) != 1:
        raise BadRequest("A request has either messages or a prompt, one of them.")
    if request.messages is not None and not request.messages:
        raise BadRequest("The conversation is empty: send at least one message.")
    if request.messages is None and request.overflow is Overflow.ROLL:
        raise BadRequest("A prompt has no turns that could be left out: overflow must be error.")
    _check_infill(request)
    check_images(request.messages or ())
    _check_ranges(request)
    if request.max_tokens == 0 and not request.echo:
        _check_range("max_tokens", 0, Range(int, 1, MAX_INT32))
    if request.max_tokens == 0 and request.n > 1:
        raise BadRequest(f"n is {request.n}; it can be 1 where max_tokens is 0.")
    _check_stop(request.stop)
    _check_sampling(request.sampling)
    _check_deterministic(request)
    if request.grammar is not None:
        _check_grammar(request, request.grammar)
    _check_tools(request)
    _check_ranges(request.thinking, "thinking: ")
    _check_template_options(request)
    for lora in request.loras or ():
        _check_ranges(lora, "adapters: ")


def check_embed(request: EmbedRequest) -> None:
    """Raise BadRequest, which names the field, when a value cannot be served."""
    _check_count("input", len(request.inputs))
    if request.pooling is Pooling.RANK:
        raise BadRequest("rank is no pooling of embeddings: send a query with its documents.")
    _check_ranges(request)
    for i, text in enumerate(request.inputs):
        if not text:
            raise BadRequest(f"input[{i}] is empty.")
        for token in text if isinstance(text, tuple) else ():
            _check_range(f"input[{i}]", token, TOKEN_ID)


def check_rerank(request: RerankRequest) -> None:
    """Raise BadRequest, which names the field, when a value cannot be served."""
    _check_count("documents", len(request.documents))
    if not request.query:
        raise BadRequest("The query is empty.")


def check_tokenize(request: TokenizeRequest) -> None:
    """Raise BadRequest for a text that would keep the running answers waiting."""
    if len(request.text) > MAX_TOKENIZE_CHARS:
        raise BadRequest(
            f"The text has {len(request.text)} characters; at most {MAX_TOKENIZE_CHARS} are cut "
            "into tokens at once. Send it in parts."
        )


def check_detokenize(request: DetokenizeRequest) -> None:
    """Raise BadRequest for tokens that are too many, or that no model has."""
    if len(request.tokens) > MAX_TOKENIZE_TOKENS:
        raise BadRequest(
            f"There are {len(request.tokens)} tokens; at most {MAX_TOKENIZE_TOKENS} are written "
            "as text at once. Send them in parts."
        )
    for token in request.tokens:
        _check_range("A token", token, TOKEN_ID)


def _check_infill(request: GenerateRequest) -> None:
    if request.suffix is None:
        if request.files:
            raise BadRequest("Files go with a suffix: they help to fill in the middle.")
        return
    if request.prompt is None:
        raise BadRequest("A suffix goes with a prompt that is a text: the answer joins the two.")
    if request.echo:
        raise BadRequest("A prompt with a suffix cannot be echoed: ask without echo.")
    if len(request.files) > MAX_FILES:
        raise BadRequest(f"There are {len(request.files)} files; at most {MAX_FILES} are accepted.")


def check_tokens(request: GenerateRequest, vocabulary: int) -> None:
    """Raise BadRequest for a token that the model's vocabulary does not have."""
    if len(request.stop_tokens) > MAX_STOP_STRINGS:
        raise BadRequest(
            f"There are {len(request.stop_tokens)} stop tokens; at most {MAX_STOP_STRINGS}."
        )
    tokens = {
        "A stop token": request.stop_tokens,
        "A token of the prompt": request.prompt_tokens or (),
        "A token of logit_bias": tuple(token for token, _ in request.sampling.logit_bias),
    }
    known = Range(int, 0, vocabulary - 1)
    for name, ids in tokens.items():
        for token in ids:
            if token not in known:
                raise BadRequest(f"{name} is {token}; this model's are 0 to {vocabulary - 1}.")


def check_thread_counts(counts: tuple[int, ...]) -> None:
    """Raise LoadFailed when threads are to be tried that llama.cpp cannot have."""
    if any(count not in _SETTINGS["threads"] for count in counts):
        raise LoadFailed(f"The numbers of threads to try are {counts}; they can be 1 to 512.")


def check_settings(settings: LoadSettings) -> None:
    """Raise LoadFailed, which names the setting, when llama.cpp must not be given a value."""
    for name, values in _SETTINGS.items():
        value = getattr(settings, name)
        if value is not None and value not in values:
            raise LoadFailed(
                f"The setting {name} is {value}; it can be {values.low} to {values.high}."
            )
    if len(settings.loras) > MAX_LORAS:
        raise LoadFailed(f"There are {len(settings.loras)} adapters; at most {MAX_LORAS}.")
    for lora in settings.loras:
        if not -MAX_SCALE <= lora.scale <= MAX_SCALE:  # NaN is not
            raise LoadFailed(
                f"The scale of an adapter is {lora.scale}; it can be -{MAX_SCALE:g} to "
                f"{MAX_SCALE:g}."
            )
    if settings.cells > MAX_UINT32:
        raise LoadFailed(
            f"{settings.parallel} conversations of {settings.context} tokens need "
            f"{settings.cells} cells; llama.cpp counts to {MAX_UINT32}. Try a smaller context."
        )
    if settings.parallel > min(settings.batch, settings.ubatch):
        raise LoadFailed(
            f"{settings.parallel} conversations at once need a batch of as many tokens; it has "
            f"{settings.batch}, and {settings.ubatch} at a time. Raise batch and ubatch."
        )


def check_vision(request: GenerateRequest, vision_unavailable: str | None) -> None:
    """Raise BadRequest for images to a model that takes none; `vision_unavailable` is why."""
    if vision_unavailable is not None and any(message.images for message in request.messages or ()):
        raise BadRequest(vision_unavailable)


def check_images(messages: Sequence[Message]) -> None:
    """Raise BadRequest for images that are too many, too large or of an unknown format."""
    images = [image for message in messages for image in message.images]
    if len(images) > MAX_IMAGES:
        raise BadRequest(f"The conversation has {len(images)} images; at most {MAX_IMAGES}.")
    size = sum(len(image.data) for image in images)
    largest = max((len(image.data) for image in images), default=0)
    if largest > MAX_IMAGE_BYTES or size > MAX_IMAGES_BYTES:
        raise BadRequest(
            f"The images have {format_bytes(size)}, the largest {format_bytes(largest)}; at most "
            f"{format_bytes(MAX_IMAGES_BYTES)} together and {format_bytes(MAX_IMAGE_BYTES)} each "
            "are accepted. Scale them down, or save them as JPEG."
        )
    pixels = 0
    for image in images:
        header = read_header(image.data)
        pixels += header.width * header.height
    if pixels > MAX_IMAGES_PIXELS:
        raise BadRequest(
            f"The images have {pixels} pixels together; at most {MAX_IMAGES_PIXELS}. "
            "Scale them down."
        )
    for message in messages:
        offsets = [image.offset for image in message.images]
        outside = any(not 0 <= offset <= len(message.content) for offset in offsets)
        if outside or offsets != sorted(offsets):
            raise BadRequest(
                "An image stands outside its message's text, or before the image that it follows."
            )


def tool_choice_error(
    choice: ToolChoice, tools: Collection[str], *, constrained: bool
) -> LiteralString | None:
    """Return the reason why a tool choice cannot be obeyed, or None.

    It is the predicate of a sentence whose subject is the field: the engine's check and each HTTP
    dialect put their own name of it in front. `tools` are the names that the request offers;
    `constrained`: its answer must follow a grammar of its own, which is not JSON.
    """
    if choice.mode is ToolMode.NAMED and choice.name not in tools:
        return "asks for a function that is not among the `tools`"
    if choice.mode is ToolMode.REQUIRED and not tools:
        return "is required, but there are no `tools`"
    if tools and constrained and choice.mode is not ToolMode.NONE:
        return "must be 'none' with a grammar that is not JSON"
    return None


def _check_ranges(message: object, prefix: str = "") -> None:
    """Raise BadRequest for the first number outside its range; None is not checked."""
    message_class: type = type(message)
    for name, values in ranges_of(message_class).items():
        value = getattr(message, name)
        if value is not None:
            _check_range(f"{prefix}{name}", value, values)


def _check_range(name: str, value: float, values: Range) -> None:
    if value not in values:
        raise BadRequest(f"{name} is {value}; it can be {values}.")


def _check_count(name: str, count: int) -> None:
    if not 1 <= count <= MAX_INPUTS:
        raise BadRequest(f"{name} holds {count}; it can be 1 to {MAX_INPUTS}.")


def _check_stop(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise BadRequest(
            f"There are {len(stop)} stop strings; at most {MAX_STOP_STRINGS} are accepted."
        )
    if not all(stop):
        raise BadRequest("A stop string is empty: it would end every answer before it begins.")
    length = sum(map(len, stop))
    if length > MAX_STOP_CHARS:
        raise BadRequest(
            f"The stop strings have {length} characters; at most {MAX_STOP_CHARS} are accepted."
        )


def _check_sampling(sampling: Sampling) -> None:
    _check_ranges(sampling)
    if len(sampling.logit_bias) > MAX_LOGIT_BIASES:
        raise BadRequest(
            f"logit_bias has {len(sampling.logit_bias)} tokens; at most {MAX_LOGIT_BIASES}."
        )
    for _, bias in sampling.logit_bias:
        _check_range("logit_bias", bias, LOGIT_BIAS)
    if len(sampling.dry_sequence_breakers) > MAX_DRY_BREAKERS:
        raise BadRequest(
            f"dry_sequence_breakers has {len(sampling.dry_sequence_breakers)} texts; "
            f"at most {MAX_DRY_BREAKERS}."
        )
    for breaker in sampling.dry_sequence_breakers:
        size = len(breaker.encode("utf-8", "replace"))
        if not 0 < size <= MAX_DRY_BREAKER_BYTES or "\0" in breaker:
            raise BadRequest(
                f"dry_sequence_breakers has a text of {size} bytes; each can have 1 to "
                f"{MAX_DRY_BREAKER_BYTES}, and no NUL."
            )


def _check_deterministic(request: GenerateRequest) -> None:
    sampling = request.sampling
    if request.deterministic and sampling.seed is None and sampling.temperature > 0:
        raise BadRequest(
            "A deterministic answer needs a seed, or temperature 0: without either every token is "
            "drawn at random."
        )


def _check_grammar(request: GenerateRequest, grammar: Grammar) -> None:
    if len(grammar.text) > MAX_GRAMMAR_CHARS:
        raise BadRequest(
            f"The grammar has {len(grammar.text)} characters; at most {MAX_GRAMMAR_CHARS}."
        )
    if grammar.text == "" and grammar.kind is not GrammarKind.JSON_OBJECT:
        raise BadRequest(f"The {grammar.kind.value.replace('_', ' ')} is empty.")
    if request.ignore_eos or request.min_tokens:
        raise BadRequest(
            "A grammar says where the answer ends: ignore_eos and min_tokens cannot go with it."
        )


def _check_template_options(request: GenerateRequest) -> None:
    text = request.template_options
    if len(text) > MAX_TEMPLATE_OPTIONS_CHARS:
        raise BadRequest(
            f"The variables of the chat template have {len(text)} characters; at most "
            f"{MAX_TEMPLATE_OPTIONS_CHARS} are accepted."
        )
    options = _parse_json(text)
    if not isinstance(options, dict):
        raise BadRequest("The variables of the chat template are not the text of a JSON object.")
    if len(options) > MAX_TEMPLATE_OPTIONS:
        raise BadRequest(
            f"There are {len(options)} variables of the chat template; at most "
            f"{MAX_TEMPLATE_OPTIONS} are accepted."
        )
    for name in options:
        if not name.isidentifier() or len(name) > MAX_TOOL_NAME:
            raise BadRequest(f"{name[:80]!r} is no name of a chat template's variable.")
        if name in RESERVED_TEMPLATE_OPTIONS:
            raise BadRequest(f"The chat template's variable {name} is not the request's to set.")
    last = (request.messages or (None,))[-1]
    if request.continue_final_message and (last is None or last.role is not Role.ASSISTANT):
        raise BadRequest(
            "continue_final_message needs a conversation that ends with an assistant's message."
        )


def _check_tools(request: GenerateRequest) -> None:
    choice, names = request.tool_choice, [tool.name for tool in request.tools]
    if len(names) > MAX_TOOLS:
        raise BadRequest(f"There are {len(names)} tools; at most {MAX_TOOLS} are accepted.")
    for tool in request.tools:
        _check_tool(tool)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"Two tools are called {twice!r}: each needs a name of its own.")
    if (choice.mode is ToolMode.NAMED) != (choice.name is not None):
        raise BadRequest("tool_choice has a name if it asks for that tool, and only then.")
    grammar = request.grammar
    constrained = grammar is not None and grammar.kind not in _JSON
    error = tool_choice_error(choice, names, constrained=constrained)
    if error is not None:
        raise BadRequest(f"tool_choice {error}.")
    if not names or choice.mode is ToolMode.NONE:
        return
    if request.messages is None:
        raise BadRequest(
            "Tools need a conversation (messages); a plain prompt has no place for them."
        )
    if choice.mode is not ToolMode.AUTO and (request.ignore_eos or request.min_tokens):
        raise BadRequest(
            "A forced call says where the answer ends: ignore_eos and min_tokens cannot go with it."
        )


_JSON = (GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA)
"""Grammars of an answer beside which tools may be called."""


def _check_tool(tool: Tool) -> None:
    name = tool.name
    if not 0 < len(name) <= MAX_TOOL_NAME or not set(name) <= TOOL_NAME_CHARS:
        raise BadRequest(
            f"The tool name {name[:80]!r} cannot be used: 1 to {MAX_TOOL_NAME} letters, digits, "
            "_ - and . can be."
        )
    if len(tool.parameters) > MAX_GRAMMAR_CHARS:
        raise BadRequest(
            f"The parameters of the tool {name} have {len(tool.parameters)} characters; at most "
            f"{MAX_GRAMMAR_CHARS}."
        )
    schema = _parse_json(tool.parameters)
    if schema is None:
        raise BadRequest(
            f"The parameters of the tool {name} are not valid JSON, or nested more than "
            f"{MAX_JSON_DEPTH} deep."
        )
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise BadRequest(f"The parameters of the tool {name} are not the JSON Schema of an object.")


def _parse_json(text: str) -> object:
    """Parse a JSON text; None when it is not valid, or nested deeper than MAX_JSON_DEPTH."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if is_deeper(value, MAX_JSON_DEPTH) else value


def is_deeper(value: object, depth: int) -> bool:
    """Return True when containers are nested more than `depth` deep."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or is_deeper(each, depth - 1) for each in inside)
