"""What MODEL means to verbs that size: any GGUF file, an installed model, a catalogue entry, or a
repository of the Hub."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from localllm.cli.loading import require_answers
from localllm.core.catalogue.catalogue import Entry
from localllm.core.model.spec import ModelSpec
from localllm.core.reference import is_repository, read_reference
from localllm.core.text import single_line
from localllm.errors import NotFound, UsageError
from localllm.library.files.catalogue_file import find_entry
from localllm.library.store.store import Store
from localllm.runtime.runtime import read_spec

DEFAULT_QUANT = "Q4_K_M"
"""What a catalogue entry is sized as when no quant is named and it is published so."""


Sizes = tuple[tuple[str, Callable[[], ModelSpec]], ...]
"""Each quant that a model is published in, the largest first, and its header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model that can be sized. `path` is None for one that is not in one file on this disk;
    `sizes` are the quants that one can choose from. `note` says what is not exact about it."""

    name: str
    quant: str | None
    spec: ModelSpec
    path: Path | None = None
    sizes: Sizes = ()
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What a person asks to be sized: MODEL, and what options say of it."""

    model: str
    quant: str | None = None
    revision: str | None = None
    offline: bool = False


def find_target(store: Store, sought: Sought) -> Target:
    """A path, an installed name or prefix, a catalogue name or a repository of the Hub, the last
    two with an optional `:QUANT`. Only for a repository anybody is asked.

    Raises NotFound with the nearest names, UsageError for a quant that makes no sense here, and
    what the Hub raises.
    """
    try:
        installed = store.resolve(sought.model)
    except NotFound as not_installed:
        target = _in_catalogue(sought) or _on_hub(sought)
        if target is None:
            raise not_installed
        return target
    quant = sought.quant
    if quant is not None and quant.upper() != (installed.quant or "").upper():
        raise UsageError(
            f"{installed.name} is a file of {installed.quant or 'an unknown quant'}; "
            f"--quant {quant} works with names of the catalogue and repositories of the Hub."
        )
    return Target(
        name=installed.name,
        quant=installed.quant,
        spec=read_spec(installed.path),
        path=installed.path if len(installed.files) == 1 else None,
    )


def find_draft(store: Store, name: str | None) -> tuple[str | None, ModelSpec | None]:
    """A draft model's file and what it is; nothing for none. Raises NotFound, GgufError, and
    UsageError for a model that does not continue text."""
    if name is None:
        return None, None
    found = store.resolve(name)
    spec = read_spec(found.path)
    require_answers(spec, found.name)
    return str(found.path), spec


def on_hub(model: str) -> bool:
    """Whether MODEL is written as a repository of the Hub and nothing of this name is here."""
    return is_repository(model.partition(":")[0]) and not os.path.lexists(model)


def default_quant(entry: Entry) -> str:
    """DEFAULT_QUANT where the entry is published so, else the smallest that it is published as
    (gpt-oss is MXFP4 and nothing else)."""
    if DEFAULT_QUANT in entry.quants:
        return DEFAULT_QUANT
    return min(entry.quants, key=entry.file_bytes)


def _in_catalogue(sought: Sought) -> Target | None:
    name, _, _ = sought.model.partition(":")
    entry = find_entry(name)
    if entry is None:
        return None
    wanted = (read_reference(sought.model, sought.quant).quant or default_quant(entry)).upper()
    try:
        spec = entry.spec(wanted)
    except KeyError:
        raise UsageError(
            f"{single_line(wanted)} is not a quant. {entry.name} is published as: "
            f"{', '.join(entry.quants)}."
        ) from None
    largest_first = sorted(entry.quants, key=entry.file_bytes, reverse=True)
    sizes = tuple((quant, partial(entry.spec, quant)) for quant in largest_first)
    return Target(name=entry.name, quant=wanted, spec=spec, sizes=sizes)


def _on_hub(sought: Sought) -> Target | None:
    """A repository's file: the usual quant unless one is named."""
    if not on_hub(sought.model):
        return None
    # Only here: everything that asks the network takes a moment to import.
    from localllm.cli.hub_client import asked
    from localllm.runtime.hub_models import offer_of, read_repository, usual

    named = read_reference(sought.model, sought.quant)
    with asked(offline=sought.offline) as hub:
        hub_models = read_repository(hub, named.name, sought.revision, quant=named.quant)
    offers = hub_models.listing.offers
    offer = usual(hub_models) if named.quant is None else offer_of(hub_models, named.quant)
    return Target(
        name=single_line(hub_models.repo.name),
        quant=offer.candidate.quant,
        spec=offer.candidate.spec(),
        sizes=tuple((each.candidate.quant, each.candidate.spec) for each in offers),
        note=offer.note,
    )
