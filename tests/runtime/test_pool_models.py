"""The names by which requests find models: spellings, beginnings, repositories, and never paths."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import NotFound
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.model_pool.pool_model import OnDemand, PoolModels
from localllm.runtime.model_pool.timing import LoadTimes
from tests.library import tiny
from tests.runtime.fake_machine import FakeMachine


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> PoolModels:
    directory = tmp_path_factory.mktemp("models")
    machine = FakeMachine(directory / "library")
    runtime = machine.runtime()
    store = Store(directory / "library")
    for name in ("qwen3-4b-q4_k_m", "qwen3-4b-q8_0", "gemma-3-1b", "lost"):
        store.adopt(tiny.write(directory / f"{name}.gguf", name=name), name=name)
    (directory / "lost.gguf").unlink()
    aliases = {"fast": "gemma-3-1b", "nobody": "no-such", "big": "qwen3-4b:q8_0"}
    on_demand = OnDemand(profiles={"writer": "gemma-3-1b", "none": "no-such"})
    return PoolModels(runtime, (), aliases=aliases, on_demand=on_demand)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gemma-3-1b", "gemma-3-1b"),
        ("GEMMA-3-1B", "gemma-3-1b"),
        ("gemma_3.1b", "gemma-3-1b"),
        ("gemma-3-1b:latest", "gemma-3-1b"),
        ("gem", "gemma-3-1b"),
        ("fast", "gemma-3-1b"),
        ("big", "qwen3-4b-q8_0"),
        ("qwen3-4b:q4_k_m", "qwen3-4b-q4_k_m"),
        ("writer", "writer"),
    ],
)
def test_a_model_is_found_as_people_write_it(models: PoolModels, text: str, name: str) -> None:
    assert models.find(text).name == name


def test_what_is_ambiguous_or_unknown_names_what_there_is(models: PoolModels) -> None:
    with pytest.raises(NotFound, match=r"can mean more than one .* qwen3-4b-q4_k_m, qwen3-4b-q8_0"):
        models.find("qwen3-4b")
    for unknown in ("gpt-4o", "nobody", "lost", "none", ""):
        with pytest.raises(NotFound, match="fast"):
            models.find(unknown)
    assert models.ids()[-2:] == ("fast", "big")
    assert models.aliases_of("gemma-3-1b") == ("fast",)
    assert models.find("writer").model.path == models.find("gemma-3-1b").model.path
    assert models.default is None


def test_no_name_is_read_as_a_path(models: PoolModels) -> None:
    path = models.find("gemma-3-1b").model.path
    relative = Path("..") / path.parent.name / path.name
    for text in (str(path), str(relative), "/etc/passwd", "./gemma-3-1b", "gemma-3-1b/x"):
        with pytest.raises(NotFound, match=r"There is no model `.*` here"):
            models.find(text)


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_any_text_finds_a_model_that_there_is_or_none(models: PoolModels, text: str) -> None:
    try:
        found = models.find(text)
    except NotFound:
        return
    assert models.exact(found.name) == found


@given(small=st.integers(1, 10**7), seconds=st.floats(0.1, 10))
def test_the_load_of_a_small_file_says_nothing_of_a_large_one(small: int, seconds: float) -> None:
    def of_size(size_bytes: int) -> InstalledModel:
        path = Path(f"{size_bytes}.gguf")
        return InstalledModel(name="m", quant=None, path=path, size_bytes=size_bytes)

    times, large = LoadTimes(), of_size(10**9)
    before = times.predict(large)
    times.record(of_size(small), seconds)
    assert times.predict(large) == before
    assert times.predict(of_size(small)).likely == seconds
