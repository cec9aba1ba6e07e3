"""Adopt what other programs have: by reference, or as hard links; never as copies."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.library.files.names import printable
from localllm.library.scan.found import Found, Passed
from localllm.library.scan.places import Place
from localllm.library.store import index_entry
from localllm.library.store.index_entry import Origin
from localllm.library.store.inspect import encoder_at
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store, remedy


class Fate(StrEnum):
    """What became of a file that was found."""

    ADOPTED = "adopted"
    KNOWN = "known"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One file of one place. `model` is None when it was skipped; `reason` says why it was, or
    what else there is to know."""

    place: Place
    path: Path
    fate: Fate
    model: InstalledModel | None = None
    reason: str | None = None


def sweep(
    store: Store, places: Iterable[Place], *, link: bool = False, dry_run: bool = False
) -> Iterator[Outcome]:
    """Look through `places` and adopt every model that the library does not have.

    A file that cannot be adopted is told and does not stop the others. With `dry_run` nothing is
    changed and `ADOPTED` is what would be. Raises StoreError when the library cannot be read, or
    not be changed.
    """
    if not dry_run:
        store.require_writable()
    would: list[InstalledModel] = []
    for place in places:
        for each in place.models(place.path):
            if isinstance(each, Passed):
                yield Outcome(place=place, path=each.path, fate=Fate.SKIPPED, reason=each.reason)
                continue
            known = (*store.installed(), *would)
            outcome = _look(store, place, each, known, link=link, dry_run=dry_run)
            if dry_run and outcome.fate is Fate.ADOPTED and outcome.model:
                would.append(outcome.model)
            yield outcome


def _look(
    store: Store,
    place: Place,
    found: Found,
    known: tuple[InstalledModel, ...],
    *,
    link: bool,
    dry_run: bool,
) -> Outcome:
    """Decide about one model."""
    skipped = Outcome(place=place, path=found.path, fate=Fate.SKIPPED)
    holder = index_entry.holder_of(found.path, known) or _same_bytes(found, known)
    if holder is not None and (holder.owned or not link or holder.source == "starter"):
        if holder.path == found.path and holder.problem is not None:
            return replace(skipped, reason=f"{holder.name}: {holder.problem}. {remedy(holder)}")
        return replace(skipped, fate=Fate.KNOWN, model=holder)
    try:
        origin, reason = _origin(found)
        if dry_run:
            model = store.preview(found.path, origin, also=known)
        else:
            model = store.adopt(found.path, link=link, origin=origin)
    except LocalLLMError as error:
        return replace(skipped, reason=str(error).rstrip("."))
    return replace(skipped, fate=Fate.ADOPTED, model=model, reason=reason)


def _same_bytes(found: Found, known: tuple[InstalledModel, ...]) -> InstalledModel | None:
    """A model with the same digest that is there, wherever it is."""
    digest = found.sha256s.get(found.path)
    if digest is None:
        return None
    return next((each for each in known if each.sha256 == digest and not each.missing), None)


def _origin(found: Found) -> tuple[Origin, str | None]:
    """Where a model came from, with its encoder; why it goes without, when that is of no use."""
    origin = Origin(source=found.source, sha256s=found.sha256s, name=found.name)
    if found.mmproj is None:
        return origin, None
    try:
        mmproj = encoder_at(found.mmproj)
    except LocalLLMError as error:
        return origin, f"adopted without its encoder: {printable(str(error)).rstrip('.')}"
    return replace(origin, mmproj=origin.with_digest(mmproj)), None
