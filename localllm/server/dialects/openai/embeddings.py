"""`/v1/embeddings`: texts or tokens in, vectors as floats or base64 out."""

import base64
from array import array
from typing import Annotated, Literal

from pydantic import BeforeValidator

from localllm.engine.messages import Embedded, EmbedRequest
from localllm.engine.messages.limits import MAX_INPUTS, TOKEN_ID, ranges_of
from localllm.server.dialects.openai.fields import ClientString
from localllm.server.generation.request import new_request_id
from localllm.server.schema import ApiModel, ModelName, field_error, in_range


def is_token_ids(value: list[object]) -> bool:
    """Return True for token ids only; which of them exist depends on the model."""
    return all(token in TOKEN_ID and not isinstance(token, bool) for token in value)


def _inputs(value: object) -> object:
    """Accept a text, an array of tokens, or an array of texts or of arrays of tokens."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return value  # null, or of a type that is refused
    if not value:
        raise field_error("invalid_value", "must not be empty")
    if is_token_ids(value):
        return [tuple(value)]
    if len(value) > MAX_INPUTS:
        raise field_error("invalid_value", "holds more than {most} texts", most=MAX_INPUTS)
    if all(isinstance(each, str) for each in value):
        return value
    if all(isinstance(each, list) and is_token_ids(each) for each in value):
        return [tuple(each) for each in value]
    raise field_error(
        "invalid_type",
        "must be a string, an array of strings, an array of tokens or an array of such arrays",
    )


class EmbeddingRequest(ApiModel):
    """The body of `/v1/embeddings`. `truncate` is this server's own: cut what is too long."""

    model: ModelName
    input: Annotated[list[object], BeforeValidator(_inputs)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, in_range(ranges_of(EmbedRequest)["dimensions"])] | None = None
    truncate: bool | None = None

    # A name that a client gives its request; no value of it changes the answer.
    user: ClientString | None = None

    def embed_request(self) -> EmbedRequest:
        """Make the engine's request, under a new id."""
        return EmbedRequest(
            request_id=new_request_id("embd"),
            inputs=tuple(each for each in self.input if isinstance(each, str | tuple)),
            dimensions=self.dimensions,
            truncate=bool(self.truncate),
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


def embedding_response(request: EmbeddingRequest, result: Embedded) -> CreateEmbeddingResponse:
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
        model=request.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
