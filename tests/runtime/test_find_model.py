"""Where a model is, found by its name: on this disk, in the catalogue, or on the Hub."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from localllm.errors import NotFound, UsageError
from localllm.library.hub.hub import Hub
from localllm.library.store.store import Store
from localllm.runtime.find_model import (
    InCatalogue,
    ModelQuery,
    OnDisk,
    OnHub,
    find_model,
    find_published,
    names_repository,
    read_model,
)
from tests.library import tiny

ENTRY = "qwen3-0.6b"
REPO = "acme/Quince-GGUF"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "library")
    store.adopt(tiny.write(tmp_path / "my-model.gguf", name="My Model"))
    return store


def nobody() -> AbstractContextManager[Hub]:
    raise AssertionError("the Hub was asked")


@pytest.mark.parametrize("name", ["my-model", "my", "MY-MODEL", "starter"])
def test_an_installed_model_is_found_by_its_name_or_the_beginning_of_it(
    store: Store, name: str
) -> None:
    found = find_model(ModelQuery(model=name), store)
    assert isinstance(found, OnDisk)
    assert found.model == store.find(name)


def test_any_file_is_found_by_its_path(store: Store, tmp_path: Path) -> None:
    file = tiny.write(tmp_path / "elsewhere.gguf")
    found = find_model(ModelQuery(model=str(file)), store)
    assert isinstance(found, OnDisk)
    assert (found.model.path, found.model.source) == (file, "path")


@pytest.mark.parametrize(
    ("query", "quant"),
    [
        (ModelQuery(model=ENTRY), None),
        (ModelQuery(model=f"{ENTRY}:Q8_0"), "Q8_0"),
        (ModelQuery(model=ENTRY, quant="Q8_0"), "Q8_0"),
        (ModelQuery(model=f"{ENTRY}:q8_0", quant="Q8_0"), "Q8_0"),
    ],
)
def test_what_is_not_here_is_found_in_the_catalogue(
    store: Store, query: ModelQuery, quant: str | None
) -> None:
    for found in (find_model(query, store), find_published(query)):
        assert isinstance(found, InCatalogue)
        assert (found.entry.name, found.quant) == (ENTRY, quant)
        assert found.repositories == found.entry.repos


def test_what_is_written_as_a_repository_is_on_the_hub(store: Store) -> None:
    query = ModelQuery(model=f"{REPO}:Q4_K_M")
    for found in (find_model(query, store), find_published(query)):
        assert found == OnHub(repository=REPO, quant="Q4_K_M")
        assert found.repositories == (REPO,)


def test_a_directory_of_that_name_is_no_repository(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not names_repository(REPO)
    with pytest.raises(NotFound, match="is not a file"):
        find_model(ModelQuery(model=REPO), store)


def test_a_model_whose_file_is_gone_is_looked_for_elsewhere(store: Store, tmp_path: Path) -> None:
    file = tiny.write(tmp_path / "moved.gguf", name=ENTRY)
    assert store.adopt(file).name == ENTRY
    assert isinstance(find_model(ModelQuery(model=ENTRY), store), OnDisk)
    file.unlink()
    assert isinstance(find_model(ModelQuery(model=ENTRY), store), InCatalogue)
    (tmp_path / "my-model.gguf").unlink()
    with pytest.raises(NotFound, match="cannot be used"):
        find_model(ModelQuery(model="my-model"), store)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("my-modle", "Nearest: my-model"),
        ("/no/such/file.gguf", "There is no file"),
        ("", "No installed model"),
    ],
)
def test_what_is_nowhere_says_what_comes_nearest(store: Store, model: str, message: str) -> None:
    assert store.look_up(model) is None
    with pytest.raises(NotFound, match=message):
        find_model(ModelQuery(model=model), store)


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (ModelQuery(model="qwen3-0.6bb"), NotFound, "Nearest: .*qwen3-0.6b"),
        (ModelQuery(model="my-model"), NotFound, "localllm search my-model"),
        (ModelQuery(model="../../etc"), UsageError, "ORG/REPO"),
        (ModelQuery(model=f"{ENTRY}:Q8_0", quant="Q6_K"), UsageError, "another"),
        (ModelQuery(model=f"{REPO}:"), UsageError, "no quant"),
    ],
)
def test_what_cannot_be_fetched_is_said_before_anybody_is_asked(
    query: ModelQuery, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_published(query)


def test_the_beginning_of_two_models_is_none_of_them(store: Store, tmp_path: Path) -> None:
    store.adopt(tiny.write(tmp_path / "other.gguf", name="My Other"))
    assert store.look_up("my-") is None
    with pytest.raises(NotFound, match="the beginning of 2 models"):
        store.find("my-")


def test_only_a_repository_asks_the_hub(store: Store, smollm2: Path) -> None:
    for model, quant in ((str(smollm2), "Q4_1"), ("starter", "Q4_1"), (ENTRY, "Q4_K_M")):
        query = ModelQuery(model=model)
        sized = read_model(find_model(query, store), query, nobody)
        assert sized.quant in (quant, None)
        assert sized.spec.parameters > 0
        assert (sized.path is None) == (model == ENTRY)
    query = ModelQuery(model=REPO)
    with pytest.raises(AssertionError, match="was asked"):
        read_model(find_model(query, store), query, nobody)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ModelQuery(model="starter", quant="Q8_0"), "starter is a file of Q4_1"),
        (ModelQuery(model=f"{ENTRY}:NONSENSE"), "NONSENSE is not a quant"),
    ],
)
def test_a_quant_that_a_model_does_not_have_is_said(
    store: Store, query: ModelQuery, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_model(find_model(query, store), query, nobody)
