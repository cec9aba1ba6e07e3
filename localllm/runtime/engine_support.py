"""Which models the installed llama.cpp can run at all, by their architecture.

llama.cpp itself is asked (engine/worker/llama/architectures.py), once for each architecture and
build: the answers are cached under the identity of the library's files, so that a list of models
starts no process. Where no engine answers nothing is known, and nothing is claimed.
"""

import asyncio
import json
import os
import re
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path

from localllm.core.gguf.architecture_key import read_architecture
from localllm.core.model.foreign import unknown_architecture
from localllm.engine.builds.candidates import Candidate
from localllm.engine.builds.choice import ExaminedEngine
from localllm.engine.builds.verdict import fingerprint
from localllm.engine.messages import Architectures
from localllm.errors import EngineError, UsageError
from localllm.library.files import file_cache, paths
from localllm.library.store.installed import InstalledModel
from localllm.runtime.engines import find_engine, requested

Ask = Callable[[tuple[str, ...]], Coroutine[None, None, Architectures]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VERSION = "version"  # of the package, beside the architectures


def unsupported(names: Iterable[str]) -> dict[str, str]:
    """Return the architectures that the installed llama.cpp does not run, each with a sentence
    (without its beginning) of what would help. Starts a process for names that are new to it."""
    return asyncio.run(find_unsupported(names))


def unsupported_models(models: Iterable[InstalledModel]) -> dict[str, str]:
    """Return the models that cannot run here, by name, as `unsupported` does."""
    architectures = {model.name: architecture_of(model.path) for model in models}
    problems = unsupported(name for name in architectures.values() if name is not None)
    return {
        model: problems[architecture]
        for model, architecture in architectures.items()
        if architecture in problems
    }


def architecture_of(path: Path) -> str | None:
    """Read the architecture of a GGUF file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return read_architecture(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):
        return None


async def find_unsupported(
    names: Iterable[str], *, ask: Ask | None = None, library: str | None = None
) -> dict[str, str]:
    """As `unsupported`, inside an event loop. `ask` is the engine's `runnable_architectures`,
    `library` the identity of the installed library."""
    wanted = {name for name in names if _NAME.fullmatch(name)}
    if not wanted:
        return {}
    engine = await _known_engine()
    if engine is None:
        return {}
    library = _identity(engine.candidate) if library is None else library
    if not library:
        return {}
    file = paths.architectures_file(paths.cache_dir())
    known = _read(file, library)
    if missing := tuple(sorted(wanted - known.keys())):
        try:
            answer = await (ask or _ask_engine)(missing)
        except (EngineError, TimeoutError, OSError):
            return {}
        known |= {name: name in answer.runnable for name in missing} | {_VERSION: answer.version}
        file_cache.put(file, library, json.dumps(known, sort_keys=True).encode())
    package = f"{engine.candidate.name} {known.get(_VERSION, '')}".strip()
    return {name: unknown_architecture(name, package) for name in wanted if not known[name]}


async def _ask_engine(names: tuple[str, ...]) -> Architectures:
    from localllm.engine.client.client import runnable_architectures

    return await runnable_architectures(names, paths.engine_verdicts_file(), requested())


def _read(file: Path, library: str) -> dict[str, bool | str]:
    try:
        stored = json.loads(file_cache.get(file, library) or b"{}")
    except ValueError:
        return {}
    return stored if isinstance(stored, dict) else {}


async def _known_engine() -> ExaminedEngine | None:
    try:
        return await find_engine()
    except (EngineError, UsageError):
        return None


def _identity(engine: Candidate) -> str:
    """Identify the engine by its files; "" when they cannot be read."""
    try:
        return fingerprint(engine)
    except (EngineError, OSError):
        return ""
