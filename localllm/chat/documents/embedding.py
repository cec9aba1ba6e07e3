"""The models that turn passages into vectors and rank them, among those that are installed.

A model was trained with words before a question and before a passage; without them it finds less.
They are in no header, so they stand here, by name, as the models' own pages have them.
"""

import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from localllm.chat.documents.vector_index import Vectors, unit_rows
from localllm.core.model.purpose import is_embedding_model
from localllm.core.model.spec import ModelSpec
from localllm.engine.messages import Embedded, EmbedRequest, Reranked, RerankRequest
from localllm.errors import GgufError, StoreError
from localllm.library.store.installed import InstalledModel

SUGGESTED = ("all-minilm-l6-v2", "bge-m3")
"""Models of the catalogue to get: the first is small (English), the second knows 100 languages."""

_RANK_POOLING = 4  # LLAMA_POOLING_TYPE_RANK (llama.h, b11434)


@dataclass(frozen=True, slots=True)
class _Prefixes:
    question: str = ""
    passage: str = ""


_TASK = "Instruct: Given a question, retrieve passages that answer the question\nQuery: "
_PREFIXES = (  # by a part of the model's name; read on their pages of the Hub, 2026-11-30
    ("e5-large-instruct", _Prefixes(_TASK)),
    ("e5", _Prefixes("query: ", "passage: ")),
    ("nomic-embed", _Prefixes("search_query: ", "search_document: ")),
    ("qwen3-embedding", _Prefixes(_TASK)),
    ("embeddinggemma", _Prefixes("task: search result | query: ", "title: none | text: ")),
    ("bge-small-en", _Prefixes("Represent this sentence for searching relevant passages: ")),
    ("bge-base-en", _Prefixes("Represent this sentence for searching relevant passages: ")),
    ("bge-large-en", _Prefixes("Represent this sentence for searching relevant passages: ")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentModels:
    """The installed models for documents; None where there is none. Names of models."""

    embedding: str | None = None
    reranker: str | None = None


class EmbeddingRuntime(Protocol):
    """What the runtime does for a resident model."""

    async def embed(self, name: str, request: EmbedRequest) -> Embedded: ...

    async def rerank(self, name: str, request: RerankRequest) -> Reranked: ...


class LoadedModels(Protocol):
    """What keeps a model in memory while it is used (a ModelPool)."""

    def acquire(self, model: str) -> AbstractAsyncContextManager[object]: ...


class Embedder:
    """Embeds with one installed model, which is loaded when it is needed."""

    def __init__(self, name: str, runtime: EmbeddingRuntime, models: LoadedModels) -> None:
        self.name = name
        self._runtime = runtime
        self._models = models
        self._prefixes = prefixes_of(name)

    async def passages(self, texts: Sequence[str]) -> Vectors:
        """Return a row for each text. Raises as the pool and the engine do."""
        return await self._embed([self._prefixes.passage + text for text in texts])

    async def question(self, text: str) -> Vectors:
        """Return the vector of a question, in one dimension."""
        row: Vectors = (await self._embed([self._prefixes.question + text]))[0]
        return row

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        request = EmbedRequest(request_id=uuid.uuid4().hex, inputs=tuple(texts), truncate=True)
        async with self._models.acquire(self.name):
            embedded = await self._runtime.embed(self.name, request)
        rows = [np.frombuffer(vector, np.float32) for vector in embedded.vectors]
        return unit_rows(np.stack(rows))


class Reranker:
    """Ranks passages with one installed model, which is loaded when it is needed."""

    def __init__(self, name: str, runtime: EmbeddingRuntime, models: LoadedModels) -> None:
        self.name = name
        self._runtime = runtime
        self._models = models

    async def order(self, question: str, texts: Sequence[str]) -> list[int]:
        """Return the numbers of the texts, the one that answers best first."""
        request = RerankRequest(
            request_id=uuid.uuid4().hex, query=question, documents=tuple(texts), truncate=True
        )
        async with self._models.acquire(self.name):
            reranked = await self._runtime.rerank(self.name, request)
        return sorted(range(len(texts)), key=lambda number: -reranked.scores[number])


def prefixes_of(name: str) -> _Prefixes:
    """Return the words that a model was trained with; none for one that is not known."""
    spelled = name.lower().replace("_", "-")
    return next((prefixes for part, prefixes in _PREFIXES if part in spelled), _Prefixes())


def document_models(installed: Sequence[InstalledModel]) -> DocumentModels:
    """Choose the models for documents: of each kind the smallest that is installed, because it
    reads whole folders. Reads headers: call it in a thread."""
    from localllm.library.store.header_cache import cached_spec

    embedding: list[InstalledModel] = []
    rerankers: list[InstalledModel] = []
    for model in installed:
        if model.missing:
            continue
        try:
            spec = cached_spec(model)
        except (GgufError, StoreError, OSError):
            continue
        if is_embedding_model(spec):
            (rerankers if _is_reranker(spec) else embedding).append(model)

    def smallest(models: list[InstalledModel]) -> str | None:
        return min(models, key=lambda each: each.size_bytes).name if models else None

    return DocumentModels(embedding=smallest(embedding), reranker=smallest(rerankers))


def _is_reranker(spec: ModelSpec) -> bool:
    return spec.value("pooling_type") == _RANK_POOLING
