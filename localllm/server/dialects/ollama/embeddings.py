"""`/api/embed`, and the older `/api/embeddings` with one text."""

from array import array
from typing import Annotated

from pydantic import BeforeValidator, Field

from localllm.engine.messages import Embedded, EmbedRequest
from localllm.engine.messages.limits import MAX_INPUTS, ranges_of
from localllm.server.dialects.ollama.fields import ModelFields
from localllm.server.generation.request import new_request_id
from localllm.server.schema import WHOLE, ApiModel, in_range


def _texts(value: object) -> object:
    """Accept a text or an array of them; an empty text is none, as in Ollama."""
    if isinstance(value, str):
        return [value] if value else []
    return value


def _all_dimensions(value: object) -> object:
    return None if value == 0 and not isinstance(value, bool) else value


class EmbedBody(ModelFields):
    """The body of `/api/embed`; without `input` it loads the model.

    `options` change nothing. `truncate`, which is true when it is absent, cuts what is too long.
    """

    input: Annotated[
        Annotated[list[str], Field(max_length=MAX_INPUTS, fail_fast=True)], BeforeValidator(_texts)
    ] = Field(default_factory=list)
    dimensions: Annotated[
        Annotated[int, in_range(ranges_of(EmbedRequest)["dimensions"]), WHOLE] | None,
        BeforeValidator(_all_dimensions),
    ] = None
    truncate: bool | None = None
    options: object = None

    def embed_request(self) -> EmbedRequest | None:
        """Make the engine's request, under a new id; None where there is nothing to embed."""
        if not self.input:
            return None
        return EmbedRequest(
            request_id=new_request_id("ollama"),
            inputs=tuple(self.input),
            dimensions=self.dimensions,
            truncate=self.truncate is not False,
        )


class EmbeddingsBody(ModelFields):
    """The body of `/api/embeddings`, whose vector is the model's own, of any length."""

    prompt: str | None = None
    options: object = None

    def embed_request(self) -> EmbedRequest | None:
        if not self.prompt:
            return None
        return EmbedRequest(
            request_id=new_request_id("ollama"),
            inputs=(self.prompt,),
            truncate=True,
            normalize=False,
        )


class EmbedAnswer(ApiModel):
    """`total_duration` is in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(ApiModel):
    embedding: list[float]


def vectors(result: Embedded | None) -> list[list[float]]:
    return [array("f", vector).tolist() for vector in result.vectors] if result else []
