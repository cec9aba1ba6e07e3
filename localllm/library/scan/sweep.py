"""Adopt the models of other programs: by reference, or as hard links; never as copies."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.library.files.names import printable
from localllm.library.scan.found import FoundModel, SkippedFile
from localllm.library.scan.places import Place
from localllm.library.store import index_entry
from localllm.library.store.index_entry import Origin
from localllm.library.store.inspect import inspect_mmproj
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store, remedy


class ScanStatus(StrEnum):
    """The fate of a file that was found: adopted, in the library already, or skipped."""

    ADOPTED = "adopted"
    KNOWN = "known"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """The result for one file of one place.

    `model` is None when the file was skipped; `reason` says why, or what else there is to know.
    """

    place: Place
    path: Path
    status: ScanStatus
    model: InstalledModel | None = None
    reason: str | None = None


def sweep(
    store: Store, places: Iterable[Place], *, link: bool = False, dry_run: bool = False
) -> Iterator[ScanResult]:
    """Adopt every model in `places` that the library does not have; yield a result for each file.

    A file that cannot be adopted does not stop the others. With `dry_run` nothing is changed and
    `ADOPTED` is what would be. Raises StoreError when the library cannot be read or changed.
    """
    if not dry_run:
        store.require_writable()
    previewed: list[InstalledModel] = []
    for place in places:
        for each in place.models(place.path):
            if isinstance(each, SkippedFile):
                yield ScanResult(
                    place=place, path=each.path, status=ScanStatus.SKIPPED, reason=each.reason
                )
                continue
            known = (*store.installed(), *previewed)
            result = _adopt(store, place, each, known, link=link, dry_run=dry_run)
            if dry_run and result.status is ScanStatus.ADOPTED and result.model:
                previewed.append(result.model)
            yield result


def _adopt(
    store: Store,
    place: Place,
    found: FoundModel,
    known: tuple[InstalledModel, ...],
    *,
    link: bool,
    dry_run: bool,
) -> ScanResult:
    """Adopt one model, unless the library has it."""
    skipped = ScanResult(place=place, path=found.path, status=ScanStatus.SKIPPED)
    entry = index_entry.entry_at(found.path, known) or _same_digest(found, known)
    # With `link` a model that is known only by reference is adopted again, as a hard link.
    if entry is not None and (entry.owned or not link or entry.source == "starter"):
        if entry.path == found.path and entry.problem is not None:
            return replace(skipped, reason=f"{entry.name}: {entry.problem}. {remedy(entry)}")
        return replace(skipped, status=ScanStatus.KNOWN, model=entry)
    try:
        origin, reason = _origin(found)
        if dry_run:
            model = store.preview(found.path, origin, also=known)
        else:
            model = store.adopt(found.path, link=link, origin=origin)
    except LocalLLMError as error:
        return replace(skipped, reason=str(error).rstrip("."))
    return replace(skipped, status=ScanStatus.ADOPTED, model=model, reason=reason)


def _same_digest(found: FoundModel, known: tuple[InstalledModel, ...]) -> InstalledModel | None:
    """Return a model with the same digest whose files exist, wherever they are."""
    digest = found.sha256s.get(found.path)
    if digest is None:
        return None
    return next((each for each in known if each.sha256 == digest and not each.missing), None)


def _origin(found: FoundModel) -> tuple[Origin, str | None]:
    """Return a model's origin with its mmproj, or without one and why."""
    origin = Origin(source=found.source, sha256s=found.sha256s, name=found.name)
    if found.mmproj is None:
        return origin, None
    try:
        mmproj = inspect_mmproj(found.mmproj)
    except LocalLLMError as error:
        return origin, f"adopted without its encoder: {printable(str(error)).rstrip('.')}"
    return replace(origin, mmproj=origin.with_digest(mmproj)), None
