"""Whether another engine runs models than last time, which an upgrade can bring about: said once.

What ran last is kept for each installation of localllm: two of them beside each other, with an
engine each, are no change.
"""

import json
import sys
from collections.abc import Mapping

from localllm.core.text import single_line
from localllm.engine.builds.candidates import VARIABLE, RequestedEngine
from localllm.engine.builds.choice import ExaminedEngine
from localllm.errors import EngineError, UsageError
from localllm.library.files import file_cache, paths
from localllm.runtime.engines import find_engine, requested

_KEYS = ("name", "version", "commit")


async def engine_change() -> str | None:
    """Return a sentence when another engine runs models than last time, and remember it; None when
    it is the same, the first, or a person's own choice."""
    try:
        choice = requested()
        engine = await find_engine()
    except (EngineError, UsageError):  # whoever starts the engine gets the reason
        return None
    if choice is not None and choice.origin == VARIABLE:  # for one command
        return None
    file, now = paths.used_engine_file(paths.cache_dir()), facts_of(engine)
    before = _parse(file_cache.get(file, sys.prefix))
    if before == now:
        return None
    file_cache.put(file, sys.prefix, json.dumps(now).encode())
    return None if before is None else change_of(before, now, choice, engine.reason)


def facts_of(engine: ExaminedEngine) -> dict[str, str]:
    """Return what makes an engine another one: name, version, commit."""
    build = engine.verdict.build
    return {
        "name": engine.candidate.name,
        "version": (build and build.version) or "",
        "commit": (build and build.commit) or "",
    }


def change_of(
    before: Mapping[str, str], now: Mapping[str, str], choice: RequestedEngine | None, reason: str
) -> str | None:
    """Say what has changed; None for another engine that a person has chosen."""
    if choice is not None and before["name"] != now["name"]:
        return None
    return (
        f"Another engine runs models now: {_named(now)} instead of {_named(before)}. {reason} "
        "localllm engine ls shows what there is, engine use chooses."
    )


def _named(engine: Mapping[str, str]) -> str:
    commit = f" (llama.cpp {engine['commit']})" if engine["commit"] else ""
    return single_line(f"{engine['name']} {engine['version']}".strip() + commit)


def _parse(stored: bytes | None) -> dict[str, str] | None:
    try:
        read = json.loads(stored or b"null")
    except ValueError:
        return None
    if not isinstance(read, dict) or {*read} != {*_KEYS}:
        return None
    return {key: str(value) for key, value in read.items()}
