"""`/v1/rerank` as in Jina's API and llama-server: documents sorted by their relevance to a query.

A request with `texts` has the form of Hugging Face's text-embeddings-inference (TEI), as in
llama-server: its answer is an array, and its scores are between 0 and 1 unless `raw_scores`.
Jina documents no error body. llama-server answers this path's errors in OpenAI's envelope, which
is the default here.
"""

import math
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field, RootModel

from localllm.engine.messages import Reranked, RerankRequest
from localllm.engine.messages.limits import MAX_INPUTS, MAX_INT32
from localllm.server.dialects.protocol import Dialect
from localllm.server.generation.request import Truncate, new_request_id
from localllm.server.openapi import Operation
from localllm.server.request_body import read_json, validate
from localllm.server.schema import (
    OMIT_IF_NONE,
    WHOLE,
    ApiModel,
    ModelName,
    RequestModel,
    also_named,
    json_response,
    minus_one_is,
    unsupported,
)
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect
from localllm.server.unknown_fields import note_unknown, unknown_fields

PATHS = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
"""As llama-server has them."""


class DocumentParam(RequestModel):
    """A document is a text, or an object that has one."""

    text: str
    image: Annotated[object, unsupported("")] = None

    @classmethod
    def understand(cls, value: object) -> object:
        return {"text": value} if isinstance(value, str) else value


def _same(value: object) -> object:
    return value  # a text becomes a document by itself


def _query(value: object) -> object:
    return value["text"] if isinstance(value, dict) and value.keys() == {"text"} else value


class RerankBody(RequestModel):
    """The body of `/v1/rerank`. `truncate` cuts the end of documents that are too long."""

    model: ModelName | None = None
    query: Annotated[str, Field(min_length=1), BeforeValidator(_query)]
    documents: Annotated[
        list[DocumentParam],
        Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True),
        BeforeValidator(_same, json_schema_input_type=list[str | DocumentParam]),
    ]
    top_n: Annotated[
        Annotated[int, Field(ge=1, le=MAX_INT32), WHOLE] | None,
        minus_one_is(None),
        also_named("top_n", "top_k"),
    ] = None
    return_documents: Annotated[bool | None, also_named("return_documents", "return_text")] = None
    truncate: Annotated[Truncate | None, also_named("truncate", "truncation")] = None

    def rerank_request(self) -> RerankRequest:
        """Make the engine's request, under a new id."""
        return RerankRequest(
            request_id=new_request_id("rank"),
            query=self.query,
            documents=tuple(document.text for document in self.documents),
            truncate=bool(self.truncate),
        )


class TeiRerankBody(RequestModel):
    """The body in TEI's form, which names no model."""

    model: ModelName | None = None
    query: Annotated[str, Field(min_length=1)]
    texts: Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: Truncate | None = None
    truncation_direction: Annotated[object, unsupported("Right", "right")] = None

    def rerank_request(self) -> RerankRequest:
        """Make the engine's request, under a new id."""
        return RerankRequest(
            request_id=new_request_id("rank"),
            query=self.query,
            documents=tuple(self.texts),
            truncate=bool(self.truncate),
        )


class RerankUsage(ApiModel):
    prompt_tokens: int
    total_tokens: int


class Document(ApiModel):
    text: str


class RerankResult(ApiModel):
    index: int
    relevance_score: float
    document: Annotated[Document | None, OMIT_IF_NONE] = None


class RerankResponse(ApiModel):
    model: str
    object: Literal["list"] = "list"
    usage: RerankUsage
    results: list[RerankResult]


def rerank_response(request: RerankBody, model: str, result: Reranked) -> RerankResponse:
    """Sort the documents, best first; of equals the one that was sent first."""
    scores = result.scores
    best = sorted(range(len(scores)), key=lambda i: -scores[i])
    return RerankResponse(
        model=model,
        usage=RerankUsage(prompt_tokens=result.prompt_tokens, total_tokens=result.prompt_tokens),
        results=[
            RerankResult(
                index=i,
                relevance_score=scores[i],
                document=Document(text=request.documents[i].text)
                if request.return_documents
                else None,
            )
            for i in best[: request.top_n]
        ],
    )


class Rank(ApiModel):
    index: int
    score: float
    text: Annotated[str | None, OMIT_IF_NONE] = None


class Ranks(RootModel[list[Rank]]):
    """The answer in TEI's form, best first."""


def tei_response(request: TeiRerankBody, result: Reranked) -> Ranks:
    """Sort the texts, best first; a score is the sigmoid of the model's own, as in TEI."""
    scores = [score if request.raw_scores else sigmoid(score) for score in result.scores]
    best = sorted(range(len(scores)), key=lambda i: -result.scores[i])
    return Ranks(
        [
            Rank(index=i, score=scores[i], text=request.texts[i] if request.return_text else None)
            for i in best
        ]
    )


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)), for numbers of any size."""
    return 0.5 * (1 + math.tanh(value / 2))


def _router(models: ServedModels) -> APIRouter:
    router = APIRouter()

    async def rerank(request: Request) -> Response:
        document = await read_json(request)
        is_tei = "texts" in document and "documents" not in document
        body: RerankBody | TeiRerankBody
        body = validate(TeiRerankBody, document) if is_tei else validate(RerankBody, document)
        note_unknown(request.scope, unknown_fields(body))
        model = models.requested(body.model)
        work = models.rerank(model, body.rerank_request(), prompt_field="documents")
        result = await cancel_on_disconnect(request.receive, work)
        if isinstance(body, TeiRerankBody):
            ranks = tei_response(body, result).model_dump_json()
            return Response(ranks, media_type="application/json")
        return json_response(rerank_response(body, model, result))

    for path in PATHS:
        router.post(path, response_model=None)(rerank)
    return router


_RERANK = Operation(
    method="POST",
    paths=PATHS,
    summary="Sort documents by their relevance to a query.",
    body=RerankBody | TeiRerankBody,
    answer=RerankResponse | Ranks,
)

JINA = Dialect(name="jina", router=_router, operations=(_RERANK,))
