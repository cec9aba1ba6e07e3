"""The library's index on the disk: library.json.

`IndexCodec` converts entries to JSON and back, `IndexFile` reads and changes the file. One entry a
line, each complete in itself: whatever is lost of the file, the other lines can be read. The file
is replaced as a whole under a lock, so that two processes and a crash at any point leave an index
that can be read; reading takes no lock and works on a read-only disk.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import LocalLLMError, StoreError
from localllm.library.files import atomic_write, names, paths
from localllm.library.files.file_lock import locked
from localllm.library.store.installed import InstalledFile, InstalledModel
from localllm.library.store.recovery import with_unlisted_files

SCHEMA = 2
"""Schema 2 added downloads (`ORG/REPO/FILE` among the owned paths), `mmproj` and `damaged`; an
index of schema 1 needs no conversion."""
_ENTRY = re.compile(r'\{"name":')


class IndexDamaged(ValueError):
    """The text is not an index that this or an earlier version wrote."""


class IndexTooNew(ValueError):
    """A later version wrote the index: it is not damaged, and must not be changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexCodec:
    """Reads and writes the text of the index of the library in `data`.

    The library's own files are written relative to it, so that it can be moved as a whole.
    """

    data: Path

    def dump(self, models: Iterable[InstalledModel]) -> bytes:
        """Write entries in the order of their names."""
        ordered = sorted(models, key=lambda model: model.name)
        lines = ",\n".join(json.dumps(self._row(model)) for model in ordered)
        return f'{{"schema": {SCHEMA}, "models": [\n{lines}\n]}}\n'.encode("ascii")

    def parse(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Read an index. Raises IndexDamaged or IndexTooNew."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise IndexDamaged(str(error)) from error
        if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
            raise IndexDamaged("it has no schema number")
        if document["schema"] > SCHEMA:
            raise IndexTooNew(f"it has schema {document['schema']}; this version reads {SCHEMA}")
        rows = document.get("models")
        if not isinstance(rows, list):
            raise IndexDamaged("it has no list of models")
        return _distinct([self._entry(row) for row in rows])

    def salvage(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Read the entries of a damaged index that are whole; of two with one name the first."""
        text = data.decode("utf-8", "replace")
        # Entry by entry from each `{"name":`, which `dump` puts at the beginning of every line.
        decoder = json.JSONDecoder()
        found: dict[str, InstalledModel] = {}
        for match in _ENTRY.finditer(text):
            try:
                entry = self._entry(decoder.raw_decode(text, match.start())[0])
            except (ValueError, RecursionError):
                continue
            found.setdefault(entry.name, entry)
        return tuple(found.values())

    def _row(self, model: InstalledModel) -> dict[str, object]:
        return {
            "name": model.name,
            "quant": model.quant,
            "license": model.license,
            "source": model.source,
            "verified_at": model.verified_at,
            "owned": model.owned,
            "parts": [self._file_row(part, owned=model.owned) for part in model.files],
            "mmproj": self._file_row(model.mmproj, owned=model.owned) if model.mmproj else None,
        }

    def _file_row(self, file: InstalledFile, *, owned: bool) -> dict[str, object]:
        return {
            "path": self._relative_name(file.path) if owned else str(file.path),
            "size_bytes": file.size_bytes,
            "mtime_ns": file.mtime_ns,
            "sha256": file.sha256,
            **({"damaged": True} if file.damaged else {}),
        }

    def _relative_name(self, path: Path) -> str:
        """Name an owned file: `NAME.gguf` in `models/`, `ORG/REPO/FILE` in `hub/`."""
        hub = paths.hub_dir(self.data)
        return path.relative_to(hub).as_posix() if path.is_relative_to(hub) else path.name

    def _entry(self, value: object) -> InstalledModel:
        row = _mapping(value)
        name, owned = _string(row, "name"), row.get("owned")
        if not names.valid(name) or not isinstance(owned, bool):
            raise IndexDamaged("an entry has no usable name")
        listed = row.get("parts")
        if not isinstance(listed, list) or not listed:
            raise IndexDamaged(f"{name} has no files")
        parts = tuple(self._file(_mapping(part), owned=owned) for part in listed)
        mmproj = row.get("mmproj")
        return InstalledModel(
            name=name,
            quant=_optional(row, "quant"),
            path=parts[0].path,
            size_bytes=sum(part.size_bytes for part in parts),
            sha256=parts[0].sha256 if len(parts) == 1 else None,
            license=_optional(row, "license"),
            source=_string(row, "source"),
            verified_at=_optional(row, "verified_at"),
            parts=parts,
            owned=owned,
            mmproj=self._file(_mapping(mmproj), owned=owned) if mmproj is not None else None,
        )

    def _owned_path(self, text: str) -> Path:
        try:
            if "/" in text:
                return names.below(paths.hub_dir(self.data), text)
            return names.path_in(paths.models_dir(self.data), text.removesuffix(".gguf"))
        except StoreError as error:
            raise IndexDamaged(str(error)) from error

    def _file(self, row: Mapping[str, object], *, owned: bool) -> InstalledFile:
        text = _string(row, "path")
        path = self._owned_path(text) if owned else Path(text)
        if not path.is_absolute() or "\0" in text:
            raise IndexDamaged("a file has no usable path")
        size_bytes, mtime_ns = row.get("size_bytes"), row.get("mtime_ns")
        if type(size_bytes) is not int or not isinstance(mtime_ns, int | None) or size_bytes < 0:
            raise IndexDamaged("a file has no size")
        return InstalledFile(
            path=path,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            sha256=_optional(row, "sha256"),
            damaged=row.get("damaged") is True,
        )


class IndexFile:
    """The index of the library in `data`. `warn` gets a sentence when it had to be repaired."""

    def __init__(self, data: Path, *, warn: Callable[[str], None]) -> None:
        self._data = data
        self._codec = IndexCodec(data=data)
        self._warn = warn

    def entries(self) -> tuple[InstalledModel, ...]:
        """Read every entry; repair a damaged index first, where that is possible.

        Raises StoreError.
        """
        data = self._read()
        try:
            return self._parse(data)
        except IndexDamaged:
            pass
        try:
            with self.transaction() as models:
                return tuple(models.values())
        except StoreError as error:
            saved = self._codec.salvage(data)
            self._warn(
                f"The library's index {paths.index_file(self._data)} is damaged and cannot be"
                f" mended: {error} {len(saved)} of its models can be read."
            )
            return saved

    @contextlib.contextmanager
    def transaction(self) -> Iterator[dict[str, InstalledModel]]:
        """Lock the library and yield its entries by name; write them when they were changed.

        An exception in the block writes nothing. Raises StoreError when the library is in use,
        cannot be read or cannot be written.
        """
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            with locked(paths.lock_file(self._data)):
                # Read under the lock: another process may have changed it since it was read last.
                models = {model.name: model for model in self._read_or_repair()}
                before = dict(models)
                yield models
                if models != before:
                    self._write(models)
        except TimeoutError as error:
            raise StoreError(f"The library is in use: {error}. Try again.") from error
        except LocalLLMError:
            raise
        except OSError as error:
            raise StoreError(
                f"The library in {self._data} cannot be changed: {_reason(error)}."
                " Its index is as it was."
            ) from error

    def _read_or_repair(self) -> tuple[InstalledModel, ...]:
        """Read the index under the lock; rename a damaged one and write what can be salvaged."""
        data = self._read()
        try:
            return self._parse(data)
        except IndexDamaged as damage:
            path = paths.index_file(self._data)
            aside = atomic_write.unused_path(path.with_suffix(".damaged.json"))
            saved = with_unlisted_files(self._codec.salvage(data), self._data)
            # The damaged text first: a crash between the two writes must not lose it.
            atomic_write.write_atomically(aside, data)
            self._write({model.name: model for model in saved})
            self._warn(
                f"The library's index {path} was damaged ({damage}): it is kept as {aside.name},"
                f" and {len(saved)} of its models were read back. Import again what is missing."
            )
            return saved

    def _read(self) -> bytes:
        path = paths.index_file(self._data)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return self._codec.dump(())
        except OSError as error:
            raise StoreError(
                f"The library's index {path} cannot be read: {_reason(error)}."
            ) from error

    def _parse(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Parse the index. Raises IndexDamaged, and StoreError for one of a later version."""
        try:
            return self._codec.parse(data)
        except IndexTooNew as error:
            path = paths.index_file(self._data)
            raise StoreError(
                f"{path} was written by a later localllm: {error}. Update localllm."
            ) from error

    def _write(self, models: dict[str, InstalledModel]) -> None:
        atomic_write.write_atomically(
            paths.index_file(self._data), self._codec.dump(models.values())
        )


def _distinct(models: list[InstalledModel]) -> tuple[InstalledModel, ...]:
    if len({model.name for model in models}) != len(models):
        raise IndexDamaged("two entries have one name")
    return tuple(models)


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise IndexDamaged("an entry is not an object")
    return value


def _string(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise IndexDamaged(f"an entry has no {key}")
    return value


def _optional(row: Mapping[str, object], key: str) -> str | None:
    return None if row.get(key) is None else _string(row, key)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
