"""The estimate beside llama.cpp's own dry run, over forged headers and a grid of loads."""

import sys
from pathlib import Path

import pytest

from localllm.core.gguf import read
from localllm.core.model.architectures import ARCHITECTURES
from localllm.core.sizing import footprint
from localllm.core.sizing.load import FlashAttention, KvType, LoadSettings, Speculate
from tests.core.dry_run import Sizes, dry_runs
from tests.core.forge import Forged, spec, write
from tests.core.forge_catalogue import catalogued
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import EVERY_RECURRENT

MODELS: tuple[Forged, ...] = (*EVERY_ATTENTION, *EVERY_RECURRENT, *catalogued())
OFF = FlashAttention.OFF
GRID = (
    LoadSettings(),
    LoadSettings(context=32768, ubatch=256),
    LoadSettings(context=1000, parallel=3, ubatch=256),
    LoadSettings(context=4096, parallel=4, kv_unified=True),
    LoadSettings(context=2048, flash_attention=OFF, parallel=2),
    LoadSettings(kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0, context=16384),
    LoadSettings(kv_type_k=KvType.F32, kv_type_v=KvType.F32),
    LoadSettings(swa_full=True, context=16384, ubatch=128),
    LoadSettings(parallel=4, speculate=Speculate.AUTO, draft_max=2),
)
PRINTED_BYTES = 2**20 // 100  # llama.cpp prints MiB with two decimals, and may print two caches


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sizes | str]]:
    """llama.cpp's sizes for every model and load."""
    directory = tmp_path_factory.mktemp("forge")
    paths = {forged.name: directory / f"{forged.name}.gguf" for forged in MODELS}
    for forged in MODELS:
        write(forged, paths[forged.name])
    first = dry_runs([(path, GRID[0]) for path in paths.values()])
    rest = dry_runs(
        [(path, load) for path in paths.values() for load in GRID[1:]], header_only=False
    )
    others = len(GRID) - 1
    return {
        name: [sizes, *rest[i * others : (i + 1) * others]]
        for i, (name, sizes) in enumerate(zip(paths, first, strict=True))
    }


@pytest.mark.parametrize("forged", MODELS, ids=lambda forged: forged.name)
def test_the_estimate_is_llama_cpps_dry_run(
    forged: Forged, results: dict[str, list[Sizes | str]]
) -> None:
    known = spec(forged)
    worst = {"cache": 0.0, "compute": 0.0, "sum": 0.0}
    for load, sizes in zip(GRID, results[forged.name], strict=True):
        assert not isinstance(sizes, str), f"{load}: {sizes}"
        estimate = footprint.of(known, load)
        for kind, size_bytes in (
            ("kv", estimate.kv_bytes),
            ("recurrent", estimate.recurrent_bytes),
            ("output", estimate.output_bytes),
        ):
            assert size_bytes == pytest.approx(sizes.get(kind, 0), abs=PRINTED_BYTES), (kind, load)
        if known.arch.confirmed:
            off = abs(estimate.compute_bytes - sizes["compute"]) / sizes["compute"]
            worst["compute"] = max(worst["compute"], off)
            ours = estimate.weights_bytes + sum(
                (estimate.kv_bytes, estimate.recurrent_bytes, estimate.compute_bytes)
            )
            theirs = estimate.weights_bytes + sum(sizes[k] for k in sizes if k != "output")
            worst["sum"] = max(worst["sum"], abs(ours - theirs) / theirs)
        else:
            assert estimate.needs_probe
    line = f"{forged.name}: compute {worst['compute']:.2%}, sum {worst['sum']:.2%} at worst"
    sys.stdout.write(f"{line}\n")  # shown by pytest -rP
    assert worst["compute"] <= 0.05
    assert worst["sum"] <= 0.02


def test_every_confirmed_architecture_is_in_the_grid() -> None:
    confirmed = {name for name, arch in ARCHITECTURES.items() if arch.confirmed}
    assert {forged.architecture for forged in MODELS} >= confirmed
    assert len({forged.architecture for forged in MODELS}) >= 14


@pytest.mark.parametrize("forged", MODELS, ids=lambda forged: forged.name)
def test_the_parser_reads_what_the_forge_wrote(forged: Forged, tmp_path: Path) -> None:
    path = tmp_path / "forged.gguf"
    write(forged, path)
    with path.open("rb") as stream:
        parsed = read(stream, path.stat().st_size)
    assert parsed.architecture == forged.architecture
    assert parsed.tensors == spec(forged).tensors
    assert footprint.of(parsed, LoadSettings()) == footprint.of(spec(forged), LoadSettings())
