import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from localllm.errors import NotFound
from localllm.library.files.names import spelling_key
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


@pytest.fixture
def spelled(tmp_path: Path) -> Store:
    """A library of one model whose name, file and repository differ, and of two quants of another,
    all from the Hub."""
    store = Store(tmp_path / "data", find_starter=lambda: None)
    for repo, name, file, kind in (
        ("bartowski/Qwen_Qwen3-4B-GGUF", "Qwen3 4B Instruct", "Qwen_Qwen3-4B.Q4_K_M.gguf", 15),
        ("acme/Big-GGUF", "Big", "Big-Q8_0.gguf", 7),
        ("acme/Big-GGUF", "Big", "Big-Q4_0.gguf", 2),
    ):
        path = store.download_path(repo, COMMIT, file, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny.write(path, name=name, file_type=kind)
        store.add_download([path], repo=repo, commit=COMMIT, sha256s={})
    return store


COMMIT = "c" * 40


@pytest.mark.parametrize(
    "typed",
    [
        "qwen3-4b-instruct", "Qwen3-4B-Instruct", "QWEN3_4B_INSTRUCT", "qwen3.4b.instruct",
        "Qwen3 4B Instruct", "qwen3:4b:instruct", "qwen3-4b-instruct.gguf",
        "qwen3-4b-instruct:latest", "qwen3-4b-instruct:q4_k_m", "qwen3-4b-instruct-Q4_K_M",
        "Qwen_Qwen3-4B.Q4_K_M.gguf", "qwen_qwen3-4b", "qwen-qwen3-4b:Q4_K_M", "Qwen_Qwen3-4B-GGUF",
        "qwen_qwen3-4b-q4_k_m", "qwen3-4b", " qwen3-4b-instruct ",
        "bartowski/Qwen_Qwen3-4B-GGUF", "bartowski/qwen_qwen3-4b-gguf:q4_k_m",
        "https://huggingface.co/bartowski/Qwen_Qwen3-4B-GGUF/tree/main",
        "hf.co/bartowski/Qwen_Qwen3-4B-GGUF:Q4_K_M",
        "https://huggingface.co/bartowski/Qwen_Qwen3-4B-GGUF/blob/main/Qwen_Qwen3-4B.Q4_K_M.gguf",
    ],
)  # fmt: skip
def test_every_spelling_that_people_try_finds_a_model(spelled: Store, typed: str) -> None:
    assert spelled.resolve(typed).name == "qwen3-4b-instruct"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("big:q8_0", "big"), ("big-Q4_0", "big-q4_0"), ("big.q4.0", "big-q4_0"), ("Big", "big"),
        ("acme/Big-GGUF:Q4_0", "big-q4_0"), ("hf.co/acme/Big-GGUF:q8-0", "big"),
        ("https://hf.co/acme/Big-GGUF/resolve/main/Big-Q4_0.gguf?download=true", "big-q4_0"),
    ],
)  # fmt: skip
def test_a_quant_behind_a_name_tells_two_apart(spelled: Store, typed: str, name: str) -> None:
    assert spelled.resolve(typed).name == name


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("acme/Big-GGUF", "installed more than once. Name one: big, big-q4_0"),
        ("big-gguf", "installed more than once"),
        ("hf.co/acme/Big-GGUF:Q5_K_M", "localllm pull hf.co/acme/Big-GGUF:Q5_K_M"),
        ("https://huggingface.co/acme/Other", "No model was pulled from https://"),
        ("big:Q5_K_M", "No installed model"),
        ("...", "No installed model"),
    ],
)
def test_what_is_not_clear_is_said(spelled: Store, typed: str, message: str) -> None:
    assert spelled.look_up(typed) is None
    with pytest.raises(NotFound, match=re.escape(message)):
        spelled.resolve(typed)


@given(
    name=st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,3}", fullmatch=True), data=st.data()
)
def test_a_key_does_not_depend_on_case_and_separators(name: str, data: st.DataObject) -> None:
    other = "".join(
        data.draw(st.sampled_from("._-: "))
        if each in "._-"
        else data.draw(st.sampled_from([each, each.upper()]))
        for each in name
    )
    assume(not re.search(r"[._:-](gguf|latest)$", name + "|" + other, re.IGNORECASE))
    assert spelling_key(other) == spelling_key(name)
    assert spelling_key(f"{other}.GGUF") == spelling_key(name)
