"""What every request for an answer in the OpenAI dialect can say: how it is drawn, where it ends,
whether it is streamed."""

from dataclasses import fields
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Sampling
from localllm.engine.messages.limits import (
    MAX_DRY_BREAKERS,
    MAX_LOGIT_BIAS,
    MAX_LOGIT_BIASES,
    MAX_N,
)
from localllm.server.lora import AdapterScales
from localllm.server.schema import Shape, neutral, refusal

MAX_STOPS = 16
MAX_STOP_LENGTH = 256

Label = Annotated[str, Field(max_length=512)]
NativeInt = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Hundred = Annotated[float, Field(ge=0, le=100)]
Window = Annotated[int, Field(ge=0, le=2**20)]
Breaker = Annotated[str, Field(min_length=1, max_length=40)]


def _stops(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return None
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise refusal("invalid_type", "must be a string or an array of strings")
    if len(stops) > MAX_STOPS:
        raise refusal("invalid_value", "holds more than {most} strings", most=MAX_STOPS)
    if not all(1 <= len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise refusal(
            "invalid_value", "needs strings of 1 to {most} characters", most=MAX_STOP_LENGTH
        )
    return stops


def _biases(value: object) -> object:
    """Token ids are JSON keys, so texts."""
    if value is None or not isinstance(value, dict):
        return value
    if not all(key.isascii() and key.isdigit() and len(key) < 11 for key in value):
        raise refusal("invalid_value", "needs token ids as its keys")
    return {int(key): bias for key, bias in value.items()}


class StreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: Annotated[object, neutral(False)] = None


class Generation(Shape):
    """Fields of a request for an answer; null is the same as nothing.

    The ranges are those that `Sampling` documents; what is not given keeps the engine's default.
    """

    model: Label
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    top_k: NativeInt | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    penalty_last_n: Window | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 2)] | None = None
    typical_p: Fraction | None = None
    top_n_sigma: Hundred | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=5)] | None = None
    dynatemp_exponent: Annotated[float, Field(ge=0, le=10)] | None = None
    xtc_probability: Fraction | None = None
    xtc_threshold: Fraction | None = None
    dry_multiplier: Hundred | None = None
    dry_base: Annotated[float, Field(ge=0, le=10)] | None = None
    dry_allowed_length: NativeInt | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Field(max_length=MAX_DRY_BREAKERS)] | None = (
        None
    )
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Hundred | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=10)] | None = None
    logit_bias: Annotated[
        dict[NativeInt, Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]] | None,
        Field(max_length=MAX_LOGIT_BIASES),
        BeforeValidator(_biases),
    ] = None
    min_tokens: NativeInt | None = None
    ignore_eos: bool | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_stops)] = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lora: AdapterScales | None = None

    # A name that a client gives its request; no value of it changes the answer.
    user: Label | None = None

    @field_validator("stream_options")
    @classmethod
    def _stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and value.include_usage and not info.data.get("stream"):
            raise refusal("invalid_value", "has a meaning only with `stream`: true")
        return value

    @property
    def usage_apart(self) -> bool:
        """Whether usage comes in a chunk of its own."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def sampling(self) -> Sampling:
        """How the engine draws it."""
        given = self.model_dump(
            include={field.name for field in fields(Sampling)} - {"logit_bias"}, exclude_none=True
        )
        if "dry_sequence_breakers" in given:
            given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
        return Sampling(**given, logit_bias=tuple((self.logit_bias or {}).items()))
