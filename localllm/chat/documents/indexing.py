"""Bring a collection up to date with its folder: what changed is read, cut and embedded.

A file is the unit: it is kept when its last passage is embedded, so that what was done stays when
this is stopped or the program ends, and the next time goes on from there. A file whose size and
time are as they were is not opened; one that was written again is compared by its hash.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from localllm.chat.attachments.files import FileContent, read_file
from localllm.chat.documents.collection import (
    Collection,
    FileEntry,
    RemovedFile,
    StoredPassage,
    UnchangedFile,
)
from localllm.chat.documents.collections import Collections
from localllm.chat.documents.embedding import Embedder
from localllm.chat.documents.folder_scan import FolderScan, FoundFile, scan_folder
from localllm.chat.documents.passages import Passage, passages_of_pages, passages_of_text
from localllm.errors import NotFound, UsageError
from localllm.library.files.names import printable
from localllm.translation import _

BATCH = 16
"""Passages that are embedded at once: some seconds on two cores, after which stopping is heard."""
MAX_PASSAGES = 200_000
"""Of a collection: 300 MB of vectors and some seconds to make its indexes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexProgress:
    """How far indexing has come. `path` is the file that is read; `remaining_s` an estimate, None
    before there is one. `passages` and `problems` count those of this run."""

    path: str = ""
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    passages: int = 0
    problems: int = 0
    elapsed_s: float = 0.0
    remaining_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderChanges:
    """What is different in a folder since it was indexed."""

    new: tuple[FoundFile, ...] = ()
    changed: tuple[FoundFile, ...] = ()
    removed: tuple[str, ...] = ()
    not_embedded: tuple[FoundFile, ...] = ()
    scan: FolderScan = field(default_factory=lambda: FolderScan(files=()))

    @property
    def count(self) -> int:
        """The number of files that differ from what is indexed."""
        return len(self.new) + len(self.changed) + len(self.removed)


def folder_changes(
    collection: Collection, model: str = "", *, stopped: Callable[[], bool] = lambda: False
) -> FolderChanges:
    """Compare a folder with what is indexed of it, by sizes and times. `model` is the embedding
    model that vectors should be of, "" for none. Raises UsageError."""
    scan = scan_folder(collection.root, stopped=stopped)
    entries = collection.entries()
    if entries and not scan.files and not stopped():  # a disk that is not plugged in
        raise UsageError(
            _("{path} holds nothing to index any more: what was indexed stays as it is.").format(
                path=printable(collection.root)
            )
        )
    new, changed, not_embedded = [], [], []
    for found in scan.files:
        entry = entries.get(found.path)
        if entry is None:
            new.append(found)
        elif (entry.size_bytes, entry.modified_ns) != (found.size_bytes, found.modified_ns):
            changed.append(found)
        elif model and entry.passages and entry.model != model:
            not_embedded.append(found)
    there = {found.path for found in scan.files}
    return FolderChanges(
        new=tuple(new),
        changed=tuple(changed),
        removed=tuple(path for path in entries if path not in there),
        not_embedded=tuple(not_embedded),
        scan=scan,
    )


async def update_collection(
    collections: Collections,
    collection: Collection,
    embedder: Embedder | None,
    *,
    pause: Callable[[], Awaitable[None]] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[IndexProgress, None]:
    """Index what changed; yields before each file and each batch. Closing the iterator stops it,
    and what is done is kept. `pause` is awaited before each batch: it waits while the machine has
    something better to do.

    Raises UsageError when the folder cannot be read, StoreError, EncryptionError, and what the
    pool and the engine raise.
    """
    stopped = threading.Event()
    lock = collections.changing(collection)
    await asyncio.to_thread(lock.__enter__)
    try:
        model = embedder.name if embedder else ""
        changes = await asyncio.to_thread(folder_changes, collection, model, stopped=stopped.is_set)
        run = _Run(collection, embedder, changes, pause, clock)
        async for progress in run.steps():
            yield progress
        await asyncio.to_thread(_finish, collection, changes, model)
    finally:
        stopped.set()
        collections.save(collection)
        lock.__exit__(None, None, None)


def _finish(collection: Collection, changes: FolderChanges, model: str) -> None:
    skipped = {reason.value: count for reason, count in changes.scan.skipped.items()}
    collection.info = replace(collection.info, indexed_s=time.time(), model=model, skipped=skipped)
    collection.compact()


class _Run:
    """One run over the files that changed."""

    def __init__(
        self,
        collection: Collection,
        embedder: Embedder | None,
        changes: FolderChanges,
        pause: Callable[[], Awaitable[None]] | None,
        clock: Callable[[], float],
    ) -> None:
        self._collection = collection
        self._embedder = embedder
        self._changes = changes
        self._pause = pause
        self._clock = clock
        self._began = clock()
        self._to_read = (*changes.new, *changes.changed)
        self._to_embed = changes.not_embedded
        files = (*self._to_read, *self._to_embed)
        self._progress = IndexProgress(
            files_total=len(files), bytes_total=sum(each.size_bytes for each in files)
        )
        self._room = MAX_PASSAGES - sum(len(e.passages) for e in collection.entries().values())

    async def steps(self) -> AsyncGenerator[IndexProgress, None]:
        yield self._progress
        for path in self._changes.removed:
            await asyncio.to_thread(self._collection.add, RemovedFile(path=path))
        for found in self._to_read:
            yield self._step(found)
            entry = await self._read(found)
            if entry is not None:
                async for progress in self._keep(found, entry):
                    yield progress
            self._done(found)
        for found in self._to_embed:
            yield self._step(found)
            entry = self._collection.entries().get(found.path)
            if entry is not None:
                async for progress in self._keep(found, entry):
                    yield progress
            self._done(found)
        yield self._step(None)

    async def _read(self, found: FoundFile) -> FileEntry | None:
        """Read a file and cut it; None when it is kept already as it is."""
        path = self._collection.root / found.path
        before = self._collection.entries().get(found.path)
        blank = FileEntry(
            path=found.path, size_bytes=found.size_bytes, modified_ns=found.modified_ns
        )
        try:
            sha256 = await asyncio.to_thread(_hash, path)
            if before is not None and sha256 == before.sha256 and not before.problem:
                if self._embedder is not None and before.model != self._embedder.name:
                    return msgspec.structs.replace(before, modified_ns=found.modified_ns)
                unchanged = UnchangedFile(path=found.path, modified_ns=found.modified_ns)
                await asyncio.to_thread(self._collection.add, unchanged)
                return None
            content = await read_file(path)
        except (UsageError, NotFound, OSError) as error:
            return msgspec.structs.replace(blank, problem=_problem(error, path))
        passages = await asyncio.to_thread(passages_of, content)
        if not passages:
            return msgspec.structs.replace(blank, problem=_("It has no text."))
        if len(passages) > self._room:
            return msgspec.structs.replace(
                blank,
                problem=_("The collection has {count} passages, and takes no more.").format(
                    count=f"{MAX_PASSAGES:,}"
                ),
            )
        self._room -= len(passages)
        stored = tuple(
            StoredPassage(each.text, each.line, each.headings, each.page) for each in passages
        )
        return msgspec.structs.replace(blank, sha256=sha256, passages=stored)

    async def _keep(
        self, found: FoundFile, entry: FileEntry
    ) -> AsyncGenerator[IndexProgress, None]:
        """Embed a file's passages, if there is a model, and keep its record."""
        if self._embedder is not None and entry.passages:
            rows = []
            for at in range(0, len(entry.passages), BATCH):
                if self._pause is not None:
                    await self._pause()
                batch = entry.passages[at : at + BATCH]
                rows.append(await self._embedder.passages(embedded_texts(entry.path, batch)))
                share = min(1.0, (at + BATCH) / len(entry.passages))
                self._progress = replace(
                    self._progress, passages=self._progress.passages + len(batch)
                )
                yield self._step(found, share)
            vectors = np.concatenate(rows).astype(np.float16).tobytes()
            entry = msgspec.structs.replace(entry, model=self._embedder.name, vectors=vectors)
        else:
            self._progress = replace(
                self._progress,
                passages=self._progress.passages + len(entry.passages),
                problems=self._progress.problems + bool(entry.problem),
            )
        await asyncio.to_thread(self._collection.add, entry)

    def _step(self, found: FoundFile | None, share: float = 0.0) -> IndexProgress:
        """Return the progress inside of a file, of which `share` is done."""
        elapsed = self._clock() - self._began
        done = self._progress.bytes_done + round(share * (found.size_bytes if found else 0))
        total = self._progress.bytes_total
        return replace(
            self._progress,
            path=found.path if found else "",
            bytes_done=done,
            elapsed_s=elapsed,
            remaining_s=elapsed * (total - done) / done if done and elapsed > 1 else None,
        )

    def _done(self, found: FoundFile) -> None:
        self._progress = replace(
            self._progress,
            files_done=self._progress.files_done + 1,
            bytes_done=self._progress.bytes_done + found.size_bytes,
        )


def passages_of(content: FileContent) -> tuple[Passage, ...]:
    """Cut what was read of a file into passages."""
    if content.pages:
        return passages_of_pages(content.pages)
    return passages_of_text(content.text, content.path.suffix) if content.text else ()


def embedded_texts(path: str, passages: Sequence[StoredPassage]) -> list[str]:
    """Return what is embedded of passages: the headings say what a piece of a section is about."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ").replace("-", " ")
    return [f"{each.headings or stem}\n{each.text}" for each in passages]


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _problem(error: Exception, path: Path) -> str:
    """Say why a file is not indexed, without its name, which stands beside it."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.removeprefix(f"{path.name}: ")
