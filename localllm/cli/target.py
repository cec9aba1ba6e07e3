"""What MODEL means to verbs that size: an installed file, any GGUF file, a catalogue entry."""

from dataclasses import dataclass
from pathlib import Path

from localllm.core.catalogue import Entry
from localllm.core.model import ModelSpec
from localllm.core.text import single_line
from localllm.errors import NotFound, UsageError
from localllm.library.catalogue_file import find_entry
from localllm.library.store import Store
from localllm.runtime import read_spec

DEFAULT_QUANT = "Q4_K_M"
"""What a catalogue entry is sized as when no quant is named and it is published so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model that can be sized. `path` is None for one that is not on this disk; `entry` is the
    catalogue's, when it was found there."""

    name: str
    quant: str | None
    spec: ModelSpec
    path: Path | None = None
    entry: Entry | None = None


def find_target(store: Store, model: str, quant: str | None) -> Target:
    """A path, an installed name or prefix, or a catalogue name with an optional `:QUANT`.

    Raises NotFound with the nearest names, UsageError for a quant that makes no sense here.
    """
    try:
        installed = store.resolve(model)
    except NotFound as not_installed:
        target = _in_catalogue(model, quant)
        if target is None:
            raise not_installed
        return target
    if quant is not None and quant.upper() != (installed.quant or "").upper():
        raise UsageError(
            f"{installed.name} is a file of {installed.quant or 'an unknown quant'}; "
            f"--quant {quant} works with names of the catalogue."
        )
    return Target(
        name=installed.name,
        quant=installed.quant,
        spec=read_spec(installed.path),
        path=installed.path,
    )


def default_quant(entry: Entry) -> str:
    """DEFAULT_QUANT where the entry is published so, else the smallest that it is published as
    (gpt-oss is MXFP4 and nothing else)."""
    if DEFAULT_QUANT in entry.quants:
        return DEFAULT_QUANT
    return min(entry.quants, key=entry.file_bytes)


def _in_catalogue(model: str, quant: str | None) -> Target | None:
    name, _, named = model.partition(":")
    entry = find_entry(name)
    if entry is None:
        return None
    if quant is not None and named and quant.upper() != named.upper():
        raise UsageError(f"{single_line(model)} names one quant and --quant {quant} another.")
    wanted = (quant or named or default_quant(entry)).upper()
    try:
        spec = entry.spec(wanted)
    except KeyError:
        raise UsageError(
            f"{single_line(wanted)} is not a quant. {entry.name} is published as: "
            f"{', '.join(entry.quants)}."
        ) from None
    return Target(name=entry.name, quant=wanted, spec=spec, entry=entry)
