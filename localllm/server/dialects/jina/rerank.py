"""`/v1/rerank` in the shape of Jina's API and llama-server: documents by how well they answer."""

import secrets
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from localllm.engine.messages import Reranked, RerankRequest
from localllm.engine.messages.limits import MAX_INPUTS
from localllm.server.dialects.openai.embeddings import TokensRead
from localllm.server.dialects.openai.generation import Label
from localllm.server.schema import LEFT_OUT_IF_NONE, Shape


class Document(Shape):
    text: str


def _document(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


class RerankBody(Shape):
    """The body of `/v1/rerank`. `truncate` cuts the end of documents that are too long."""

    model: Label
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[
        list[Annotated[Document, BeforeValidator(_document)]],
        Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True),
    ]
    top_n: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None

    def rerank_request(self) -> RerankRequest:
        """Say the same to the engine, under a new name."""
        return RerankRequest(
            request_id=f"rank-{secrets.token_hex(12)}",
            query=self.query,
            documents=tuple(document.text for document in self.documents),
            truncate=bool(self.truncate),
        )


class Result(Shape):
    index: int
    relevance_score: float
    document: Annotated[Document | None, LEFT_OUT_IF_NONE] = None


class Ranking(Shape):
    model: str
    object: Literal["list"] = "list"
    usage: TokensRead
    results: list[Result]


def ranking(asked: RerankBody, found: Reranked) -> Ranking:
    """The best first; of equals the one that was sent first."""
    best = sorted(range(len(found.scores)), key=lambda i: -found.scores[i])
    results = [
        Result(
            index=i,
            relevance_score=found.scores[i],
            document=asked.documents[i] if asked.return_documents else None,
        )
        for i in best[: asked.top_n]
    ]
    return Ranking(model=asked.model, usage=TokensRead.of(found.prompt_tokens), results=results)
