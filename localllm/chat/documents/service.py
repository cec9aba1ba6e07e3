"""Everything a front end does with documents: which models there are, indexing in the background,
and the sources of a question.

Indexing goes on while people chat, so it gives way to answers: between two batches it waits for as
long as it is paused.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from localllm.chat.attachments.fitting import attachment_room, tokenizer_of
from localllm.chat.conversation import ChatMessage, Citation
from localllm.chat.documents.collection import Collection, PassageHit
from localllm.chat.documents.collections import Collections
from localllm.chat.documents.embedding import (
    DocumentModels,
    Embedder,
    Reranker,
    document_models,
)
from localllm.chat.documents.indexing import IndexProgress, update_collection
from localllm.chat.documents.search import search_collections, search_text, stale_files
from localllm.chat.documents.sources import chosen_sources
from localllm.core.text import single_line
from localllm.engine.messages import Role
from localllm.errors import LocalLLMError, NotFound
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import PoolModel
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _, ngettext

KEEP_ALIVE_S = 600.0
"""A model for documents leaves the memory so long after it was used."""
_HITS = 12
"""More than are sent: some are too long for what room there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """Indexing as it stands: `progress` of the run, and how it ended. `error` is a sentence."""

    progress: IndexProgress
    running: bool = True
    stopped: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSources:
    """The sources of a question, numbered from 1, and sentences about how they were found."""

    sources: tuple[Citation, ...] = ()
    remarks: tuple[str, ...] = ()


class Documents:
    """The collections of a person, with the models of `pool`.

    `observers` are called when an indexing has come further.
    """

    def __init__(self, collections: Collections, pool: ModelPool) -> None:
        self.collections = collections
        self.observers: list[Callable[[], None]] = []
        self._pool = pool
        self._states: dict[str, IndexState] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    # --- models ---

    async def models(self) -> DocumentModels:
        """Find the installed models for documents."""
        installed = self._pool.runtime.installed()
        found = await asyncio.to_thread(document_models, installed)
        given = {each.name: each.model for each in self._pool.models.given}
        for model in installed:
            if model.name not in (found.embedding, found.reranker):
                continue
            if given.get(model.name) != model:
                choice = LoadChoice(parallel=1)
                self._pool.models.give(
                    PoolModel(model=model, choice=choice, keep_alive_s=KEEP_ALIVE_S)
                )
        return found

    async def _embedder(self) -> tuple[Embedder | None, Reranker | None]:
        found, runtime = await self.models(), self._pool.runtime
        return (
            Embedder(found.embedding, runtime, self._pool) if found.embedding else None,
            Reranker(found.reranker, runtime, self._pool) if found.reranker else None,
        )

    # --- indexing ---

    def state(self, collection_id: str) -> IndexState | None:
        """Return how the last indexing of a collection stands; None when there was none."""
        return self._states.get(collection_id)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the collections that are being indexed."""
        return tuple(each for each, state in self._states.items() if state.running)

    @property
    def progress(self) -> tuple[int, int]:
        """Return how many files are done, and of how many, of all that are being indexed."""
        running = [each.progress for each in self._states.values() if each.running]
        return sum(each.files_done for each in running), sum(each.files_total for each in running)

    def start_indexing(self, collection_id: str) -> None:
        """Bring a collection up to date, in the background; nothing happens when that is under way
        already."""
        if collection_id in self._tasks:
            return
        self._states[collection_id] = IndexState(progress=IndexProgress())
        task = asyncio.create_task(self._index(collection_id), name=f"index {collection_id}")
        self._tasks[collection_id] = task
        task.add_done_callback(lambda _done: self._tasks.pop(collection_id, None))

    async def stop_indexing(self, collection_id: str) -> None:
        """Stop at the end of the batch that is computed; what is done is kept."""
        task = self._tasks.get(collection_id)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        """Stop everything."""
        for collection_id in tuple(self._tasks):
            await self.stop_indexing(collection_id)

    async def index(self, collection_id: str) -> AsyncGenerator[IndexProgress, None]:
        """Bring a collection up to date while somebody waits for it. Raises as
        `update_collection`."""
        embedder, _reranker = await self._embedder()
        collection = await asyncio.to_thread(self.collections.open, collection_id)
        steps = update_collection(self.collections, collection, embedder, pause=self._wait)
        async with aclosing(steps):
            async for progress in steps:
                yield progress

    async def _index(self, collection_id: str) -> None:
        try:
            async with aclosing(self.index(collection_id)) as steps:
                async for progress in steps:
                    self._show(collection_id, IndexState(progress=progress))
        except LocalLLMError as error:
            self._end(collection_id, error=single_line(str(error)))
        except asyncio.CancelledError:
            self._end(collection_id, stopped=True)
            raise
        else:
            self._end(collection_id)

    def pause(self) -> None:
        """Let indexing rest, because something is being answered."""
        self._idle.clear()

    def resume(self) -> None:
        """Let indexing go on."""
        self._idle.set()

    async def _wait(self) -> None:
        await self._idle.wait()

    def _show(self, collection_id: str, state: IndexState) -> None:
        self._states[collection_id] = state
        for observer in tuple(self.observers):
            observer()

    def _end(self, collection_id: str, *, error: str = "", stopped: bool = False) -> None:
        state = self._states[collection_id]
        self._show(collection_id, replace(state, running=False, error=error, stopped=stopped))

    async def erase(self, collection_id: str) -> None:
        """Stop indexing a collection, and erase it for good. Raises as `Collections.erase`."""
        await self.stop_indexing(collection_id)
        await asyncio.to_thread(self.collections.erase, collection_id)
        self._states.pop(collection_id, None)

    # --- questions ---

    async def erase_all(self) -> None:
        """Erase every collection for good. Raises StoreError, EncryptionError."""
        for each in self.running:
            await self.stop_indexing(each)
        await asyncio.to_thread(self.collections.erase_all)

    async def sources_for(
        self,
        names: Sequence[str],
        question: str,
        *,
        path: Sequence[ChatMessage],
        resident: ResidentModel,
        used: int,
        max_tokens: int | None = None,
    ) -> FoundSources:
        """Find what goes with a question to the model `resident`.

        `names` are those of collections; one that is gone is left out, with a remark. `path` is the
        conversation before the question, which takes `used` tokens. Raises StoreError,
        EncryptionError, and what the engine raises.
        """
        collections, remarks = await self._opened(names)
        if not collections:
            return FoundSources(remarks=tuple(remarks))
        earlier = [each.text for each in path if each.role is Role.USER]
        embedder, reranker = await self._embedder()
        found = await search_collections(
            collections,
            search_text(question, earlier),
            embedder=embedder,
            reranker=reranker,
            limit=_HITS,
        )
        tokenize = tokenizer_of(self._pool.runtime, resident.model.name)
        room = attachment_room(
            context=resident.loaded.context,
            used=used,
            question=len(await tokenize(question)),
            max_tokens=max_tokens,
        )
        sources = await chosen_sources(found.hits, tokenize, room=room)
        remarks.extend(found.remarks)
        if not found.hits:
            remarks.append(_("Nothing was found in your documents for this question."))
        elif not sources:
            remarks.append(_("The context has no room for passages of your documents."))
        sent = found.hits[: len(sources)]
        remarks.extend(await self._stale(collections, sent))
        return FoundSources(sources=sources, remarks=tuple(remarks))

    async def search(self, query: str, passages: int) -> str:
        """Write the best passages of all collections for a query, for a tool that a model calls.

        Raises StoreError, EncryptionError.
        """
        infos = await asyncio.to_thread(self.collections.list)
        opened, _remarks = await self._opened([each.id for each in infos])
        if not opened:
            return "There are no collections of documents."
        embedder, reranker = await self._embedder()
        found = await search_collections(
            opened, query, embedder=embedder, reranker=reranker, limit=passages
        )
        if not found.hits:
            return "Nothing was found."
        return "\n\n".join(
            f"{each.path}, line {each.passage.line}:\n{each.passage.text}" for each in found.hits
        )

    async def _opened(self, names: Sequence[str]) -> tuple[list[Collection], list[str]]:
        opened: list[Collection] = []
        remarks: list[str] = []
        for name in names:
            try:
                opened.append(await asyncio.to_thread(self.collections.open, name))
            except NotFound:
                remarks.append(
                    _("The collection {name} is not there any more.").format(name=single_line(name))
                )
        return opened, remarks

    async def _stale(
        self, collections: Sequence[Collection], hits: Sequence[PassageHit]
    ) -> list[str]:
        changed = [
            path
            for collection in collections
            for path in await asyncio.to_thread(stale_files, collection, hits)
        ]
        if not changed:
            return []
        words = ngettext(
            "{files} has changed since it was indexed.",
            "{files} have changed since they were indexed.",
            len(changed),
        )
        return [words.format(files=", ".join(map(single_line, changed)))]
