"""Find passages for a question in collections: by words and by meaning, joined, and ranked again by
a reranker where one is installed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.chat.documents.collection import Collection, FileEntry, PassageHit
from localllm.chat.documents.embedding import Embedder, Reranker
from localllm.chat.documents.fusion import reciprocal_rank_fusion
from localllm.core.text import single_line
from localllm.errors import LocalLLMError
from localllm.translation import _

CANDIDATES = 50
"""Of each ranking."""
RERANKED = 20
"""A reranker reads each with the question: some 5,000 tokens in all."""
_SHORT_QUESTION_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Passages, the best first. `remarks` are sentences about how they were searched."""

    hits: tuple[PassageHit, ...]
    remarks: tuple[str, ...] = ()


async def search_collections(
    collections: Sequence[Collection],
    question: str,
    *,
    embedder: Embedder | None,
    reranker: Reranker | None = None,
    limit: int = 8,
) -> SearchResult:
    """Return the `limit` best passages for a question. A model that fails is done without, with a
    remark. Raises StoreError."""
    remarks: list[str] = []
    vector = None
    if embedder is not None and any(_has_vectors(each, embedder.name) for each in collections):
        try:
            vector = await embedder.question(question)
        except LocalLLMError as error:
            remarks.append(
                _("Searched by words alone, because {model} cannot be used: {reason}").format(
                    model=embedder.name, reason=single_line(str(error))
                )
            )
    model = embedder.name if embedder else ""
    rankings: list[list[PassageHit]] = []
    for collection in collections:
        found = await asyncio.to_thread(
            collection.search, question, vector, model=model, limit=CANDIDATES
        )
        rankings.extend(found)
    hits = reciprocal_rank_fusion(rankings)
    if reranker is not None and len(hits) > 1:
        try:
            hits = await _reranked(hits, question, reranker)
        except LocalLLMError as error:
            remarks.append(
                _("Not ranked again, because {model} cannot be used: {reason}").format(
                    model=reranker.name, reason=single_line(str(error))
                )
            )
    return SearchResult(hits=tuple(hits[:limit]), remarks=tuple(remarks))


def search_text(question: str, earlier: Sequence[str]) -> str:
    """Return what is searched for a question: a short one ("And the second?") together with the
    question before it. `earlier` are those before, oldest first."""
    if len(question) < _SHORT_QUESTION_CHARS and earlier:
        return f"{earlier[-1]}\n{question}"
    return question


def stale_files(collection: Collection, hits: Sequence[PassageHit]) -> tuple[str, ...]:
    """Return the paths among the hits whose files are not as they were indexed. Looks at the disk:
    call it in a thread."""
    entries = collection.entries()
    paths = dict.fromkeys(hit.path for hit in hits if hit.collection == collection.info.name)
    return tuple(path for path in paths if _is_stale(collection, entries.get(path)))


def _is_stale(collection: Collection, entry: FileEntry | None) -> bool:
    if entry is None:
        return True
    try:
        status = (collection.root / entry.path).stat()
    except (OSError, ValueError):
        return True
    return (status.st_size, status.st_mtime_ns) != (entry.size_bytes, entry.modified_ns)


def _has_vectors(collection: Collection, model: str) -> bool:
    return any(entry.model == model and entry.vectors for entry in collection.entries().values())


async def _reranked(
    hits: Sequence[PassageHit], question: str, reranker: Reranker
) -> list[PassageHit]:
    first, rest = hits[:RERANKED], hits[RERANKED:]
    order = await reranker.order(question, [hit.passage.text for hit in first])
    return [*(first[number] for number in order), *rest]
