from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import NotFound
from localllm.library.store.installed import FileState
from localllm.library.store.store import Store
from tests.library import tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A library of qwen3-4b, qwen3-8b and llama."""
    store = Store(tmp_path / "data", find_starter=lambda: None)
    for name in ("Qwen3 4B", "Qwen3 8B", "Llama"):
        store.adopt(tiny.write(tmp_path / f"{name}.gguf", name=name))
    return store


@pytest.mark.parametrize(
    ("typed", "name"),
    [("llama", "llama"), ("LLaMA", "llama"), ("l", "llama"), ("qwen3-4", "qwen3-4b")],
)
def test_a_name_or_a_unique_beginning_is_enough(store: Store, typed: str, name: str) -> None:
    assert store.resolve(typed).name == name


def test_a_whole_name_wins_over_longer_ones(tmp_path: Path, store: Store) -> None:
    store.adopt(tiny.write(tmp_path / "more.gguf", name="Llama Guard"))
    assert store.resolve("llama").name == "llama"


def test_an_ambiguous_beginning_lists_the_candidates(store: Store) -> None:
    with pytest.raises(NotFound, match=r"beginning of 2 models: qwen3-4b, qwen3-8b\."):
        store.resolve("qwen")


def test_an_unknown_name_lists_the_nearest(store: Store) -> None:
    with pytest.raises(NotFound, match=r"'qwen-4b'.*Nearest: qwen3-4b"):
        store.resolve("qwen-4b")
    with pytest.raises(NotFound, match=r"'8b'.*Nearest: qwen3-8b"):
        store.resolve("8b")
    with pytest.raises(NotFound, match=r"'zzz'.*Installed: llama, qwen3-4b, qwen3-8b"):
        store.resolve("zzz")


def test_an_empty_library_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none is installed.*localllm import"):
        Store(tmp_path, find_starter=lambda: None).resolve("x")


def test_a_path_is_a_model_of_its_own(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "Other-Model.Q4_K_M.gguf", name="Whatever")
    model = store.resolve(str(file))
    assert (model.path, model.quant, model.source) == (file, "Q4_K_M", "path")
    assert model.name == "other-model.q4_k_m"
    assert model.state is FileState.OK
    assert model not in store.installed()


def test_the_path_of_an_installed_model_is_that_model(tmp_path: Path, store: Store) -> None:
    assert store.resolve(str(tmp_path / "Llama.gguf")) == store.resolve("llama")


def test_a_path_from_here_is_a_path(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path / "here.gguf")
    monkeypatch.chdir(tmp_path)
    assert store.resolve("here.gguf").path == tmp_path / "here.gguf"
    assert store.resolve("./here.gguf").path == tmp_path / "here.gguf"


def test_a_stray_file_does_not_hide_an_installed_name(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama").write_bytes(b"not a model")
    monkeypatch.chdir(tmp_path)
    assert store.resolve("llama").path == tmp_path / "Llama.gguf"


def test_a_file_without_a_suffix_is_found_by_its_bare_name(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path / "sha256-4f2a")
    monkeypatch.chdir(tmp_path)
    assert store.resolve("sha256-4f2a").path == tmp_path / "sha256-4f2a"


def test_a_missing_path_says_so(tmp_path: Path, store: Store) -> None:
    with pytest.raises(NotFound, match=r"There is no file .*nothing\.gguf"):
        store.resolve(str(tmp_path / "nothing.gguf"))
    with pytest.raises(NotFound, match="There is no file org/repo"):
        store.resolve("org/repo")


def test_a_directory_is_no_model(tmp_path: Path, store: Store) -> None:
    with pytest.raises(NotFound, match="is not a file"):
        store.resolve(f"{tmp_path}/")


@settings(deadline=None)
@given(typed=st.text())
def test_nonsense_is_not_found_and_its_escapes_are_not_repeated(typed: str) -> None:
    store = Store(Path("/nonexistent/library"), find_starter=lambda: None)
    try:
        store.resolve(typed)
    except NotFound as error:
        assert "\x1b" not in str(error)
