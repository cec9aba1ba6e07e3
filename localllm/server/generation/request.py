"""The half of a request that every dialect shares: fields and how they become the engine's.

Their names are llama.cpp's, which most vendors share; where one has another name
(`stop_sequences`, `num_predict`), its own model uses the types and helpers from here.
"""

import base64
import binascii
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, LiteralString

from pydantic import BeforeValidator, Field

from localllm.core.json_schema import normalize
from localllm.engine.messages import (
    GenerateRequest,
    Grammar,
    GrammarKind,
    Image,
    LoraScale,
    Sampling,
)
from localllm.engine.messages.limits import (
    MAX_DRY_BREAKER_BYTES,
    MAX_DRY_BREAKERS,
    MAX_IMAGE_BYTES,
    MAX_LORAS,
    MAX_PENALTY_WINDOW,
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    TOKEN_ID,
    ranges_of,
)
from localllm.server.schema import (
    WHOLE,
    RequestModel,
    also_named,
    field_error,
    in_range,
    minus_one_is,
)

REQUEST_RANGES = ranges_of(GenerateRequest)
_SAMPLING = ranges_of(Sampling)
_LORA = ranges_of(LoraScale)


def new_request_id(prefix: str) -> str:
    """Make the id of a request, which is also that of its answer in most dialects."""
    return f"{prefix}-{secrets.token_hex(12)}"


def _check_stop(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str | None) for stop in stops):
        raise field_error("invalid_type", "must be a string or an array of strings")
    # Forms send their empty lines, and an empty string stops nothing.
    stops = [stop for stop in dict.fromkeys(stops) if stop]
    if len(stops) > MAX_STOP_STRINGS:
        raise field_error("invalid_value", "holds more than {most} strings", most=MAX_STOP_STRINGS)
    if sum(map(len, stops)) > MAX_STOP_CHARS:
        raise field_error(
            "invalid_value", "holds more than {most} characters in all", most=MAX_STOP_CHARS
        )
    return stops


StopStrings = Annotated[
    list[str], BeforeValidator(_check_stop, json_schema_input_type=str | list[str])
]
"""A string or an array of them; empty ones are left out."""


def _reduce_seed(value: object) -> object:
    """Bring a seed of any size into the engine's range; -1, "any", becomes None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return None if value == -1 else value % (MAX_SEED + 1)


Seed = Annotated[int | None, BeforeValidator(_reduce_seed)]


def _check_truncate(value: object) -> object:
    return {"NONE": False, "END": True}.get(value, value) if isinstance(value, str) else value


Truncate = Annotated[bool, BeforeValidator(_check_truncate)]
"""True: cut the end of a text that is too long. Nvidia and Cohere write "END" and "NONE"."""

DryBreaker = Annotated[str, Field(min_length=1, max_length=MAX_DRY_BREAKER_BYTES)]


def sampling_field(name: str) -> object:
    """Make the metadata of a field that is the field `name` of `Sampling`."""
    return in_range(_SAMPLING[name])


class LoraField(RequestModel):
    """One item of a request's `lora`, as in llama-server; adapters that are not listed are off."""

    id: Annotated[int, in_range(_LORA["id"]), WHOLE]
    scale: Annotated[float, in_range(_LORA["scale"])]


class GenerationFields(RequestModel):
    """Optional fields of a request for a generated answer.

    A field that is null or absent keeps the engine's default. -1 stands for all candidates
    (`top_k`) and for the whole context (`penalty_last_n`), as in llama.cpp and vLLM.
    """

    temperature: Annotated[float, sampling_field("temperature")] | None = None
    top_p: Annotated[float, sampling_field("top_p")] | None = None
    min_p: Annotated[float, sampling_field("min_p")] | None = None
    top_k: Annotated[int, sampling_field("top_k"), WHOLE, minus_one_is(0)] | None = None
    repeat_penalty: Annotated[
        Annotated[float, sampling_field("repeat_penalty")] | None,
        also_named("repeat_penalty", "repetition_penalty"),
    ] = None
    frequency_penalty: Annotated[float, sampling_field("frequency_penalty")] | None = None
    presence_penalty: Annotated[float, sampling_field("presence_penalty")] | None = None
    penalty_last_n: Annotated[
        Annotated[int, sampling_field("penalty_last_n"), WHOLE, minus_one_is(MAX_PENALTY_WINDOW)]
        | None,
        also_named("penalty_last_n", "repeat_last_n"),
    ] = None
    seed: Annotated[Seed, also_named("seed", "random_seed")] = None
    typical_p: Annotated[
        Annotated[float, sampling_field("typical_p")] | None,
        also_named("typical_p", "typ_p", "typical"),
    ] = None
    top_n_sigma: Annotated[
        Annotated[float, sampling_field("top_n_sigma"), minus_one_is(0)] | None,
        also_named("top_n_sigma", "nsigma"),
    ] = None
    dynatemp_range: Annotated[float, sampling_field("dynatemp_range")] | None = None
    dynatemp_exponent: Annotated[float, sampling_field("dynatemp_exponent")] | None = None
    xtc_probability: Annotated[float, sampling_field("xtc_probability")] | None = None
    xtc_threshold: Annotated[float, sampling_field("xtc_threshold")] | None = None
    dry_multiplier: Annotated[float, sampling_field("dry_multiplier")] | None = None
    dry_base: Annotated[float, sampling_field("dry_base")] | None = None
    dry_allowed_length: Annotated[int, sampling_field("dry_allowed_length"), WHOLE] | None = None
    dry_penalty_last_n: (
        Annotated[
            int, sampling_field("dry_penalty_last_n"), WHOLE, minus_one_is(MAX_PENALTY_WINDOW)
        ]
        | None
    ) = None
    dry_sequence_breakers: (
        Annotated[list[DryBreaker], Field(max_length=MAX_DRY_BREAKERS)] | None
    ) = None
    mirostat: Annotated[
        Annotated[int, sampling_field("mirostat"), WHOLE] | None,
        also_named("mirostat", "mirostat_mode"),
    ] = None
    mirostat_tau: Annotated[float, sampling_field("mirostat_tau")] | None = None
    mirostat_eta: Annotated[float, sampling_field("mirostat_eta")] | None = None
    min_tokens: Annotated[int, in_range(REQUEST_RANGES["min_tokens"]), WHOLE] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, in_range(REQUEST_RANGES["priority"]), WHOLE] | None = None
    deterministic: bool | None = None
    parse_special: bool | None = None
    return_progress: bool | None = None
    stop_token_ids: (
        Annotated[
            list[Annotated[int, in_range(TOKEN_ID), WHOLE]],
            Field(max_length=MAX_STOP_STRINGS, fail_fast=True),
        ]
        | None
    ) = None
    lora: Annotated[list[LoraField], Field(max_length=MAX_LORAS, fail_fast=True)] | None = None

    def base_request(self, request_id: str) -> GenerateRequest:
        """Make the engine's request of these fields; the dialect adds the prompt and the rest."""
        values = self.model_dump(
            include={field.name for field in fields(Sampling)} - {"logit_bias"}, exclude_none=True
        )
        if "dry_sequence_breakers" in values:
            values["dry_sequence_breakers"] = tuple(values["dry_sequence_breakers"])
        return GenerateRequest(
            request_id=request_id,
            sampling=Sampling(**values),
            min_tokens=self.min_tokens or 0,
            stop_tokens=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            priority=self.priority or 0,
            deterministic=bool(self.deterministic),
            parse_special=bool(self.parse_special),
            loras=None
            if self.lora is None
            else tuple(LoraScale(id=lora.id, scale=lora.scale) for lora in self.lora),
        )


def json_schema_grammar(schema: dict[str, object], *, strict: bool = False) -> Grammar:
    """Make the grammar of answers that follow a JSON Schema: a `strict` one whole or not at all."""
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema), strict=strict)


def schema_warnings(grammar: Grammar | None) -> tuple[str, ...]:
    """Return what is known before an answer begins of the parts of its schema that are only
    checked when it is finished."""
    if grammar is None or grammar.kind is not GrammarKind.JSON_SCHEMA:
        return ()
    unenforced = normalize(json.loads(grammar.text)).unenforced
    if not unenforced:
        return ()
    named = ", ".join(map(str, unenforced[:8]))
    return (f"Of the schema of the answer, {named} can only be checked when it is finished.",)


def decode_image(text: str, *, invalid: LiteralString = "is not valid base64") -> bytes:
    """Decode an image file from base64. Raises a field error, with the reason `invalid`."""
    if len(text) > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise field_error("image_too_large", "is larger than {most} bytes", most=MAX_IMAGE_BYTES)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise field_error("invalid_value", invalid) from None


_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)


def decode_data_url(value: object) -> object:
    """Decode the data: URL of an image. Nothing is fetched for a client, from nowhere: an address
    that this machine reaches may be one that the client does not. Raises a field error."""
    if not isinstance(value, str):
        raise field_error("invalid_type", "must be a string")
    head = _DATA_URL.match(value)
    if head is None:
        raise field_error(
            "unsupported_url",
            "must be data:image/...;base64,... with the image itself: this server fetches nothing",
        )
    return decode_image(value[head.end() :], invalid="is not valid base64 after its comma")


def join_content(parts: Iterable[str | bytes]) -> tuple[str, tuple[Image, ...]]:
    """Join the texts and images (bytes) of a message into its text and the images' offsets in it.

    Texts are joined by line breaks, as in llama-server, and nothing stands beside an image.
    """
    text, images = "", []
    after_text = False
    for part in parts:
        if isinstance(part, bytes):
            images.append(Image(data=part, offset=len(text)))
        else:
            text += ("\n" if after_text else "") + part
        after_text = isinstance(part, str)
    return text, tuple(images)
