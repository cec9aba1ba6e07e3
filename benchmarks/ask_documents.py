"""How often a question finds the right file of a folder: by words, by vectors, by both.

    python benchmarks/ask_documents.py MODEL [--reranker MODEL] [--folder docs]

MODEL is an installed embedding model; `minilm_gguf.py` makes one of what PyPI has. The questions of
data/document_questions.csv were written by a person who knows the documents, in other words than
theirs where that came natural; `files` are those that answer one. Hit at 5: the share of questions
for which one of the first five passages is of such a file; first: the share where the first one is.
"""

import argparse
import asyncio
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from localllm.chat.documents.collection import Collection
from localllm.chat.documents.collections import Collections
from localllm.chat.documents.embedding import Embedder, Reranker
from localllm.chat.documents.indexing import update_collection
from localllm.chat.documents.search import search_collections
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.runtime import Runtime

ROOT = Path(__file__).parents[1]
QUESTIONS = Path(__file__).parent / "data" / "document_questions.csv"
TOP = 5


@dataclass
class Score:
    """What one way of searching found: the rank of the right file for each question, None beyond
    TOP, and the time of each search."""

    ranks: list[int | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        hits = sum(rank is not None for rank in self.ranks) / len(self.ranks)
        first = sum(rank == 1 for rank in self.ranks) / len(self.ranks)
        milliseconds = 1000 * statistics.median(self.seconds)
        return f"{name:<22} {hits:>8.1%} {first:>8.1%} {milliseconds:>10.1f} ms"


class Loaded:
    """Models that stay in memory."""

    @asynccontextmanager
    async def acquire(self, model: str) -> AsyncIterator[object]:
        yield model


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--reranker")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    parser.add_argument("--misses", action="store_true", help="list what was not found")
    options = parser.parse_args()
    runtime = Runtime.of_this_machine()
    try:
        for name in filter(None, (options.model, options.reranker)):
            plan = await runtime.plan(runtime.resolve(name), LoadChoice())
            async for _event in runtime.load(plan):
                pass
        await measure(runtime, options)
    finally:
        await runtime.close()


async def measure(runtime: Runtime, options: argparse.Namespace) -> None:
    embedder = Embedder(runtime.resolve(options.model).name, runtime, Loaded())
    collections = Collections(Path(tempfile.mkdtemp()))
    info = collections.create(options.folder, "documents")
    collection = collections.open(info.id)
    began = time.perf_counter()
    async for _progress in update_collection(collections, collection, embedder):
        pass
    seconds = time.perf_counter() - began
    info = collection.current_info()
    print(f"{info.files} files, {info.source_bytes:,} bytes, {info.passages} passages", end="")
    print(f" indexed in {seconds:.1f} s with {embedder.name}")
    print(f"{'':<22} {'hit at 5':>8} {'first':>8} {'median':>13}")
    for name, score in (await scores(collection, embedder, runtime, options)).items():
        print(score.line(name))


async def scores(
    collection: Collection, embedder: Embedder, runtime: Runtime, options: argparse.Namespace
) -> dict[str, Score]:
    with QUESTIONS.open(encoding="utf-8") as file:
        questions = [(row["question"], row["files"].split()) for row in csv.DictReader(file)]
    results = {name: Score() for name in ("words", "vectors", "both")}
    reranker = None
    if options.reranker:
        name = runtime.resolve(options.reranker).name
        reranker = Reranker(name, runtime, Loaded())
        results["both, ranked again"] = Score()
    for question, files in questions:
        for name, score in results.items():
            began = time.perf_counter()
            paths = await found(collection, question, name, embedder, reranker)
            score.seconds.append(time.perf_counter() - began)
            rank = right_rank(paths, files)
            score.ranks.append(rank)
            if rank is None and options.misses:
                print(f"{name}: {question}: {paths}", file=sys.stderr)
    return results


async def found(
    collection: Collection,
    question: str,
    way: str,
    embedder: Embedder,
    reranker: Reranker | None,
) -> list[str]:
    """Return the files of the first TOP passages."""
    if way == "vectors":
        vector = await embedder.question(question)
        _by_words, hits = collection.search(question, vector, model=embedder.name, limit=TOP)
    else:
        result = await search_collections(
            [collection], question, limit=TOP, embedder=None if way == "words" else embedder,
            reranker=reranker if way == "both, ranked again" else None,
        )  # fmt: skip
        hits = list(result.hits)
    return [hit.path for hit in hits]


def right_rank(paths: Sequence[str], files: Sequence[str]) -> int | None:
    names = {Path(each).name for each in files}
    return next((at for at, path in enumerate(paths, 1) if Path(path).name in names), None)


if __name__ == "__main__":
    asyncio.run(main())
