"""The library's index: entries <-> JSON lines, on the disk.

One entry a line, each complete in itself: whatever is lost of the file, the other lines can be
read. The file is replaced as a whole under a lock, so two processes and a crash at any point leave
a library that can be read; reading takes no lock and works on a read-only disk.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import LocalLLMError, StoreError
from localllm.library.files import atomic_write, names, paths
from localllm.library.store.installed import InstalledModel, Part
from localllm.library.store.recovery import with_own_files

SCHEMA = 2
"""2 has downloads (`ORG/REPO/FILE` among the owned paths), `mmproj` and `damaged`; 1 is read as it
is."""
_ENTRY = re.compile(r'\{"name":')


class Damaged(ValueError):
    """The text is not an index that we wrote."""


class TooNew(ValueError):
    """A later localllm wrote it: it is not damaged, and not ours to change."""


@dataclass(frozen=True, slots=True)
class Index:
    """The entries of one library, whose directory is `data`.

    The library's own files are written relative to it, so that it can be moved as a whole.
    """

    data: Path

    def dump(self, models: Iterable[InstalledModel]) -> bytes:
        """Write entries, in the order of their names."""
        ordered = sorted(models, key=lambda model: model.name)
        lines = ",\n".join(json.dumps(self._plain(model)) for model in ordered)
        return f'{{"schema": {SCHEMA}, "models": [\n{lines}\n]}}\n'.encode("ascii")

    def parse(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Read an index. Raises Damaged or TooNew."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Damaged(str(error)) from error
        if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
            raise Damaged("it has no schema number")
        if document["schema"] > SCHEMA:
            raise TooNew(f"it has schema {document['schema']}; this version reads {SCHEMA}")
        rows = document.get("models")
        if not isinstance(rows, list):
            raise Damaged("it has no list of models")
        return _distinct([self._entry(row) for row in rows])

    def salvage(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Read every entry that is still whole; of two with one name the first."""
        text = data.decode("utf-8", "replace")
        decoder = json.JSONDecoder()
        found: dict[str, InstalledModel] = {}
        for match in _ENTRY.finditer(text):
            try:
                entry = self._entry(decoder.raw_decode(text, match.start())[0])
            except (ValueError, RecursionError):
                continue
            found.setdefault(entry.name, entry)
        return tuple(found.values())

    def _plain(self, model: InstalledModel) -> dict[str, object]:
        return {
            "name": model.name,
            "quant": model.quant,
            "license": model.license,
            "source": model.source,
            "verified_at": model.verified_at,
            "owned": model.owned,
            "parts": [self._plain_part(part, owned=model.owned) for part in model.files],
            "mmproj": self._plain_part(model.mmproj, owned=model.owned) if model.mmproj else None,
        }

    def _plain_part(self, part: Part, *, owned: bool) -> dict[str, object]:
        return {
            "path": self._own_name(part.path) if owned else str(part.path),
            "size_bytes": part.size_bytes,
            "mtime_ns": part.mtime_ns,
            "sha256": part.sha256,
            **({"damaged": True} if part.damaged else {}),
        }

    def _own_name(self, path: Path) -> str:
        """One of the library's own files: `NAME.gguf` in `models/`, `ORG/REPO/FILE` in `hub/`."""
        hub = paths.hub_dir(self.data)
        return path.relative_to(hub).as_posix() if path.is_relative_to(hub) else path.name

    def _entry(self, value: object) -> InstalledModel:
        row = _mapping(value)
        name, owned = _string(row, "name"), row.get("owned")
        if not names.valid(name) or not isinstance(owned, bool):
            raise Damaged("an entry has no usable name")
        listed = row.get("parts")
        if not isinstance(listed, list) or not listed:
            raise Damaged(f"{name} has no files")
        parts = tuple(self._part(_mapping(part), owned=owned) for part in listed)
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
            mmproj=self._part(_mapping(mmproj), owned=owned) if mmproj is not None else None,
        )

    def _own_file(self, text: str) -> Path:
        try:
            if "/" in text:
                return names.below(paths.hub_dir(self.data), text)
            return names.path_in(paths.models_dir(self.data), text.removesuffix(".gguf"))
        except StoreError as error:
            raise Damaged(str(error)) from error

    def _part(self, row: Mapping[str, object], *, owned: bool) -> Part:
        text = _string(row, "path")
        path = self._own_file(text) if owned else Path(text)
        if not path.is_absolute() or "\0" in text:
            raise Damaged("a file has no usable path")
        size_bytes, mtime_ns = row.get("size_bytes"), row.get("mtime_ns")
        if type(size_bytes) is not int or not isinstance(mtime_ns, int | None) or size_bytes < 0:
            raise Damaged("a file has no size")
        return Part(
            path=path,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
            sha256=_optional(row, "sha256"),
            damaged=row.get("damaged") is True,
        )


def _distinct(models: list[InstalledModel]) -> tuple[InstalledModel, ...]:
    if len({model.name for model in models}) != len(models):
        raise Damaged("two entries have one name")
    return tuple(models)


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Damaged("an entry is not an object")
    return value


def _string(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise Damaged(f"an entry has no {key}")
    return value


def _optional(row: Mapping[str, object], key: str) -> str | None:
    return None if row.get(key) is None else _string(row, key)


class IndexFile:
    """The entries of the library in `data`; `warn` gets a sentence when one had to be mended."""

    def __init__(self, data: Path, *, warn: Callable[[str], None]) -> None:
        self._data = data
        self._index = Index(data)
        self._warn = warn

    def entries(self) -> tuple[InstalledModel, ...]:
        """Every entry; a damaged index is mended first, where it can be. Raises StoreError."""
        data = self._read()
        try:
            return self._parse(data)
        except Damaged:
            pass
        try:
            with self.changing() as models:
                return tuple(models.values())
        except StoreError as error:
            saved = self._index.salvage(data)
            self._warn(
                f"The library's index {paths.index_file(self._data)} is damaged and cannot be"
                f" mended: {error} {len(saved)} of its models can be read."
            )
            return saved

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, InstalledModel]]:
        """Hold the library alone; what the caller makes of its entries is written at the end.

        Raises StoreError when it is in use, cannot be read or cannot be written.
        """
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            with atomic_write.locked(paths.lock_file(self._data)):
                models = {model.name: model for model in self._mended()}
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
                f"The library in {self._data} cannot be changed: {_why(error)}."
                " Its index is as it was."
            ) from error

    def _mended(self) -> tuple[InstalledModel, ...]:
        """Read the index; set a damaged one aside and write what can be read of it."""
        data = self._read()
        try:
            return self._parse(data)
        except Damaged as damage:
            path = paths.index_file(self._data)
            aside = _unused_path(path.with_suffix(".damaged.json"))
            saved = with_own_files(self._index.salvage(data), self._data)
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
            return self._index.dump(())
        except OSError as error:
            raise StoreError(
                f"The library's index {path} cannot be read: {_why(error)}."
            ) from error

    def _parse(self, data: bytes) -> tuple[InstalledModel, ...]:
        """Raises Damaged, and StoreError for an index that a later version wrote."""
        try:
            return self._index.parse(data)
        except TooNew as error:
            path = paths.index_file(self._data)
            raise StoreError(
                f"{path} was written by a later localllm: {error}. Update localllm."
            ) from error

    def _write(self, models: dict[str, InstalledModel]) -> None:
        atomic_write.write_atomically(
            paths.index_file(self._data), self._index.dump(models.values())
        )


def _unused_path(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(each for each in itertools.chain((path,), numbered) if not each.exists())


def _why(error: OSError) -> str:
    return error.strerror or str(error)
