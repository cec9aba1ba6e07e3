"""The half of a request that every dialect shares: fields and how they become the engine's.

Their names are llama.cpp's, which most vendors share; where one has another name
(`stop_sequences`, `num_predict`), its own model uses the types and helpers from here.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, LiteralString

from pydantic import BeforeValidator, Field

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
    ranges_of,
)
from localllm.server.schema import ApiModel, field_error, in_range

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256

REQUEST_RANGES = ranges_of(GenerateRequest)
_SAMPLING = ranges_of(Sampling)
_LORA = ranges_of(LoraScale)


def new_request_id(prefix: str) -> str:
    """Make the id of a request, which is also that of its answer in most dialects."""
    return f"{prefix}-{secrets.token_hex(12)}"


def _check_stop(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return None
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise field_error("invalid_type", "must be a string or an array of strings")
    if len(stops) > MAX_STOP_STRINGS:
        raise field_error("invalid_value", "holds more than {most} strings", most=MAX_STOP_STRINGS)
    if not all(1 <= len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise field_error(
            "invalid_value", "needs strings of 1 to {most} characters", most=MAX_STOP_LENGTH
        )
    return stops


StopStrings = Annotated[list[str] | None, BeforeValidator(_check_stop)]
"""A string or an array of them; no string is empty."""

DryBreaker = Annotated[str, Field(min_length=1, max_length=MAX_DRY_BREAKER_BYTES)]


def sampling_field(name: str) -> object:
    """Make the metadata of a field that is the field `name` of `Sampling`."""
    return in_range(_SAMPLING[name])


class LoraField(ApiModel):
    """One item of a request's `lora`, as in llama-server; adapters that are not listed are off."""

    id: Annotated[int, in_range(_LORA["id"])]
    scale: Annotated[float, in_range(_LORA["scale"])]


class GenerationFields(ApiModel):
    """Optional fields of a request for a generated answer.

    A field that is null or absent keeps the engine's default.
    """

    temperature: Annotated[float, sampling_field("temperature")] | None = None
    top_p: Annotated[float, sampling_field("top_p")] | None = None
    min_p: Annotated[float, sampling_field("min_p")] | None = None
    top_k: Annotated[int, sampling_field("top_k")] | None = None
    repeat_penalty: Annotated[float, sampling_field("repeat_penalty")] | None = None
    frequency_penalty: Annotated[float, sampling_field("frequency_penalty")] | None = None
    presence_penalty: Annotated[float, sampling_field("presence_penalty")] | None = None
    penalty_last_n: Annotated[int, sampling_field("penalty_last_n")] | None = None
    seed: Annotated[int, sampling_field("seed")] | None = None
    typical_p: Annotated[float, sampling_field("typical_p")] | None = None
    top_n_sigma: Annotated[float, sampling_field("top_n_sigma")] | None = None
    dynatemp_range: Annotated[float, sampling_field("dynatemp_range")] | None = None
    dynatemp_exponent: Annotated[float, sampling_field("dynatemp_exponent")] | None = None
    xtc_probability: Annotated[float, sampling_field("xtc_probability")] | None = None
    xtc_threshold: Annotated[float, sampling_field("xtc_threshold")] | None = None
    dry_multiplier: Annotated[float, sampling_field("dry_multiplier")] | None = None
    dry_base: Annotated[float, sampling_field("dry_base")] | None = None
    dry_allowed_length: Annotated[int, sampling_field("dry_allowed_length")] | None = None
    dry_penalty_last_n: Annotated[int, sampling_field("dry_penalty_last_n")] | None = None
    dry_sequence_breakers: (
        Annotated[list[DryBreaker], Field(max_length=MAX_DRY_BREAKERS)] | None
    ) = None
    mirostat: Annotated[int, sampling_field("mirostat")] | None = None
    mirostat_tau: Annotated[float, sampling_field("mirostat_tau")] | None = None
    mirostat_eta: Annotated[float, sampling_field("mirostat_eta")] | None = None
    min_tokens: Annotated[int, in_range(REQUEST_RANGES["min_tokens"])] | None = None
    ignore_eos: bool | None = None
    lora: Annotated[list[LoraField], Field(max_length=MAX_LORAS)] | None = None

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
            ignore_eos=bool(self.ignore_eos),
            loras=None
            if self.lora is None
            else tuple(LoraScale(id=lora.id, scale=lora.scale) for lora in self.lora),
        )


def json_schema_grammar(schema: dict[str, object]) -> Grammar:
    """Make the grammar of answers that follow a JSON Schema."""
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema))


def decode_image(text: str, *, invalid: LiteralString = "is not valid base64") -> bytes:
    """Decode an image file from base64. Raises a field error, with the reason `invalid`."""
    if len(text) > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise field_error("image_too_large", "is larger than {most} bytes", most=MAX_IMAGE_BYTES)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise field_error("invalid_value", invalid) from None


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
