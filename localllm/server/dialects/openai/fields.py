"""Request fields that all endpoints of the OpenAI dialect share."""

from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator

from localllm.engine.messages import GenerateRequest
from localllm.engine.messages.limits import LOGIT_BIAS, MAX_LOGIT_BIASES, TOKEN_ID
from localllm.server.generation.request import REQUEST_RANGES, GenerationFields, StopStrings
from localllm.server.schema import (
    WHOLE,
    ModelName,
    RequestModel,
    also_named,
    field_error,
    in_range,
    unsupported,
)

MaxTokens = Annotated[int, in_range(REQUEST_RANGES["max_tokens"]), WHOLE]
TopLogprobs = Annotated[int, in_range(REQUEST_RANGES["top_logprobs"]), WHOLE]

_USE_RESPONSE_FORMAT = "is not supported: send `response_format` with a JSON Schema instead"


def _token_keys(value: object) -> object:
    """Turn the keys of `logit_bias`, which JSON has as strings, into token ids."""
    if value == []:  # nothing, as PHP writes it
        return {}
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_LOGIT_BIASES:
        raise field_error("invalid_value", "holds more than {most} tokens", most=MAX_LOGIT_BIASES)
    if not all(key.isascii() and key.isdigit() and len(key) < 11 for key in value):
        raise field_error("invalid_value", "needs token ids as its keys")
    return {int(key): bias for key, bias in value.items()}


LogitBias = Annotated[
    dict[Annotated[int, in_range(TOKEN_ID)], Annotated[float, in_range(LOGIT_BIAS)]],
    BeforeValidator(_token_keys),
]


class StreamOptions(RequestModel):
    """Without a stream they change nothing: a whole answer always carries its usage."""

    include_usage: bool | None = None
    include_obfuscation: object = None


class OpenAiFields(GenerationFields):
    """Fields of `/v1/chat/completions` and `/v1/completions`; null is the same as nothing."""

    model: ModelName | None = None
    logit_bias: LogitBias | None = None
    stop: Annotated[StopStrings | None, also_named("stop", "stop_sequences")] = None
    n: Annotated[int, in_range(REQUEST_RANGES["n"]), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Of llama-server and vLLM: the answer would be another one.
    grammar: Annotated[object, unsupported("", reason=_USE_RESPONSE_FORMAT)] = None
    json_schema: Annotated[object, unsupported({}, reason=_USE_RESPONSE_FORMAT)] = None
    guided_json: Annotated[object, unsupported({}, "", reason=_USE_RESPONSE_FORMAT)] = None
    guided_regex: Annotated[object, unsupported("", reason=_USE_RESPONSE_FORMAT)] = None
    guided_choice: Annotated[object, unsupported([], reason=_USE_RESPONSE_FORMAT)] = None
    guided_grammar: Annotated[object, unsupported("", reason=_USE_RESPONSE_FORMAT)] = None
    structured_outputs: Annotated[object, unsupported({}, reason=_USE_RESPONSE_FORMAT)] = None
    use_beam_search: Annotated[object, unsupported(False)] = None
    include_stop_str_in_output: Annotated[object, unsupported(False)] = None

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
