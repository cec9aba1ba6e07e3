"""The libraries of one build, loaded into this process, and the search for their functions.

A process holds one build: the one that `engine/builds` chooses, loaded by the first import of
`llama`. Nothing is loaded that somebody else could have changed.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from localllm.engine.builds.candidates import Candidate, chosen_candidate
from localllm.engine.builds.library_files import MTMD, LibraryFiles, linked_backends
from localllm.engine.builds.permissions import permission_problem
from localllm.errors import EngineUnavailable

_NOT_FOUND_ON_WINDOWS = ("CUDA_PATH", "HIP_PATH")
"""Variables of toolkits whose libraries a build may need; Windows looks for none on the PATH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """A loaded build: handles by role, in the order in which they were loaded, and why those that
    it can do without were not."""

    candidate: Candidate
    handles: Mapping[str, ctypes.CDLL]
    problems: Mapping[str, str]

    def handle(self, role: str) -> ctypes.CDLL:
        """Return the library of a role. Raises EngineUnavailable."""
        if role in self.handles:
            return self.handles[role]
        reason = self.problems.get(role)
        raise EngineUnavailable(
            f"The engine {self.candidate.name} has no {role} library"
            f"{f' that can be loaded: {reason}' if reason else ''}"
        )


@cache
def loaded() -> Libraries:
    """Load the chosen build, once. Raises EngineUnavailable with the system's reason."""
    candidate = chosen_candidate()
    files = candidate.files()
    try:
        problem = permission_problem(files.all_files())
    except OSError as error:
        problem = f"{error.filename} cannot be read: {error.strerror}"
    if problem is not None:
        raise EngineUnavailable(f"The engine {candidate.name} is not trusted: {problem}")
    for directory in dll_directories(files, os.environ) if sys.platform == "win32" else ():
        _add_dll_directory(directory)
    handles: dict[str, ctypes.CDLL] = {}
    problems: dict[str, str] = {}
    for role, path in files.libraries.items():
        try:
            handles[role] = _load(path, files)
        except OSError as error:
            problems[role] = str(error).removeprefix(f"{path}: ")
            if role == MTMD:  # answers text without it
                continue
            raise EngineUnavailable(f"{path} cannot be loaded: {problems[role]}") from error
    _load_modules(handles, files.modules)
    return Libraries(candidate=candidate, handles=handles, problems=problems)


def dll_directories(files: LibraryFiles, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the directories in which Windows has to look for what the libraries need."""
    toolkits = (
        Path(environment[name]) / directory
        for name in _NOT_FOUND_ON_WINDOWS
        if name in environment
        for directory in ("bin", "lib")
    )
    modules = () if files.modules is None else (files.modules,)
    return tuple(dict.fromkeys((*files.directories, *modules, *toolkits)))


def _add_dll_directory(directory: Path) -> None:
    if sys.platform == "win32":
        with suppress(OSError):  # a toolkit that is gone
            _dll_directories.append(os.add_dll_directory(str(directory)))


_dll_directories: list[object] = []
"""Windows forgets a directory when its object goes."""


def _load(path: Path, files: LibraryFiles) -> ctypes.CDLL:
    """Load a library. Those it needs are found by the names that it states when they were loaded
    before; linked backends are loaded only for a build that does not find them itself."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        for backend in linked_backends(files.directories, sys.platform):
            with suppress(OSError):
                ctypes.CDLL(str(backend))
        return ctypes.CDLL(str(path))


def _load_modules(handles: Mapping[str, ctypes.CDLL], modules: Path | None) -> None:
    """Let ggml load its backends where none is linked (GGML_BACKEND_DL): of the variants of one
    that lie beside each other it takes the best for this processor."""
    ggml = handles["ggml"]
    try:
        count, load = ggml.ggml_backend_reg_count, ggml.ggml_backend_load_all_from_path
    except AttributeError:
        return  # `check` names every function that is missing
    count.restype, load.restype = ctypes.c_size_t, None
    load.argtypes = [ctypes.c_char_p]
    if count():
        return
    if modules is None:
        raise EngineUnavailable(
            "This build of llama.cpp loads its backends at run time, and none lies beside it "
            "(ggml-cpu): name the directory that holds both."
        )
    os.environ.pop("GGML_BACKEND_PATH", None)  # ggml would load that library, which nobody examined
    load(os.fsencode(modules))
    if not count():
        raise EngineUnavailable(f"No backend of {modules} can be loaded: none runs here.")


class Functions:
    """Declares C functions; remembers those that no library has, for one message about all."""

    def __init__(self, *roles: str) -> None:
        """Look for functions in the libraries of these roles, in this order: only Linux and macOS
        find a function in a library that another one needs."""
        handles = loaded().handles
        self._libraries = [handles[role] for role in roles if role in handles]
        self._missing: list[str] = []

    def __call__(
        self, name: str, result: type | None, *arguments: type
    ) -> "ctypes._NamedFuncPointer | ctypes._CFunctionType":
        """Declare a function: its name, the type of its result, and those of its arguments."""
        for library in self._libraries:
            with suppress(AttributeError):
                function = library[name]
                function.restype = result
                function.argtypes = list(arguments)
                return function
        self._missing.append(name)
        return ctypes.CFUNCTYPE(result, *arguments)()  # never called: `check` raises

    def check(self) -> None:
        """Raise EngineUnavailable when a function was missing."""
        if self._missing:
            first, more = ", ".join(self._missing[:5]), len(self._missing) - 5
            raise EngineUnavailable(
                f"The engine {loaded().candidate.name} lacks functions: {first}"
                f"{f' and {more} more' if more > 0 else ''}. It is too old, too new, or built "
                "without them."
            )
