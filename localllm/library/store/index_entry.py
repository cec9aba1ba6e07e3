"""From files that passed every check to an entry of the index: its name, its digests, and which
entry these files had before."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.errors import UsageError
from localllm.library.files import names
from localllm.library.files.names import printable
from localllm.library.store import starter
from localllm.library.store.inspect import InspectedModel
from localllm.library.store.installed import InstalledModel, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where files came from, and what was said of them there.

    `sha256s` are digests that the place states (the Hub, a cache's own records), by path; nobody
    hashed the files here for them. `name` is what they are called there, used when it is free.
    """

    source: str = "import"
    sha256s: Mapping[Path, str] = field(default_factory=dict)
    mmproj: Part | None = None
    license: str | None = None
    name: str | None = None

    def with_digest(self, part: Part) -> Part:
        """A file with the digest that was stated of it, if one was."""
        return replace(part, sha256=self.sha256s.get(part.path, part.sha256))


def entry_of(
    found: InspectedModel,
    name: str,
    parts: tuple[Part, ...],
    *,
    origin: Origin,
    owned: bool,
    verified_at: str | None,
) -> InstalledModel:
    """Make the entry of examined files whose final places are `parts`."""
    stated = found.spec.license or found.spec.metadata.get("general.license.name")
    license_ = stated if isinstance(stated, str) else origin.license
    return InstalledModel(
        name=name,
        quant=found.quant,
        path=parts[0].path,
        size_bytes=found.size_bytes,
        sha256=parts[0].sha256 if len(parts) == 1 else None,
        license=(printable(license_)[:100] or None) if license_ is not None else None,
        source=origin.source,
        verified_at=verified_at,
        parts=parts,
        owned=owned,
        mmproj=origin.mmproj,
    )


def earlier(found: InspectedModel, models: Iterable[InstalledModel]) -> InstalledModel | None:
    """The entry that these files have already, under this path or, when moved, another."""
    models, first = tuple(models), found.parts[0]
    if (holder := holder_of(first.path, models)) is not None:
        return holder
    called = set(names.candidates(found.spec, found.stem))
    for model in models:
        alike = model.path.name == first.path.name or model.name in called
        if model.size_bytes == found.size_bytes and alike and not model.owned and model.missing:
            return model
    return None


def holder_of(path: Path, models: Iterable[InstalledModel]) -> InstalledModel | None:
    """The entry whose first file is at `path`, or is the same file by another name."""
    models = tuple(models)
    exact = (model for model in models if model.path == path)
    same = (model for model in models if _same_file(model.path, path))
    return next(itertools.chain(exact, same), None)


def name_for(
    found: InspectedModel,
    wanted: str | None,
    old: InstalledModel | None,
    models: dict[str, InstalledModel],
    *,
    suggested: str | None = None,
) -> str:
    """What adopted files are called. Raises UsageError when the `wanted` name is taken."""
    if wanted is None:
        return old.name if old else _unused(found, {*models, starter.NAME}, suggested)
    holder = models.get(wanted)
    if holder is None or holder is old or (holder.missing and not holder.owned):
        return wanted
    raise UsageError(
        f"The name {wanted} is taken by {printable(holder.path)}. Choose another --name, or:"
        f" localllm rm {wanted}"
    )


def with_digests_of(parts: tuple[Part, ...], old: InstalledModel) -> tuple[Part, ...]:
    """Keep the digests of files that are the same by size and modification time."""
    known = {(p.size_bytes, p.mtime_ns): p.sha256 for p in old.files if not p.damaged}
    return tuple(
        replace(p, sha256=p.sha256 or known.get((p.size_bytes, p.mtime_ns))) for p in parts
    )


def unchanged(parts: tuple[Part, ...], old: InstalledModel) -> bool:
    """Whether these are the files that `old` recorded, by size and modification time."""
    return [(p.size_bytes, p.mtime_ns) for p in parts] == [
        (p.size_bytes, p.mtime_ns) for p in old.files
    ]


def same_bytes(parts: tuple[Part, ...], old: InstalledModel) -> bool:
    """Whether they have the digests that `old` recorded, every one."""
    digests = [part.sha256 for part in parts]
    return None not in digests and digests == [part.sha256 for part in old.files]


def _unused(found: InspectedModel, taken: Collection[str], suggested: str | None) -> str:
    """The best name that no other model has: plain, then with the quant, then numbered."""
    plain = names.slug(suggested or "") or next(names.candidates(found.spec, found.stem))
    quant = (found.quant or "").lower()
    full = f"{plain}-{quant}" if quant and not plain.endswith(quant) else plain
    numbered = (f"{full}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain((plain, full), numbered) if name not in taken)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
