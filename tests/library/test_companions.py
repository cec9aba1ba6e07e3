from pathlib import Path

import pytest

from localllm.core.sizing.load import Lora
from localllm.errors import GgufError, NotFound, StoreError
from localllm.library.store.companions import inspected_lora
from localllm.library.store.inspect import inspect_model
from tests.engine import forged_lora, tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.plain(tmp_path / "plain.gguf")


def lora_at(path: Path) -> Lora:
    return Lora(path=str(path), scale=0.25)


def test_an_adapter_is_examined_beside_its_model(model: Path, tmp_path: Path) -> None:
    path = forged_lora.forge(tmp_path / "a:1.gguf", model)
    lora = inspected_lora(lora_at(path), inspect_model(model).spec)
    assert (lora.path, lora.scale) == (str(path), 0.25)
    assert lora.size_bytes > 0


def test_a_model_is_no_adapter(model: Path) -> None:
    with pytest.raises(GgufError, match=r"plain\.gguf cannot be used: it is a GGUF of type"):
        inspected_lora(lora_at(model), inspect_model(model).spec)


def test_an_adapter_of_another_model_is_refused(model: Path, tmp_path: Path, smollm2: Path) -> None:
    path = forged_lora.forge(tmp_path / "adapter.gguf", model)
    with pytest.raises(GgufError, match="of another size of it"):
        inspected_lora(lora_at(path), inspect_model(smollm2).spec)


def test_what_is_no_file_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        inspected_lora(lora_at(tmp_path / "none.gguf"), inspect_model(model).spec)
    with pytest.raises(StoreError, match="a directory"):
        inspected_lora(lora_at(tmp_path), inspect_model(model).spec)


def test_a_file_cut_short_never_reaches_native_code(model: Path, tmp_path: Path) -> None:
    path = forged_lora.forge(tmp_path / "adapter.gguf", model)
    whole = path.read_bytes()
    for length in (0, 3, 24, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(GgufError):
            inspected_lora(lora_at(path), inspect_model(model).spec)
