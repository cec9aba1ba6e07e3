"""An embedding model for tests that needs no weights: texts that share words are near."""

import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from localllm.chat.documents.embedding import Embedder, Reranker
from localllm.engine.messages import Embedded, EmbedRequest, Reranked, RerankRequest
from localllm.errors import LocalLLMError

DIMENSIONS = 64


@dataclass
class BagOfWords:
    """Counts the words of a text in DIMENSIONS places; `error` is raised instead. A reranker
    prefers what has more of the words of the question."""

    embedded: list[str] = field(default_factory=list)
    acquired: list[str] = field(default_factory=list)
    error: LocalLLMError | None = None

    async def embed(self, name: str, request: EmbedRequest) -> Embedded:
        if self.error is not None:
            raise self.error
        texts = [text for text in request.inputs if isinstance(text, str)]
        self.embedded += texts
        return Embedded(
            request_id=request.request_id,
            vectors=tuple(_vector(text) for text in texts),
            tokens=tuple(len(text.split()) for text in texts),
        )

    async def rerank(self, name: str, request: RerankRequest) -> Reranked:
        if self.error is not None:
            raise self.error
        words = set(request.query.lower().split())
        scores = [len(words & set(each.lower().split())) for each in request.documents]
        return Reranked(
            request_id=request.request_id,
            scores=tuple(map(float, scores)),
            tokens=tuple(scores),
        )

    @asynccontextmanager
    async def acquire(self, model: str) -> AsyncIterator[object]:
        self.acquired.append(model)
        yield None

    def embedder(self, name: str = "words") -> Embedder:
        return Embedder(name, self, self)

    def reranker(self) -> Reranker:
        return Reranker("ranks", self, self)


def _vector(text: str) -> bytes:
    row = np.zeros(DIMENSIONS, np.float32)
    for word in re.findall(r"\w+", text.lower()):
        row[zlib.crc32(word.encode()) % DIMENSIONS] += 1
    return row.tobytes()
