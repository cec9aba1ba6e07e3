"""An image encoder against a model: the check, and its bytes."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core import gguf
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Mmproj
from localllm.core.sizing.mmproj import mmproj_of
from localllm.core.sizing.placement import HOST, DeviceShare, Placement
from localllm.core.sizing.placement.search import place_mmproj
from localllm.errors import GgufError
from tests.engine import fake_vision, tiny

GIB = 2**30


def header(path: Path) -> ModelSpec:
    with path.open("rb") as file:
        return gguf.read(file, path.stat().st_size)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return header(tiny.plain(tmp_path_factory.mktemp("model") / "model.gguf"))


@pytest.fixture
def mmproj(tmp_path: Path) -> ModelSpec:
    return header(fake_vision.llava(tmp_path / "mmproj.gguf", embedding=tiny.WIDTH))


def test_its_weights_are_the_sum_of_its_tensors(mmproj: ModelSpec, model: ModelSpec) -> None:
    found = mmproj_of(mmproj, model, path="x")
    assert found.weights_bytes == sum(tensor.size_bytes for tensor in mmproj.tensors)


def test_one_that_was_made_for_another_model_is_refused(tmp_path: Path, model: ModelSpec) -> None:
    other = header(fake_vision.llava(tmp_path / "mmproj.gguf", embedding=576))
    with pytest.raises(GgufError, match="576 numbers and the model takes 64"):
        mmproj_of(other, model, path="x")


def test_one_that_only_hears_is_refused(mmproj: ModelSpec, model: ModelSpec) -> None:
    deaf = {**mmproj.metadata, "clip.has_vision_encoder": False}
    with pytest.raises(GgufError, match="no encoder for images"):
        mmproj_of(replace(mmproj, metadata=deaf), model, path="x")


@pytest.mark.parametrize("name", ["patch_size", "image_size", "projection_dim"])
def test_a_header_without_what_every_encoder_has_is_refused(
    name: str, mmproj: ModelSpec, model: ModelSpec
) -> None:
    for value in ("", "many", -1, 2**40):
        odd = {**mmproj.metadata, f"clip.vision.{name}": value}
        with pytest.raises(GgufError, match=name):
            mmproj_of(replace(mmproj, metadata=odd), model, path="x")


def test_a_model_is_no_encoder(model: ModelSpec) -> None:
    with pytest.raises(GgufError, match="llama model"):
        mmproj_of(model, model, path="x")


def placement(*, gpu_free: int, host_free: int = 8 * GIB) -> Placement:
    gpu = DeviceShare(
        name="GPU", engine_name="CUDA0", weights_bytes=4 * GIB, layers=9, free_bytes=gpu_free
    )
    host = DeviceShare(name=HOST, overhead_bytes=GIB, free_bytes=host_free)
    return Placement(gpu_layers=9, cpu_moe=0, devices=(gpu, host), layout=(0,))


ENCODER = Mmproj(path="x", weights_bytes=GIB, compute_bytes=GIB // 2)


def test_it_goes_to_the_gpu_that_has_room_for_it() -> None:
    seated, mmproj = place_mmproj(placement(gpu_free=6 * GIB), ENCODER)
    assert mmproj is not None
    assert mmproj.device == "CUDA0"
    assert seated.devices[0].total_bytes == 4 * GIB + ENCODER.size_bytes
    assert seated.fits


def test_it_goes_to_the_host_when_the_gpu_is_full() -> None:
    seated, mmproj = place_mmproj(placement(gpu_free=5 * GIB), ENCODER)
    assert mmproj is not None
    assert mmproj.device is None
    assert seated.host.encoder_bytes == ENCODER.size_bytes
    assert seated.fits


def test_a_load_does_not_fit_when_its_encoder_does_not() -> None:
    seated, _ = place_mmproj(placement(gpu_free=5 * GIB, host_free=2 * GIB), ENCODER)
    assert not seated.fits
