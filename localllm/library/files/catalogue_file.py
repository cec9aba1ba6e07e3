"""The catalogue that came with this installation, read from its file.

Reading and checking it takes a fifth of a `suggest`, so what came of it is kept in the cache as
JSON, with a note of everything it was made from; without a cache it is read every time.
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


def read_catalogue() -> tuple[Entry, ...]:
    """Read and check the catalogue. Raises UsageError when it is damaged or not there."""
    path = paths.catalogue_path()
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The catalogue {path} cannot be read ({error}). Install localllm again."
        ) from error
    made_from = _made_from(raw)
    path = paths.catalogue_cache_file()
    if (answer := file_cache.recall(path, made_from)) is not None:
        return json_cache.load_entries(answer)
    entries = catalogue.parse(text)
    file_cache.keep(path, made_from, json_cache.dump_entries(entries))
    return entries


def find_entry(name: str) -> Entry | None:
    """The catalogue's entry of this name, or of the only name that begins so."""
    wanted = name.lower()
    entries = read_catalogue()
    starting = [entry for entry in entries if wanted and entry.name.startswith(wanted)]
    exact = [entry for entry in starting if entry.name == wanted]
    if exact or len(starting) == 1:
        return (exact or starting)[0]
    return None


def _made_from(raw: bytes) -> str:
    """The catalogue, and the code that sizes what is in it as far as its files' times tell:
    whoever works on that code shall not see what the old code said."""
    code = sorted(_sources(Path(localllm.__file__).parent / "core"))
    return f"{localllm.__version__} {len(raw)} {crc32(raw):08x} {crc32(repr(code).encode()):08x}"


def _sources(directory: Path) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(OSError), os.scandir(directory) as found:  # a zip has no directories
        for each in found:
            if each.is_dir():
                yield from _sources(Path(each.path))
            elif each.name.endswith(".py"):
                yield each.path, each.stat().st_mtime_ns
