"""What localllm has on this disk: where it lies, what it holds, how large it is, how to erase it.

Only files that localllm made itself are erased, each kind by itself and for good; the models of
other programs and files that were imported stay where they are.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from textual.content import Content

from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.library.files import paths
from localllm.translation import N_, _

_NAME, _SIZE = 16, 10


class Kind(StrEnum):
    """The kinds of files that localllm writes."""

    MODELS = "models"
    CHATS = "chats"
    COLLECTIONS = "collections"
    KEYS = "keys"
    PROMPTS = "prompts"
    BATCHES = "batches"
    CONNECTIONS = "connections"
    MEASUREMENTS = "measurements"
    CACHE = "cache"
    LOGS = "logs"
    SERVER = "server"
    SETTINGS = "settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One kind of what is kept. `holds` says what, `erasable`: a key erases it here."""

    kind: Kind
    name: str
    places: tuple[Path, ...]
    holds: str
    erasable: bool
    size_bytes: int = 0


def kinds() -> tuple[Stored, ...]:
    """List what there can be on this disk."""
    return (*_of_the_person(), *_of_the_program())


def _stored(kind: Kind, name: str, holds: str, *places: Path, erasable: bool = True) -> Stored:
    return Stored(kind=kind, name=name, places=places, holds=holds, erasable=erasable)


def _of_the_person() -> tuple[Stored, ...]:
    """List what the person brought or wrote."""
    data = paths.data_dir()
    return (
        _stored(
            Kind.MODELS,
            N_("models"),
            N_("downloaded models, and links to imported ones; Models removes them"),
            paths.hub_dir(data),
            paths.models_dir(data),
            paths.index_file(data),
            erasable=False,
        ),
        _stored(
            Kind.CHATS,
            N_("your chats"),
            N_("conversations, encrypted"),
            paths.conversations_dir(),
        ),
        _stored(
            Kind.COLLECTIONS,
            N_("documents"),
            N_("the index of collections, encrypted; the documents themselves stay"),
            paths.collections_dir(),
        ),
        _stored(
            Kind.KEYS,
            N_("chat keys"),
            N_("the wrapped keys of chats and documents; they go with these"),
            paths.encryption_keys_file(),
            erasable=False,
        ),
        _stored(
            Kind.PROMPTS,
            N_("prompts"),
            N_("own prompts, presets, and the counts of duels"),
            paths.prompts_dir(),
            paths.presets_file(),
            paths.duels_file(),
        ),
        _stored(
            Kind.BATCHES,
            N_("batches"),
            N_("files that clients gave to the server, and their results"),
            paths.batch_dir(),
        ),
    )


def _of_the_program() -> tuple[Stored, ...]:
    """List what the program made for itself."""
    data, cache = paths.data_dir(), paths.cache_dir()
    return (
        _stored(
            Kind.CONNECTIONS,
            N_("connections"),
            N_("which hosts were asked and when"),
            paths.connections_file(data),
        ),
        _stored(
            Kind.MEASUREMENTS,
            N_("measurements"),
            N_("how fast models are on this machine"),
            paths.measurements_file(data),
            paths.engine_rates_file(data),
        ),
        _stored(
            Kind.CACHE,
            N_("cache"),
            N_("headers, verdicts, saved states of sessions: computed again when needed"),
            cache,
        ),
        _stored(
            Kind.LOGS,
            N_("logs"),
            N_("what engines and the server print; no prompt and no answer"),
            paths.log_dir(),
        ),
        _stored(
            Kind.SERVER,
            N_("server keys"),
            N_("the keys of the local API; clients need new ones afterwards"),
            paths.key_file(),
            paths.keys_file(),
            paths.keys_used_file(),
        ),
        _stored(
            Kind.SETTINGS,
            N_("settings"),
            N_("settings.toml"),
            paths.settings_file(),
            erasable=False,
        ),
    )


def measured(stored: Stored) -> Stored:
    """Return the same with its size on the disk. Blocks."""
    total = sum(map(_size, stored.places))
    if stored.kind is Kind.CACHE:
        total -= _size(paths.log_dir())
    return Stored(
        kind=stored.kind,
        name=stored.name,
        places=stored.places,
        holds=stored.holds,
        erasable=stored.erasable,
        size_bytes=max(total, 0),
    )


def _size(path: Path) -> int:
    """Sum the sizes of a file or of all files below a directory; links are not followed."""
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(_walk(path))
    return 0


def _walk(directory: Path) -> Iterable[int]:
    for root, _directories, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118


def erase_files(stored: Stored) -> None:
    """Delete the files of a kind that nobody has open. Blocks; raises OSError."""
    keep = {paths.log_dir()} if stored.kind is Kind.CACHE else set()
    for place in stored.places:
        if place.is_symlink() or place.is_file():
            place.unlink(missing_ok=True)
        elif stored.kind in (Kind.CACHE, Kind.LOGS) and place.is_dir():
            _empty(place, keep)  # the directory itself may be one that the person made
        elif place.is_dir():
            shutil.rmtree(place)


def _empty(directory: Path, keep: set[Path]) -> None:
    for each in directory.iterdir():
        if each in keep:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink(missing_ok=True)


def stored_lines(stored: Stored, width: int) -> tuple[Content, ...]:
    """Write a kind as one row: name, size, place, and what it holds where there is room."""
    size = format_bytes(stored.size_bytes) if stored.size_bytes else "-"
    place = shortened(stored.places[0])
    line = Content(f"{_(stored.name)[:_NAME]:{_NAME}} {size:>{_SIZE}}  ")
    space = max(width - _NAME - _SIZE - 3, 0)
    text = f"{single_line(place)}   {_(stored.holds)}"
    if len(text) > space and space < len(_(stored.holds)) + len(place) + 3:
        text = _(stored.holds)
    return (line + Content.styled(text, "$text-muted"),)


def shortened(path: Path, home: Callable[[], Path] = Path.home) -> str:
    """Write a path with ~ for the home directory."""
    with contextlib.suppress(RuntimeError, ValueError):
        return str(Path("~") / path.relative_to(home()))
    return str(path)
