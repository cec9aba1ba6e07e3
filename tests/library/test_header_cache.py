"""The cache of installed models' headers."""

import os
from pathlib import Path

import pytest

from localllm.core.sizing import footprint
from localllm.core.sizing.load import LoadSettings
from localllm.core.speed import workload_of
from localllm.errors import GgufError, NotFound
from localllm.library.store import header_cache
from localllm.library.store.header_cache import cached_spec
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import InstalledModel
from tests.library import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALLLM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose headers were read."""
    read: list[Path] = []

    def record(path: Path) -> object:
        read.append(path)
        return inspect_model(path)

    monkeypatch.setattr(header_cache, "inspect_model", record)
    return read


def installed(path: Path) -> InstalledModel:
    return InstalledModel(name="m", quant=None, path=path, size_bytes=path.stat().st_size)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_sizes_and_speeds_are_those_of_the_whole_header(
    name: str, request: pytest.FixtureRequest, inspected: list[Path]
) -> None:
    path: Path = request.getfixturevalue(name)
    whole = inspect_model(path).spec
    first, again = cached_spec(installed(path)), cached_spec(installed(path))
    assert len(inspected) == 1
    for spec in (first, again):
        assert (spec.vocabulary, spec.parameters) == (whole.vocabulary, whole.parameters)
        assert (spec.quant, spec.tensors) == (whole.quant, whole.tensors)
        for settings in (LoadSettings(), LoadSettings(context=9000, parallel=3, mmap=False)):
            assert footprint.of(spec, settings) == footprint.of(whole, settings)
        assert workload_of(spec) == workload_of(whole)


def test_no_text_of_the_file_is_kept(smollm2: Path, cache: Path) -> None:
    cached_spec(installed(smollm2))
    (cached,) = (cache / "sized").iterdir()
    assert cached.stat().st_size < 64 << 10
    assert "tokenizer.chat_template" not in cached.read_text()


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path, inspected: list[Path]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny.header(tiny.MODEL))
    cached_spec(installed(path))
    os.utime(path, ns=(1, 1))
    cached_spec(installed(path))
    assert len(inspected) == 2
    path.write_bytes(b"GGUF")
    with pytest.raises(GgufError):
        cached_spec(installed(path))
    model = installed(path)
    path.unlink()
    with pytest.raises(NotFound):
        cached_spec(model)


@pytest.mark.parametrize("length", [0, 5, 1000])
def test_what_was_damaged_is_made_again(
    smollm2: Path, cache: Path, inspected: list[Path], length: int
) -> None:
    cached_spec(installed(smollm2))
    (cached,) = (cache / "sized").iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(whole[:length])
    assert cached_spec(installed(smollm2)).vocabulary == 49152
    assert len(inspected) == 2
    assert cached.read_bytes() == whole
