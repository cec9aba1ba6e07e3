"""Ranges of every field of a request or a load, and limits of its images.

Checked on both sides: by the parent, because JSON has no NaN and no half of a character, and by
the worker, which trusts nobody. Native code never sees a value out of range.
"""

import json
import string
from collections.abc import Sequence

from localllm.core.image import MAX_PIXELS, read_header
from localllm.core.sizing.load import LoadSettings, Pooling
from localllm.core.sizing.lora import MAX_SCALE
from localllm.core.units import format_bytes
from localllm.engine.messages import (
    EmbedRequest,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Message,
    Overflow,
    RerankRequest,
    Sampling,
    Tool,
    ToolMode,
)
from localllm.errors import BadRequest, LoadFailed

MAX_STOP_STRINGS = 256
MAX_STOP_CHARS = 65_536
"""Of all stop strings of a request together."""

_MAX_INT = 2**31 - 1  # int32_t in llama.h
_MAX_UINT = 2**32 - 1  # uint32_t: n_ctx
_MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ (llama-cparams.h, b11434)
_MAX_DRAFTS = 64  # more is guessed wrong long before, and each has a row of logits
_MAX_THREADS = 512  # GGML_MAX_N_THREADS (ggml.h, b11434)

_SAMPLING: dict[str, tuple[float, float]] = {
    "temperature": (0, 5),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "typical_p": (0, 1),
    "top_n_sigma": (0, 100),
    "dynatemp_range": (0, 5),
    "dynatemp_exponent": (0, 10),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "dry_multiplier": (0, 100),
    "dry_base": (0, 10),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 10),
}
_SAMPLING_INT: dict[str, tuple[int, int]] = {
    "top_k": (0, _MAX_INT),
    "penalty_last_n": (0, 2**20),  # llama.cpp allocates a ring of this many tokens
    "dry_penalty_last_n": (0, 2**20),
    "dry_allowed_length": (0, _MAX_INT),
    "mirostat": (0, 2),
}
MAX_GRAMMAR_CHARS = 2**20
MAX_TOOLS = 128
MAX_TOOL_NAME = 64
MAX_JSON_DEPTH = 128
"""Of schemas and arguments."""
TOOL_NAME_CHARS = frozenset(string.ascii_letters + string.digits + "_-.")
"""Characters of one."""
MAX_LORAS = 64
MAX_INPUTS = 2048
"""Of one request for embeddings, as OpenAI's API has it; documents to be ranked likewise."""
MAX_LOGIT_BIASES = 4096
MAX_BIAS = 100.0
MAX_TOP_LOGPROBS = 20
MAX_N = 128
"""To one prompt (OpenAI's own limit for `n`)."""
MAX_DEADLINE_S = 7 * 86_400.0
MAX_DRY_BREAKERS = 16
_MAX_DRY_BREAKER_BYTES = 40  # MAX_CHAR_LEN in llama_sampler_init_dry: longer ones are cut
_MAX_REPEAT_PENALTY = 10
MAX_SEED = 2**32 - 2  # 2**32 - 1 is LLAMA_DEFAULT_SEED, "choose one"


def check_generate(request: GenerateRequest) -> None:
    """Raise BadRequest, which names the field, when a value is out of its range."""
    given = (request.messages, request.prompt, request.prompt_tokens)
    if sum(each is not None for each in given) != 1:
        raise BadRequest("A request has either messages or a prompt, one of them.")
    if request.messages is not None and not request.messages:
        raise BadRequest("The conversation is empty: send at least one message.")
    if request.messages is None and request.overflow is Overflow.ROLL:
        raise BadRequest("A prompt has no turns that could be left out: overflow must be error.")
    check_images(request.messages or ())
    if request.max_tokens is not None:
        _check_int("max_tokens", request.max_tokens, 0 if request.echo else 1, _MAX_INT)
    _check_int("n", request.n, 1, MAX_N if request.max_tokens != 0 else 1)
    if request.deadline_s is not None:
        _check_float("deadline_s", request.deadline_s, 0, MAX_DEADLINE_S)
    _check_int("min_tokens", request.min_tokens, 0, _MAX_INT)
    if request.top_logprobs is not None:
        _check_int("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)
    _check_stop(request.stop)
    _check_sampling(request.sampling)
    if request.grammar is not None:
        _check_grammar(request, request.grammar)
    _check_tools(request)
    for message in request.messages or ():
        for call in message.tool_calls:
            if not isinstance(_json(call.arguments), dict):
                raise BadRequest(
                    f"The arguments of an earlier call of {call.name[:80]!r} are not the text of a "
                    "JSON object."
                )
    for adapter in request.loras or ():
        _check_int("adapters: id", adapter.id, 0, MAX_LORAS - 1)
        _check_float("adapters: scale", adapter.scale, -MAX_SCALE, MAX_SCALE)


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
    if choice.name is not None and choice.name not in names:
        raise BadRequest(f"tool_choice asks for {choice.name!r}, which is none of the tools.")
    if choice.mode is ToolMode.REQUIRED and not names:
        raise BadRequest("tool_choice is required, but there are no tools.")
    if not names or choice.mode is ToolMode.NONE:
        return
    if request.messages is None:
        raise BadRequest(
            "Tools need a conversation (messages); a plain prompt has no place for them."
        )
    if request.grammar is not None:
        raise BadRequest(
            "An answer that must follow a grammar cannot call tools: leave the tools out, or the "
            "grammar (response_format)."
        )
    if choice.mode is not ToolMode.AUTO and (request.ignore_eos or request.min_tokens):
        raise BadRequest(
            "A forced call says where the answer ends: ignore_eos and min_tokens cannot go with it."
        )


def _check_tool(tool: Tool) -> None:
    name = tool.name
    if not 0 < len(name) <= MAX_TOOL_NAME or not all(
        c.isascii() and (c.isalnum() or c in "_-.") for c in name
    ):
        raise BadRequest(
            f"The tool name {name[:80]!r} cannot be used: 1 to {MAX_TOOL_NAME} letters, digits, "
            "_ - and . can be."
        )
    if len(tool.parameters) > MAX_GRAMMAR_CHARS:
        raise BadRequest(
            f"The parameters of the tool {name} have {len(tool.parameters)} characters; at most "
            f"{MAX_GRAMMAR_CHARS}."
        )
    schema = _json(tool.parameters)
    if schema is None:
        raise BadRequest(
            f"The parameters of the tool {name} are not valid JSON, or nested more than "
            f"{MAX_JSON_DEPTH} deep."
        )
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise BadRequest(f"The parameters of the tool {name} are not the JSON Schema of an object.")


def check_embed(request: EmbedRequest) -> None:
    """Raise BadRequest, which names the field, when a value is out of its range."""
    _check_count("input", len(request.inputs))
    if request.pooling is Pooling.RANK:
        raise BadRequest("rank is no pooling of embeddings: send a query with its documents.")
    if request.dimensions is not None:
        _check_int("dimensions", request.dimensions, 1, _MAX_INT)
    for i, given in enumerate(request.inputs):
        if not given:
            raise BadRequest(f"input[{i}] is empty.")
        for token in given if isinstance(given, tuple) else ():
            _check_int(f"input[{i}]", token, 0, _MAX_INT)


def check_rerank(request: RerankRequest) -> None:
    """Raise BadRequest, which names the field, when a value is out of its range."""
    _check_count("documents", len(request.documents))
    if not request.query:
        raise BadRequest("The query is empty.")


def _check_count(name: str, count: int) -> None:
    if not 1 <= count <= MAX_INPUTS:
        raise BadRequest(f"{name} holds {count}; it can be 1 to {MAX_INPUTS}.")


def _json(text: str) -> object:
    """What a JSON text says; None when it is none, or nested too deep to be worked with."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if _is_deeper(value, MAX_JSON_DEPTH) else value


def _is_deeper(value: object, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _is_deeper(each, depth - 1) for each in inside)


def check_tokens(request: GenerateRequest, vocabulary: int) -> None:
    """Raise BadRequest for a token that the model's vocabulary does not have."""
    if len(request.stop_tokens) > MAX_STOP_STRINGS:
        raise BadRequest(f"stop_tokens has {len(request.stop_tokens)}; at most {MAX_STOP_STRINGS}.")
    for token in request.stop_tokens:
        _check_int("stop_tokens", token, 0, vocabulary - 1)
    for token in request.prompt_tokens or ():
        _check_int("prompt_tokens", token, 0, vocabulary - 1)
    for token, _ in request.sampling.logit_bias:
        _check_int("logit_bias", token, 0, vocabulary - 1)


def check_settings(settings: LoadSettings) -> None:
    """Raise LoadFailed, which names the setting, when llama.cpp must not be given a value."""
    for name, low, high in (
        ("context", 1, _MAX_INT),
        ("parallel", 1, _MAX_SEQUENCES),
        ("batch", 1, _MAX_INT),
        ("ubatch", 1, _MAX_INT),
        ("threads", 1, _MAX_THREADS),
        ("gpu_layers", 0, _MAX_INT),
        ("cpu_moe", 0, _MAX_INT),
        ("draft_max", 0, _MAX_DRAFTS),
    ):
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise LoadFailed(f"The setting {name} is {value}; it can be {low} to {high}.")
    if len(settings.loras) > MAX_LORAS:
        raise LoadFailed(f"There are {len(settings.loras)} adapters; at most {MAX_LORAS}.")
    for lora in settings.loras:
        if not -MAX_SCALE <= lora.scale <= MAX_SCALE:  # NaN is not
            raise LoadFailed(
                f"The scale of an adapter is {lora.scale}; it can be -{MAX_SCALE:g} to "
                f"{MAX_SCALE:g}."
            )
    if settings.cells > _MAX_UINT:
        raise LoadFailed(
            f"{settings.parallel} conversations of {settings.context} tokens need "
            f"{settings.cells} cells; llama.cpp counts to {_MAX_UINT}. Try a smaller context."
        )
    if settings.parallel > min(settings.batch, settings.ubatch):
        raise LoadFailed(
            f"{settings.parallel} conversations at once need a batch of as many tokens; it has "
            f"{settings.batch}, and {settings.ubatch} at a time. Raise batch and ubatch."
        )


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
    for name, (low, high) in _SAMPLING.items():
        _check_float(name, getattr(sampling, name), low, high)
    for name, (least, most) in _SAMPLING_INT.items():
        _check_int(name, getattr(sampling, name), least, most)
    _check_float("repeat_penalty", sampling.repeat_penalty, 0, _MAX_REPEAT_PENALTY)
    if sampling.repeat_penalty == 0:
        raise BadRequest("repeat_penalty is 0; it must be more than that (1 switches it off).")
    if sampling.seed is not None:
        _check_int("seed", sampling.seed, 0, MAX_SEED)
    if len(sampling.logit_bias) > MAX_LOGIT_BIASES:
        raise BadRequest(
            f"logit_bias has {len(sampling.logit_bias)} tokens; at most {MAX_LOGIT_BIASES}."
        )
    for _, bias in sampling.logit_bias:
        _check_float("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
    _check_breakers(sampling.dry_sequence_breakers)


def _check_breakers(breakers: tuple[str, ...]) -> None:
    if len(breakers) > MAX_DRY_BREAKERS:
        raise BadRequest(
            f"dry_sequence_breakers has {len(breakers)} texts; at most {MAX_DRY_BREAKERS}."
        )
    for breaker in breakers:
        size = len(breaker.encode("utf-8", "replace"))
        if not 0 < size <= _MAX_DRY_BREAKER_BYTES or "\0" in breaker:
            raise BadRequest(
                f"dry_sequence_breakers has a text of {size} bytes; each can have 1 to "
                f"{_MAX_DRY_BREAKER_BYTES}, and no NUL."
            )


def _check_float(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is not
        raise BadRequest(f"{name} is {value}; it can be {low:g} to {high:g}.")


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"{name} is {value}; it can be a whole number from {low} to {high}.")


MAX_IMAGES = 16
MAX_IMAGE_BYTES = 20 * 2**20
MAX_IMAGES_BYTES = 32 * 2**20
"""Of all images of a request: as base64 they stay below what a line of the wire may have."""
MAX_IMAGES_PIXELS = 2 * MAX_PIXELS


def check_vision(request: GenerateRequest, vision_unavailable: str | None) -> None:
    """Raise BadRequest for images that a model cannot see; `vision_unavailable` says why."""
    if vision_unavailable is not None and any(message.images for message in request.messages or ()):
        raise BadRequest(vision_unavailable)


def check_images(messages: Sequence[Message]) -> None:
    """Raise BadRequest for images that are too many, too large or of a kind that is not read."""
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
        places = [image.offset for image in message.images]
        if places != sorted(places) or any(not 0 <= at <= len(message.content) for at in places):
            raise BadRequest(
                "An image stands outside its message's text, or before the image that it follows."
            )
