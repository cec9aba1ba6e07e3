"""Load the catalogue that came with this installation.

Parsing and checking it takes a fifth of a `suggest`, so the result is cached as JSON; without a
cache it is parsed every time.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import localllm
from localllm.core.catalogue import catalogue, json_cache
from localllm.core.catalogue.catalogue import Entry
from localllm.errors import UsageError
from localllm.library.files import file_cache, paths
from localllm.library.files.names import spelling_key
from localllm.policy.active import active_policy


def read_catalogue() -> tuple[Entry, ...]:
    """Return the checked catalogue: the policy's, if it names one, else localllm's own.

    Raises UsageError when it is damaged or missing.
    """
    named = active_policy().catalogue_file
    path = paths.catalogue_path() if named is None else Path(named)
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        advice = "Install localllm again."
        if named is not None:
            advice = "The policy names it (catalogue.file): ask the administrator."
        raise UsageError(f"The catalogue {path} cannot be read ({error}). {advice}") from error
    cache_path, key = paths.catalogue_cache_file(), _cache_key(raw)
    if (cached := file_cache.get(cache_path, key)) is not None:
        return json_cache.load_entries(cached)
    entries = catalogue.parse(text)
    file_cache.put(cache_path, key, json_cache.dump_entries(entries))
    return entries


def find_entry(name: str) -> Entry | None:
    """Return the entry of this name in any spelling, else the only one whose name begins so; None
    without one."""
    prefix = spelling_key(name)
    entries = read_catalogue()
    matches = [entry for entry in entries if prefix and spelling_key(entry.name).startswith(prefix)]
    exact = [entry for entry in matches if spelling_key(entry.name) == prefix]
    if exact or len(matches) == 1:
        return (exact or matches)[0]
    return None


def _cache_key(raw: bytes) -> str:
    """Identify the catalogue and the code that sizes its models, by the code's modification times:
    who works on that code must not get the old code's results."""
    code = sorted(_sources(Path(localllm.__file__).parent / "core"))
    return f"{localllm.__version__} {len(raw)} {crc32(raw):08x} {crc32(repr(code).encode()):08x}"


def _sources(directory: Path) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(OSError), os.scandir(directory) as found:  # a zip has no directories
        for each in found:
            if each.is_dir():
                yield from _sources(Path(each.path))
            elif each.name.endswith(".py"):
                yield each.path, each.stat().st_mtime_ns
