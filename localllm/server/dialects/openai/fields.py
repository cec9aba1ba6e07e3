"""Request fields that all endpoints of the OpenAI dialect share."""

from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import GenerateRequest
from localllm.engine.messages.limits import LOGIT_BIAS, MAX_LOGIT_BIASES, TOKEN_ID
from localllm.server.generation.request import REQUEST_RANGES, GenerationFields, StopStrings
from localllm.server.schema import ApiModel, ModelName, field_error, in_range, unsupported

ClientString = Annotated[str, Field(max_length=512)]
"""An id or a name that a client gives to something of its own."""

MaxTokens = Annotated[int, in_range(REQUEST_RANGES["max_tokens"])]
TopLogprobs = Annotated[int, in_range(REQUEST_RANGES["top_logprobs"])]


def _token_keys(value: object) -> object:
    """Turn the keys of `logit_bias`, which JSON has as strings, into token ids."""
    if value is None or not isinstance(value, dict):
        return value
    if not all(key.isascii() and key.isdigit() and len(key) < 11 for key in value):
        raise field_error("invalid_value", "needs token ids as its keys")
    return {int(key): bias for key, bias in value.items()}


LogitBias = Annotated[
    dict[Annotated[int, in_range(TOKEN_ID)], Annotated[float, in_range(LOGIT_BIAS)]] | None,
    Field(max_length=MAX_LOGIT_BIASES),
    BeforeValidator(_token_keys),
]


class StreamOptions(ApiModel):
    include_usage: bool | None = None
    include_obfuscation: Annotated[object, unsupported(False)] = None


class OpenAiFields(GenerationFields):
    """Fields of `/v1/chat/completions` and `/v1/completions`; null is the same as nothing."""

    model: ModelName
    logit_bias: LogitBias = None
    stop: StopStrings = None
    n: Annotated[int, in_range(REQUEST_RANGES["n"])] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # A name that a client gives its request; no value of it changes the answer.
    user: ClientString | None = None

    @field_validator("stream_options")
    @classmethod
    def _only_in_a_stream(
        cls, value: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if value is not None and value.include_usage and not info.data.get("stream"):
            raise field_error("invalid_value", "has a meaning only with `stream`: true")
        return value

    @property
    def include_usage(self) -> bool:
        """True when a stream's usage comes in a chunk of its own."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def base_request(self, request_id: str) -> GenerateRequest:
        request = super().base_request(request_id)
        logit_bias = tuple((self.logit_bias or {}).items())
        return replace(
            request,
            sampling=replace(request.sampling, logit_bias=logit_bias),
            stop=tuple(self.stop or ()),
            n=self.n or 1,
        )
