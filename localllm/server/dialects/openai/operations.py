"""The operations of OpenAI's API, as `/openapi.json` describes them."""

from typing import Literal

from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.chat_response import ChatCompletion
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.completions_response import Completion
from localllm.server.dialects.openai.embeddings import CreateEmbeddingResponse, EmbeddingRequest
from localllm.server.dialects.openai.responses.documents import (
    InputItemList,
    InputTokens,
    Response,
    ResponseDeleted,
)
from localllm.server.dialects.openai.responses.endpoints import InputItemsQuery
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.openapi import Operation
from localllm.server.schema import ApiModel
from localllm.server.streaming import SSE_MEDIA_TYPE


class Model(ApiModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "localllm"


class ModelList(ApiModel):
    object: Literal["list"] = "list"
    data: list[Model]


PREFIXES = ("/v1", "", "/v1/v1")
"""The address that a client was given ends with /v1 or does not, and the client adds it or does
not."""


def paths_of(path: str) -> tuple[str, ...]:
    """Return the paths of an endpoint, one for each prefix."""
    return tuple(prefix + path for prefix in PREFIXES)


OPERATIONS = (
    Operation(
        method="GET",
        paths=paths_of("/models"),
        summary="List the models that requests can name.",
        answer=ModelList,
    ),
    Operation(
        method="GET",
        paths=paths_of("/models/{name:path}"),
        summary="Describe one model.",
        answer=Model,
    ),
    Operation(
        method="POST",
        paths=paths_of("/chat/completions"),
        summary="Answer a conversation.",
        body=ChatCompletionRequest,
        answer=ChatCompletion,
        media_types=(SSE_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=paths_of("/completions"),
        summary="Continue a text, or fill in its middle.",
        body=CompletionRequest,
        answer=Completion,
        media_types=(SSE_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=paths_of("/embeddings"),
        summary="Turn texts into vectors.",
        body=EmbeddingRequest,
        answer=CreateEmbeddingResponse,
    ),
    Operation(
        method="POST",
        paths=paths_of("/responses"),
        summary="Make a response, after an earlier one or not.",
        body=ResponseRequest,
        answer=Response,
        media_types=(SSE_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=paths_of("/responses/input_tokens"),
        summary="Count the tokens of a response's input; nothing is generated.",
        body=ResponseRequest,
        answer=InputTokens,
    ),
    Operation(
        method="GET",
        paths=paths_of("/responses/{response_id}"),
        summary="Read a response that is kept.",
        answer=Response,
    ),
    Operation(
        method="DELETE",
        paths=paths_of("/responses/{response_id}"),
        summary="Forget a response.",
        answer=ResponseDeleted,
    ),
    Operation(
        method="POST",
        paths=paths_of("/responses/{response_id}/cancel"),
        summary="Refused: no response is made in the background.",
        answer=Response,
    ),
    Operation(
        method="GET",
        paths=paths_of("/responses/{response_id}/input_items"),
        summary="List what a kept response was asked.",
        query=InputItemsQuery,
        answer=InputItemList,
    ),
)
