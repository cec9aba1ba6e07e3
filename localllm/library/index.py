"""The library's index as text: entries <-> JSON, and what can still be read of a damaged one.

One entry a line, each complete in itself: whatever is lost of the file, the other lines can be
read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import StoreError
from localllm.library import names, paths
from localllm.library.installed import InstalledModel, Part

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
            "mmproj": self._plain_part(model.encoder, owned=model.owned) if model.encoder else None,
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
        encoder = row.get("mmproj")
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
            encoder=self._part(_mapping(encoder), owned=owned) if encoder is not None else None,
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
