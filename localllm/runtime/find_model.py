"""From what a person types to a model: on this disk, in the catalogue, or on the Hub.

Finding is apart from reading, so that each verb sees where a model is before a header is read or
the Hub is asked. Access to the Hub is passed in: `cli` opens it and says first whom it asks.
"""

import difflib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.core.catalogue.catalogue import Entry
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend.repository_files import USUAL_QUANT
from localllm.core.sizing.load import Mmproj
from localllm.core.text import single_line
from localllm.errors import NotFound, UsageError
from localllm.library.files.catalogue_file import find_entry, read_catalogue
from localllm.library.files.names import printable
from localllm.library.files.references import names_hub, read_reference
from localllm.library.store.companions import usable_mmproj
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store

if TYPE_CHECKING:  # what asks the network takes a moment to import
    from localllm.library.hub.hub import Hub

OpenHub = Callable[[], AbstractContextManager["Hub"]]
"""Open the Hub for a few requests; raises Offline."""

QuantSpecs = tuple[tuple[str, Callable[[], ModelSpec]], ...]
"""Each quant that a model is published in, the largest first, and its header."""

_NEAREST = 5
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery:
    """A model as a person names it: MODEL[:QUANT], --quant and --revision."""

    model: str
    quant: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisk:
    """An installed model, or any GGUF file."""

    model: InstalledModel


@dataclass(frozen=True, slots=True, kw_only=True)
class InCatalogue:
    """An entry of the catalogue, and the quant that was named."""

    entry: Entry
    quant: str | None

    @property
    def repositories(self) -> tuple[str, ...]:
        """The repositories that have its files, the one to take first."""
        return self.entry.repos


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHub:
    """A repository of the Hub, the quant (or the file's name) that was named, and its revision."""

    repository: str
    quant: str | None
    revision: str | None = None

    @property
    def repositories(self) -> tuple[str, ...]:
        return (self.repository,)


Published = InCatalogue | OnHub
"""Where a model can be fetched from; nobody has been asked whether it is there."""


# --- finding ---


def find_model(query: ModelQuery, store: Store) -> OnDisk | Published:
    """Find a usable model on this disk, else one that is published.

    Raises NotFound with the nearest names, UsageError for a quant that is named twice.
    """
    installed = store.look_up(query.model)
    if installed is not None and installed.problem is None:
        return OnDisk(model=installed)
    if names_repository(query.model):
        return find_published(query)
    if (found := _in_catalogue(query)) is not None:
        return found
    return OnDisk(model=store.resolve(query.model))  # says what is missing, or what is wrong


def find_published(query: ModelQuery) -> Published:
    """Find a model to fetch, whatever is on this disk.

    Raises NotFound with the nearest names, UsageError for a name that no repository can have and
    for a quant that is named twice.
    """
    reference = read_reference(query.model, query.quant)
    if reference.on_hub:
        revision = _revision(reference.revision, query.revision)
        return OnHub(repository=reference.name, quant=reference.quant, revision=revision)
    if (found := _in_catalogue(query)) is not None:
        return found
    raise NotFound(_not_in_catalogue(reference.name))


def names_repository(model: str) -> bool:
    """Tell whether MODEL is written as a repository of the Hub, or is a link to one, and no file or
    folder of that name is here."""
    return names_hub(model) and not os.path.lexists(model)


def _revision(linked: str | None, named: str | None) -> str | None:
    """Take the revision of a link or of --revision. Raises UsageError for two that differ."""
    if linked is not None and named not in (None, linked):
        raise UsageError(
            f"The link leads to the revision {single_line(linked)[:_MAX_SHOWN]} and --revision"
            f" names {single_line(named or '')[:_MAX_SHOWN]}. Give one of them."
        )
    return linked or named


def _in_catalogue(query: ModelQuery) -> InCatalogue | None:
    """Find an entry by NAME[:QUANT], or by a name with its size behind the colon ("qwen3:8b").

    Raises UsageError for a quant that is named twice.
    """
    if find_entry(query.model.partition(":")[0]) is None:
        entry = find_entry(query.model) if ":" in query.model else None
        return InCatalogue(entry=entry, quant=query.quant) if entry else None
    reference = read_reference(query.model, query.quant)
    entry = find_entry(reference.name)
    return InCatalogue(entry=entry, quant=reference.quant) if entry else None


def _not_in_catalogue(name: str) -> str:
    names = [entry.name for entry in read_catalogue()]
    starting = [each for each in names if name and each.startswith(name.lower())]
    near = starting or difflib.get_close_matches(
        name.lower()[:_MAX_SHOWN], names, n=_NEAREST, cutoff=0.5
    )
    hint = f"Nearest: {', '.join(near[:_NEAREST])}." if near else "`localllm suggest` lists some."
    shown = printable(name)[:_MAX_SHOWN]
    return (
        f"{shown!r} is not in the catalogue. {hint} Or name a repository of the Hub"
        f" (ORG/REPO); to find one: localllm search {shown or 'TEXT'}"
    )


# --- reading its header ---


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedModel:
    """A model that can be sized: `spec` is the header of one quant.

    `path` is None for a model that is not in one file on this disk; `quants` are those that one
    can choose from; `mmproj` is the image encoder that is loaded with it. `note` says what is not
    exact about it.
    """

    name: str
    quant: str | None
    spec: ModelSpec
    path: Path | None = None
    quants: QuantSpecs = ()
    mmproj: Mmproj | None = None
    note: str | None = None


def read_model(found: OnDisk | Published, query: ModelQuery, open_hub: OpenHub) -> SizedModel:
    """Read, draw or fetch the header of a model that was found.

    Raises UsageError for a quant that the model does not have, GgufError, and what the Hub raises.
    """
    match found:
        case OnDisk(model=model):
            return _read_installed(model, query.quant)
        case InCatalogue(entry=entry, quant=quant):
            return _read_entry(entry, quant)
        case OnHub(repository=repository, quant=quant, revision=revision):
            return _read_repository(repository, quant, revision, open_hub)


def _read_installed(model: InstalledModel, quant: str | None) -> SizedModel:
    if quant is not None and quant.upper() != (model.quant or "").upper():
        raise UsageError(
            f"{model.name} is a file of {model.quant or 'an unknown quant'}; "
            f"--quant {quant} works with names of the catalogue and repositories of the Hub."
        )
    spec = inspect_model(model.path).spec
    mmproj, warnings = usable_mmproj(model, spec)
    return SizedModel(
        name=model.name,
        quant=model.quant,
        spec=spec,
        path=model.path if len(model.files) == 1 else None,
        mmproj=mmproj,
        note=next(iter(warnings), None),
    )


def _read_entry(entry: Entry, quant: str | None) -> SizedModel:
    """Draw the header of an entry's quant; the usual one unless one is named."""
    quant = (quant or usual_quant(entry)).upper()
    try:
        spec = entry.spec(quant)
    except KeyError:
        raise UsageError(
            f"{single_line(quant)} is not a quant. {entry.name} is published as: "
            f"{', '.join(entry.quants)}."
        ) from None
    largest_first = sorted(entry.quants, key=entry.file_bytes, reverse=True)
    quants = tuple((each, partial(entry.spec, each)) for each in largest_first)
    return SizedModel(name=entry.name, quant=quant, spec=spec, quants=quants, mmproj=entry.mmproj)


def usual_quant(entry: Entry) -> str:
    """Return the usual quant where the entry is published so, else the smallest that it is
    published as (gpt-oss is MXFP4 and nothing else)."""
    if USUAL_QUANT in entry.quants:
        return USUAL_QUANT
    return min(entry.quants, key=entry.file_bytes)


def _read_repository(
    repository: str, quant: str | None, revision: str | None, open_hub: OpenHub
) -> SizedModel:
    """Fetch the header of a repository's file: of the usual quant unless one is named."""
    from localllm.runtime.hub_models import offer_of, read_repository, usual_offer

    with open_hub() as hub:
        hub_models = read_repository(hub, repository, revision, quant=quant)
    offers = hub_models.contents.offers
    offer = usual_offer(hub_models) if quant is None else offer_of(hub_models, quant)
    return SizedModel(
        name=single_line(hub_models.repo.name),
        quant=offer.candidate.quant,
        spec=offer.candidate.spec(),
        quants=tuple((each.candidate.quant, each.candidate.spec) for each in offers),
        mmproj=offer.candidate.mmproj,
        note=offer.note,
    )
