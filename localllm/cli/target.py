"""What MODEL means to verbs that size: an installed file, any GGUF file, a catalogue entry."""

from dataclasses import dataclass
from pathlib import Path

from localllm.core import catalogue
from localllm.core.catalogue import Entry
from localllm.core.model import ModelSpec
from localllm.core.text import single_line
from localllm.errors import NotFound, UsageError
from localllm.library import paths
from localllm.library.store import Store
from localllm.runtime import read_spec

DEFAULT_QUANT = "Q4_K_M"
"""What a catalogue entry is sized as when no quant is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model that can be sized. `path` is None for one that is not on this disk."""

    name: str
    quant: str | None
    spec: ModelSpec
    path: Path | None = None


def read_catalogue() -> tuple[Entry, ...]:
    """The catalogue that came with this installation. Raises UsageError when it is damaged."""
    path = paths.catalogue_path()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The catalogue {path} cannot be read ({error}). Install localllm again."
        ) from error
    return catalogue.parse(text)


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


def catalogue_entry(name: str) -> Entry | None:
    """The catalogue's entry of this name, or of the only name that begins so."""
    wanted = name.lower()
    entries = read_catalogue()
    starting = [entry for entry in entries if wanted and entry.name.startswith(wanted)]
    exact = [entry for entry in starting if entry.name == wanted]
    if exact or len(starting) == 1:
        return (exact or starting)[0]
    return None


def _in_catalogue(model: str, quant: str | None) -> Target | None:
    name, _, named = model.partition(":")
    entry = catalogue_entry(name)
    if entry is None:
        return None
    if quant is not None and named and quant.upper() != named.upper():
        raise UsageError(f"{single_line(model)} names one quant and --quant {quant} another.")
    wanted = (quant or named or DEFAULT_QUANT).upper()
    try:
        spec = entry.spec(wanted)
    except KeyError:
        raise UsageError(
            f"{single_line(wanted)} is not a quant. {entry.name} is published as: "
            f"{', '.join(entry.quants)}."
        ) from None
    return Target(name=entry.name, quant=wanted, spec=spec)
