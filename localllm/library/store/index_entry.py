"""Make the index entry of inspected files: its name, its digests, and the entry that it replaces.

Pure but for one comparison of paths; `store.py` applies the result to the index.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.errors import UsageError
from localllm.library.files import names
from localllm.library.files.model_names import name_candidates
from localllm.library.files.names import printable
from localllm.library.store import starter
from localllm.library.store.inspect import InspectedModel
from localllm.library.store.installed import InstalledFile, InstalledModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where files came from, and what is known of them from there.

    `sha256s` are digests that the origin states (the Hub, a cache's own records), by path: nothing
    was hashed here for them. `name` is the model's name there, used when it is free.
    """

    source: str = "import"
    sha256s: Mapping[Path, str] = field(default_factory=dict)
    mmproj: InstalledFile | None = None
    license: str | None = None
    name: str | None = None

    def with_digest(self, file: InstalledFile) -> InstalledFile:
        """Return a file with the digest that the origin states, if it states one."""
        return replace(file, sha256=self.sha256s.get(file.path, file.sha256))


def new_entry(
    inspected: InspectedModel,
    name: str,
    parts: tuple[InstalledFile, ...],
    *,
    origin: Origin,
    owned: bool,
    verified_at: str | None,
) -> InstalledModel:
    """Make the entry of inspected files whose final places are `parts`."""
    stated = inspected.spec.license or inspected.spec.metadata.get("general.license.name")
    license_ = stated if isinstance(stated, str) else origin.license
    return InstalledModel(
        name=name,
        quant=inspected.quant,
        path=parts[0].path,
        size_bytes=inspected.size_bytes,
        sha256=parts[0].sha256 if len(parts) == 1 else None,
        license=(printable(license_)[:100] or None) if license_ is not None else None,
        source=origin.source,
        verified_at=verified_at,
        parts=parts,
        owned=owned,
        mmproj=origin.mmproj,
    )


def previous_entry(
    inspected: InspectedModel, models: Iterable[InstalledModel]
) -> InstalledModel | None:
    """Return the entry that these files have already, at this path or, when moved, at another.

    A moved file is recognized by size and name, and only while its old place is empty.
    """
    models, first = tuple(models), inspected.parts[0]
    if (entry := entry_at(first.path, models)) is not None:
        return entry
    candidates = set(_candidates(inspected))
    for model in models:
        alike = model.path.name == first.path.name or model.name in candidates
        if model.size_bytes == inspected.size_bytes and alike and not model.owned and model.missing:
            return model
    return None


def entry_at(path: Path, models: Iterable[InstalledModel]) -> InstalledModel | None:
    """Return the entry whose first file is at `path`, or is the same file by another name."""
    models = tuple(models)
    exact = (model for model in models if model.path == path)
    same = (model for model in models if _same_file(model.path, path))
    return next(itertools.chain(exact, same), None)


def choose_name(
    inspected: InspectedModel,
    requested: str | None,
    old: InstalledModel | None,
    models: dict[str, InstalledModel],
    *,
    suggested: str | None = None,
) -> str:
    """Choose the name of adopted files. Raises UsageError when the `requested` name is taken."""
    if requested is None:
        return old.name if old else _unused_name(inspected, {*models, starter.NAME}, suggested)
    other = models.get(requested)
    # The name of files that are gone may be taken over; the library's own are never forgotten so.
    if other is None or other is old or (other.missing and not other.owned):
        return requested
    raise UsageError(
        f"The name {requested} is taken by {printable(other.path)}. Choose another --name, or:"
        f" localllm rm {requested}"
    )


def with_known_digests(
    parts: tuple[InstalledFile, ...], old: InstalledModel
) -> tuple[InstalledFile, ...]:
    """Take over the digests of files that are the same by size and modification time."""
    known = {(p.size_bytes, p.mtime_ns): p.sha256 for p in old.files if not p.damaged}
    return tuple(
        replace(p, sha256=p.sha256 or known.get((p.size_bytes, p.mtime_ns))) for p in parts
    )


def unchanged(parts: tuple[InstalledFile, ...], old: InstalledModel) -> bool:
    """Tell whether these are the files that `old` recorded, by size and modification time."""
    return [(p.size_bytes, p.mtime_ns) for p in parts] == [
        (p.size_bytes, p.mtime_ns) for p in old.files
    ]


def same_digests(parts: tuple[InstalledFile, ...], old: InstalledModel) -> bool:
    """Tell whether every file has the digest that `old` recorded."""
    digests = [part.sha256 for part in parts]
    return None not in digests and digests == [part.sha256 for part in old.files]


def _unused_name(inspected: InspectedModel, taken: Collection[str], suggested: str | None) -> str:
    """Return the best name that no other model has: plain, then with the quant, then numbered."""
    plain = names.slug(suggested or "") or next(_candidates(inspected))
    quant = (inspected.quant or "").lower()
    full = f"{plain}-{quant}" if quant and not plain.endswith(quant) else plain
    numbered = (f"{full}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain((plain, full), numbered) if name not in taken)


def _candidates(inspected: InspectedModel) -> Iterator[str]:
    return name_candidates(inspected.spec, inspected.stem, inspected.parts[0].path.parent)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
