"""`/v1/embeddings` in OpenAI's shape: what is asked, and the vectors as floats or base64."""

import base64
import secrets
from array import array
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from localllm.engine.messages import Embedded, EmbedRequest
from localllm.engine.messages.limits import MAX_INPUTS
from localllm.errors import ContextOverflow
from localllm.server.dialects.openai.generation import Label
from localllm.server.errors import ApiError
from localllm.server.schema import Shape, refusal

Given = str | tuple[int, ...]


def _inputs(value: object) -> object:
    """A text, an array of tokens, or an array of texts or of arrays of tokens."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return value  # null, or of a type that is refused
    if not value:
        raise refusal("invalid_value", "must not be empty")
    if _tokens(value):
        return [tuple(value)]
    if len(value) > MAX_INPUTS:
        raise refusal("invalid_value", "holds more than {most} texts", most=MAX_INPUTS)
    if all(isinstance(each, str) for each in value):
        return value
    if all(isinstance(each, list) and _tokens(each) for each in value):
        return [tuple(each) for each in value]
    raise refusal(
        "invalid_type",
        "must be a string, an array of strings, an array of tokens or an array of such arrays",
    )


def _tokens(value: list[object]) -> bool:
    return all(type(each) is int and 0 <= each < 2**31 for each in value)


class EmbeddingsRequest(Shape):
    """The body of `/v1/embeddings`. `truncate` is this server's own: cut what is too long."""

    model: Label
    input: Annotated[list[object], BeforeValidator(_inputs)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    truncate: bool | None = None

    # A name that a client gives its request; no value of it changes the answer.
    user: Label | None = None

    def embed_request(self) -> EmbedRequest:
        """Say the same to the engine, under a new name."""
        return EmbedRequest(
            request_id=f"embd-{secrets.token_hex(12)}",
            inputs=tuple(each for each in self.input if isinstance(each, str | tuple)),
            dimensions=self.dimensions,
            truncate=bool(self.truncate),
        )


class Embedding(Shape):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class TokensRead(Shape):
    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, tokens: int) -> "TokensRead":
        return cls(prompt_tokens=tokens, total_tokens=tokens)


class EmbeddingList(Shape):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: TokensRead


def embeddings(asked: EmbeddingsRequest, found: Embedded) -> EmbeddingList:
    """Write the vectors as they were asked for; base64 is of float32, little-endian."""
    whole = asked.encoding_format == "base64"
    return EmbeddingList(
        data=[
            Embedding(
                index=i,
                embedding=base64.b64encode(vector).decode() if whole else floats(vector),
            )
            for i, vector in enumerate(found.vectors)
        ],
        model=asked.model,
        usage=TokensRead.of(found.prompt_tokens),
    )


def floats(vector: bytes) -> list[float]:
    return array("f", vector).tolist()


def too_long(error: ContextOverflow, param: str) -> ApiError:
    """Name the field that holds the text."""
    return ApiError(str(error), code="context_length_exceeded", param=param)
