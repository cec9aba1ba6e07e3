"""Which models this llama.cpp runs: asked of it, cached by the library's files, never guessed."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.gguf.architecture_key import read_architecture
from localllm.core.model.architectures import ARCHITECTURES
from localllm.core.model.foreign import is_image_model
from localllm.engine.client.client import runnable_architectures
from localllm.engine.messages import Architectures
from localllm.errors import EngineUnavailable
from localllm.runtime import engine_support
from localllm.runtime.engine_support import find_unsupported
from tests.library import tiny

RUNS_HERE = ("llama", "qwen2", "qwen", "bert", "phi3", "gpt-oss", "gemma3")
NOT = ("superllm9", "flux", "gptoss", "mllama", "unknown", "lama", "oss", "clip9")


async def test_llama_cpp_itself_tells_which_it_runs() -> None:
    answer = await runnable_architectures((*RUNS_HERE, *NOT))
    assert set(answer.runnable) == set(RUNS_HERE)
    assert answer.version[0].isdigit()


async def test_every_architecture_of_our_table_can_be_asked_for() -> None:
    answer = await runnable_architectures(tuple(ARCHITECTURES))
    assert len(answer.runnable) > 140
    assert "gptj" not in answer.runnable  # it has a name there and no code


class Asked:
    """An engine that knows llama and counts its questions."""

    def __init__(self, error: Exception | None = None) -> None:
        self.names: list[tuple[str, ...]] = []
        self.error = error

    async def __call__(self, names: tuple[str, ...]) -> Architectures:
        self.names.append(names)
        if self.error is not None:
            raise self.error
        runnable = tuple(name for name in names if name == "llama")
        return Architectures(runnable=runnable, version="1.2.3")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALLLM_CACHE_DIR", str(tmp_path / "cache"))


async def test_an_answer_is_kept_for_this_library_and_no_other() -> None:
    asked = Asked()
    for _ in range(2):
        found = await find_unsupported(("llama", "new"), ask=asked, library="a")
        assert found.keys() == {"new"}
        assert "llama-cpp-python 1.2.3" in found["new"]
    assert asked.names == [("llama", "new")]
    await find_unsupported(("llama", "newer"), ask=asked, library="a")
    assert asked.names[1:] == [("newer",)]
    await find_unsupported(("new",), ask=asked, library="b")
    assert asked.names[2:] == [("new",)]


async def test_nothing_is_claimed_where_no_engine_answers() -> None:
    asked = Asked(EngineUnavailable("no"))
    assert await find_unsupported(("new",), ask=asked, library="a") == {}
    assert await find_unsupported(("new",), ask=Asked(), library="") == {}


async def test_what_no_header_can_say_is_not_asked() -> None:
    asked = Asked()
    assert await find_unsupported(("", "a b", "x" * 65, "\x1b[2J"), ask=asked, library="a") == {}
    assert asked.names == []


def test_an_architecture_is_read_from_the_first_bytes(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "m.gguf", name="M")
    assert engine_support.architecture_of(path) == "llama"
    assert engine_support.architecture_of(tmp_path / "none") is None
    path.write_bytes(path.read_bytes()[:20])
    assert engine_support.architecture_of(path) is None


@given(st.binary(max_size=200))
def test_any_bytes_give_a_name_or_none(raw: bytes) -> None:
    for start in (b"", b"GGUF\3\0\0\0" + bytes(8) + b"\5" + bytes(7)):
        stream = start + raw
        found = read_architecture(io.BytesIO(stream), len(stream))
        assert found is None or isinstance(found, str)


def test_no_image_model_has_a_row_of_its_own() -> None:
    assert not any(is_image_model(name) for name in ARCHITECTURES)
