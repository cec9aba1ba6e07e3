"""`/v1/rerank` as in Jina's API and llama-server: documents sorted by their relevance to a query.

Jina documents no error body. llama-server answers this path's errors in OpenAI's envelope, which
is the default here.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field

from localllm.engine.messages import Reranked, RerankRequest
from localllm.engine.messages.limits import MAX_INPUTS, MAX_INT32
from localllm.server.dialects.protocol import Dialect
from localllm.server.generation.request import new_request_id
from localllm.server.request_body import read_body
from localllm.server.schema import OMIT_IF_NONE, ApiModel, ModelName, json_response
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect


class Document(ApiModel):
    text: str


def _document(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


class RerankBody(ApiModel):
    """The body of `/v1/rerank`. `truncate` cuts the end of documents that are too long."""

    model: ModelName
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[
        list[Annotated[Document, BeforeValidator(_document)]],
        Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True),
    ]
    top_n: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None

    def rerank_request(self) -> RerankRequest:
        """Make the engine's request, under a new id."""
        return RerankRequest(
            request_id=new_request_id("rank"),
            query=self.query,
            documents=tuple(document.text for document in self.documents),
            truncate=bool(self.truncate),
        )


class RerankUsage(ApiModel):
    prompt_tokens: int
    total_tokens: int


class RerankResult(ApiModel):
    index: int
    relevance_score: float
    document: Annotated[Document | None, OMIT_IF_NONE] = None


class RerankResponse(ApiModel):
    model: str
    object: Literal["list"] = "list"
    usage: RerankUsage
    results: list[RerankResult]


def rerank_response(request: RerankBody, result: Reranked) -> RerankResponse:
    """Sort the documents, best first; of equals the one that was sent first."""
    scores = result.scores
    best = sorted(range(len(scores)), key=lambda i: -scores[i])
    return RerankResponse(
        model=request.model,
        usage=RerankUsage(prompt_tokens=result.prompt_tokens, total_tokens=result.prompt_tokens),
        results=[
            RerankResult(
                index=i,
                relevance_score=scores[i],
                document=request.documents[i] if request.return_documents else None,
            )
            for i in best[: request.top_n]
        ],
    )


def _router(models: ServedModels) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/rerank", response_model=None)
    async def rerank(request: Request) -> Response:
        body = await read_body(request, RerankBody)
        work = models.rerank(body.model, body.rerank_request(), prompt_field="documents")
        result = await cancel_on_disconnect(request.receive, work)
        return json_response(rerank_response(body, result))

    return router


JINA = Dialect(name="jina", router=_router)
