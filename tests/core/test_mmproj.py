"""An image encoder against a model: the check, and its bytes."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core import gguf
from localllm.core.hardware import Backend
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.capacity import largest_context
from localllm.core.sizing.load import LoadSettings, Mmproj
from localllm.core.sizing.mmproj import mmproj_of
from localllm.core.sizing.placement import Budget, GpuBudget, Placement, place
from localllm.errors import GgufError
from tests.core.forge import spec
from tests.core.forge_published import EVERY_ATTENTION
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


ENCODER = Mmproj(path="x", weights_bytes=GIB, compute_bytes=GIB // 2)
LLAMA = spec(next(forged for forged in EVERY_ATTENTION if forged.name == "Llama-3.1-8B"))


def seated(gpu_gib: float, host_gib: float, **gpu: object) -> tuple[Placement, Mmproj]:
    card = GpuBudget(
        name="GPU", engine_name="GPU0", backend=Backend.METAL, free_bytes=int(gpu_gib * GIB)
    )
    room = Budget(host_bytes=int(host_gib * GIB), gpus=(replace(card, **gpu),))  # type: ignore[arg-type]
    settings = LoadSettings(mmproj=ENCODER)
    placement = place(LLAMA, settings, room)
    mmproj = placement.applied_to(settings).mmproj
    assert mmproj is not None
    return placement, mmproj


ALONE = place(LLAMA, LoadSettings(), Budget(host_bytes=64 * GIB, gpus=(
    GpuBudget(name="GPU", engine_name="GPU0", backend=Backend.METAL, free_bytes=64 * GIB),
)))  # fmt: skip
ON_GPU, ON_HOST = (share.total_bytes / GIB for share in ALONE.devices)


def test_it_goes_to_the_gpu_that_has_room_for_it() -> None:
    placement, mmproj = seated(ON_GPU + 1.5, 1)
    assert mmproj.device == "GPU0"
    assert placement.devices[0].total_bytes == ALONE.devices[0].total_bytes + ENCODER.size_bytes
    assert placement.fits


def test_it_goes_to_the_host_when_the_gpu_is_full() -> None:
    placement, mmproj = seated(ON_GPU + 1.4, 8)
    assert mmproj.device is None
    assert placement.host.encoder_bytes == ENCODER.size_bytes
    assert placement.fits


def test_a_load_does_not_fit_when_its_encoder_does_not() -> None:
    assert not seated(ON_GPU + 1, ON_HOST + 1)[0].fits


def test_on_unified_memory_it_is_taken_from_the_hosts_bytes_too() -> None:
    both = ON_GPU + ON_HOST + 1.5
    assert seated(64, both + 0.01, unified=True)[0].fits
    assert not seated(64, both - 0.01, unified=True)[0].fits
    # but for what is set aside for the GPU
    set_aside = {"unified": True, "dedicated_bytes": int((ON_GPU + 1.5) * GIB) + 1}
    placement, mmproj = seated(64, ON_HOST + 0.01, **set_aside)
    assert placement.fits
    assert mmproj.device == "GPU0"


def test_the_largest_context_leaves_room_for_it() -> None:
    room = Budget(host_bytes=12 * GIB)
    without = largest_context(LLAMA, LoadSettings(), room)
    with_it = largest_context(LLAMA, LoadSettings(mmproj=ENCODER), room)
    assert without is not None
    assert with_it is not None
    assert with_it < without
