"""A collection: the files of a folder as they were indexed, and what is found in them.

What is kept are records, one for each file as it was read last. In memory they are the entries by
path, and from these the two indexes are made when somebody searches: nothing that is searched is
ever a file.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from localllm.chat.documents.keyword_index import IndexedText, KeywordIndex
from localllm.chat.documents.passages import Passage
from localllm.chat.documents.record_log import RecordLog
from localllm.chat.documents.vector_index import VectorIndex, Vectors
from localllm.errors import StoreError
from localllm.translation import _


class StoredPassage(msgspec.Struct, frozen=True, array_like=True):
    """A `Passage` in a record."""

    text: str
    line: int
    headings: str = ""
    page: int | None = None


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, tag="file"):
    """A file as it was read last: its path below the root, how it stood on the disk, its passages
    and their vectors (float16, a row each; "" without a model). `problem` says why it has none."""

    path: str
    size_bytes: int
    modified_ns: int
    sha256: bytes = b""
    passages: tuple[StoredPassage, ...] = ()
    model: str = ""
    vectors: bytes = b""
    problem: str = ""

    def unit_vectors(self) -> Vectors:
        """Return the vectors as rows of length 1, as they were computed."""
        rows = np.frombuffer(self.vectors, np.float16).astype(np.float32)
        return rows.reshape(len(self.passages), -1)

    def passage(self, number: int) -> Passage:
        """Return one passage."""
        stored = self.passages[number]
        return Passage(
            text=stored.text, line=stored.line, headings=stored.headings, page=stored.page
        )


class RemovedFile(msgspec.Struct, frozen=True, kw_only=True, tag="removed"):
    """A file that is not in the folder any more."""

    path: str


class UnchangedFile(msgspec.Struct, frozen=True, kw_only=True, tag="unchanged"):
    """A file that was written again with the same content."""

    path: str
    modified_ns: int


Record = FileEntry | RemovedFile | UnchangedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """What a list shows of a collection. `indexed_s` is Unix time, None before it was indexed to
    its end; `model` the embedding model of its vectors, "" where it is searched by words alone.
    `problems` counts files that could not be read, `skipped` those that were left out, by
    reason."""

    id: str
    name: str
    root: str
    created_s: float
    indexed_s: float | None = None
    model: str = ""
    files: int = 0
    passages: int = 0
    source_bytes: int = 0
    problems: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageHit:
    """A passage that was found, and where. `collection` is the name of its collection."""

    collection: str
    path: str
    passage: Passage


@dataclass(frozen=True, slots=True)
class _Indexes:
    keywords: KeywordIndex
    vectors: VectorIndex
    places: tuple[tuple[str, int], ...]  # by the number of a passage: path, number in its file


class Collection:
    """A collection that was opened. Searching and changing may happen in different threads."""

    def __init__(self, info: CollectionInfo, log: RecordLog) -> None:
        """Read all records. Raises StoreError."""
        self._log = log
        self._mutex = threading.RLock()
        self._entries: dict[str, FileEntry] = {}
        self._indexes: dict[str, _Indexes] = {}
        self.info = info
        self._read()

    @property
    def root(self) -> Path:
        return Path(self.info.root)

    def entries(self) -> dict[str, FileEntry]:
        """Return the files by path, in the order in which they were indexed."""
        with self._mutex:
            return dict(self._entries)

    def add(self, record: Record) -> None:
        """Keep a record. Raises StoreError."""
        with self._mutex:
            self._log.append(msgspec.msgpack.encode(record))
            self._apply(record)

    def reload(self) -> None:
        """Read the records again, if another process has added some. Raises StoreError."""
        with self._mutex:
            if not self._log.is_current:
                self._read()

    def _read(self) -> None:
        self._entries.clear()
        self._indexes.clear()
        for record in self._log.read():
            self._apply(_decoded(record))

    def compact(self) -> None:
        """Write the records again without those that later ones have replaced, if these are the
        greater part. Raises StoreError."""
        with self._mutex:
            live = [msgspec.msgpack.encode(each) for each in self._entries.values()]
            if self._log.size_bytes > 2 * sum(map(len, live)) + 2**20:
                self._log.replace(live)

    def copy_to(self, log: RecordLog) -> None:
        """Keep everything in another log from now on. Raises StoreError."""
        with self._mutex:
            log.replace(msgspec.msgpack.encode(each) for each in self._entries.values())
            self._log = log

    def current_info(self) -> CollectionInfo:
        """Return the info with what is counted now."""
        with self._mutex:
            entries = self._entries.values()
            return replace(
                self.info,
                files=sum(not each.problem for each in entries),
                passages=sum(len(each.passages) for each in entries),
                source_bytes=sum(each.size_bytes for each in entries if not each.problem),
                problems=sum(bool(each.problem) for each in entries),
                stored_bytes=self._log.size_bytes,
            )

    def _apply(self, record: Record) -> None:
        self._indexes.clear()
        match record:
            case FileEntry():
                self._entries[record.path] = record
            case RemovedFile():
                self._entries.pop(record.path, None)
            case UnchangedFile():
                if (entry := self._entries.get(record.path)) is not None:
                    self._entries[record.path] = msgspec.structs.replace(
                        entry, modified_ns=record.modified_ns
                    )

    # --- search ---

    def search(
        self, question: str, vector: Vectors | None, *, model: str, limit: int
    ) -> tuple[list[PassageHit], list[PassageHit]]:
        """Return what is found by words and what is nearest to a vector of the model `model`, each
        the best first."""
        with self._mutex:
            indexes = self._made_indexes(model)
            by_words = indexes.keywords.search(question, limit)
            nearest = [] if vector is None else indexes.vectors.search(vector, limit)
            return self._hits(indexes, by_words), self._hits(indexes, nearest)

    def _hits(self, indexes: _Indexes, numbers: Sequence[int]) -> list[PassageHit]:
        places = [indexes.places[number] for number in numbers]
        return [
            PassageHit(
                collection=self.info.name, path=path, passage=self._entries[path].passage(at)
            )
            for path, at in places
        ]

    def _made_indexes(self, model: str) -> _Indexes:
        if model not in self._indexes:
            keywords = KeywordIndex()
            places = [
                (path, number)
                for path, entry in self._entries.items()
                for number in range(len(entry.passages))
            ]
            keywords.add(self._texts(places))
            self._indexes = {model: _Indexes(keywords, self._vector_index(model), tuple(places))}
        return self._indexes[model]

    def _texts(self, places: Sequence[tuple[str, int]]) -> Iterator[IndexedText]:
        for number, (path, at) in enumerate(places):
            stored = self._entries[path].passages[at]
            yield IndexedText(id=number, path=path, headings=stored.headings, text=stored.text)

    def _vector_index(self, model: str) -> VectorIndex:
        """Index the vectors of this model; files that another one embedded have none here."""
        ids: list[int] = []
        rows: list[Vectors] = []
        number = 0
        for entry in self._entries.values():
            count = len(entry.passages)
            if count and entry.vectors and entry.model == model:
                ids += range(number, number + count)
                rows.append(entry.unit_vectors())
            number += count
        if not rows:
            return VectorIndex((), np.zeros((0, 0), np.float32))
        return VectorIndex(ids, np.concatenate(rows))


def _decoded(record: bytes) -> Record:
    try:
        return msgspec.msgpack.decode(record, type=Record)
    except msgspec.MsgspecError as error:
        raise StoreError(
            _("The collection was written by another version of localllm. Index it again.")
        ) from error
