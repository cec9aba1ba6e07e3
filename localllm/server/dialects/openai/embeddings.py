"""`/v1/embeddings`: texts or tokens in, vectors as floats or base64 out."""

import base64
from array import array
from typing import Annotated, Literal, LiteralString

from pydantic import BeforeValidator

from localllm.engine.messages import Embedded, EmbedRequest
from localllm.engine.messages.limits import MAX_INPUTS, TOKEN_ID, ranges_of
from localllm.server.generation.request import Truncate, new_request_id
from localllm.server.schema import (
    WHOLE,
    ApiModel,
    ModelName,
    RequestModel,
    also_named,
    field_error,
    in_range,
    minus_one_is,
)


def is_token_ids(value: list[object]) -> bool:
    """Return True for token ids only; which of them exist depends on the model."""
    return all(token in TOKEN_ID and not isinstance(token, bool) for token in value)


def _inputs(value: object) -> object:
    """Accept a text, an array of tokens, or an array of texts or of arrays of tokens."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise field_error("invalid_type", _INPUT_TYPES)
    if not value:
        raise field_error("invalid_value", "must not be empty")
    if is_token_ids(value):
        return [tuple(value)]
    if len(value) > MAX_INPUTS:
        raise field_error("invalid_value", "holds more than {most} texts", most=MAX_INPUTS)
    inputs = [_text_of(each) for each in value]
    if all(isinstance(each, str) for each in inputs):
        return inputs
    if all(isinstance(each, list) and is_token_ids(each) for each in inputs):
        return [tuple(each) for each in inputs if isinstance(each, list)]
    raise field_error("invalid_type", _INPUT_TYPES)


_INPUT_TYPES: LiteralString = (
    "must be a string, an array of strings, an array of tokens or an array of such arrays"
)


def _text_of(value: object) -> object:
    """Return the text of an input that is wrapped, as in Jina's API: `{"text": ...}`."""
    return value["text"] if isinstance(value, dict) and value.keys() == {"text"} else value


_InputTypes = str | list[str] | list[int] | list[list[int]]


class EmbeddingRequest(RequestModel):
    """The body of `/v1/embeddings`. `truncate` cuts what is too long; OpenAI has no such field."""

    model: ModelName | None = None
    input: Annotated[list[object], BeforeValidator(_inputs, json_schema_input_type=_InputTypes)]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, also_named("encoding_format", "embedding_type")
    ] = None
    dimensions: Annotated[
        Annotated[int, in_range(ranges_of(EmbedRequest)["dimensions"]), WHOLE] | None,
        minus_one_is(None),
        also_named("dimensions", "output_dimension"),
    ] = None
    truncate: Truncate | None = None
    normalize: Annotated[bool | None, also_named("normalize", "normalized")] = None

    def embed_request(self) -> EmbedRequest:
        """Make the engine's request, under a new id."""
        return EmbedRequest(
            request_id=new_request_id("embd"),
            inputs=tuple(each for each in self.input if isinstance(each, str | tuple)),
            dimensions=self.dimensions,
            truncate=bool(self.truncate),
            normalize=self.normalize is not False,
        )


class Embedding(ApiModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ApiModel):
    prompt_tokens: int
    total_tokens: int


class CreateEmbeddingResponse(ApiModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embedding_response(
    request: EmbeddingRequest, model: str, result: Embedded
) -> CreateEmbeddingResponse:
    """Write the vectors in the requested encoding; base64 is of float32, little-endian."""
    encoded = request.encoding_format == "base64"
    tokens = result.prompt_tokens
    return CreateEmbeddingResponse(
        data=[
            Embedding(
                index=i,
                embedding=base64.b64encode(vector).decode()
                if encoded
                else array("f", vector).tolist(),
            )
            for i, vector in enumerate(result.vectors)
        ],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
