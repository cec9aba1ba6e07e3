"""A load that would abort llama.cpp is refused before, and no other: its dry run is the judge."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.embedding import with_embedding_defaults
from localllm.core.sizing.load import FlashAttention, KvType, LoadSettings
from localllm.errors import UsageError
from tests.core.dry_run import Sizes, dry_runs
from tests.core.forge import Forged, spec, write
from tests.core.forge_models import heads, model
from tests.core.forge_published import DENSE

PHI_4 = next(forged for forged in DENSE if forged.name == "Phi-4")
ABORTED = "llama.cpp aborted"
TYPES = (
    (KvType.F16, KvType.F16, FlashAttention.AUTO),
    (KvType.Q8_0, KvType.Q8_0, FlashAttention.AUTO),
    (KvType.Q4_0, KvType.F16, FlashAttention.AUTO),
    (KvType.F16, KvType.IQ4_NL, FlashAttention.AUTO),
    (KvType.F16, KvType.F16, FlashAttention.OFF),
    (KvType.Q8_0, KvType.F16, FlashAttention.OFF),
)
LOADS = tuple(
    LoadSettings(
        context=512,
        parallel=parallel,
        kv_unified=unified,
        kv_type_k=keys,
        kv_type_v=values,
        flash_attention=attention,
    )
    for (keys, values, attention), (parallel, unified) in product(
        TYPES, ((1, True), (2, True), (2, False))
    )
)


def fused(layers: int) -> Forged:
    """Phi-4 with as many layers, and narrow."""
    return model(
        f"phi-{layers}",
        "phi3",
        1000,
        lambda i: [
            ("attn_norm.weight", (512,)),
            ("attn_qkv.weight", (512, 768)),
            ("attn_output.weight", (512, 512)),
            ("ffn_norm.weight", (512,)),
            ("ffn_up.weight", (512, 2048)),
            ("ffn_down.weight", (1024, 512)),
        ],
        width=512,
        layers=layers,
        feed_forward=1024,
        context=16384,
        keys=heads(4, 1, 128),
    )


def refused(known: ModelSpec, load: LoadSettings) -> bool:
    try:
        footprint.of(known, load)
    except UsageError:
        return True
    return False


def results(forged: Forged, loads: tuple[LoadSettings, ...], path: Path) -> list[Sizes | str]:
    write(forged, path)
    return dry_runs([(path, load) for load in loads])


@pytest.mark.parametrize("layers", [32, 39, 40, 41, 42, 43])
def test_exactly_what_aborts_is_refused(layers: int, tmp_path: Path) -> None:
    forged = fused(layers)
    for load, result in zip(LOADS, results(forged, LOADS, tmp_path / "m.gguf"), strict=True):
        assert refused(spec(forged), load) == (result == ABORTED), load


def test_phi_4_with_a_cache_for_each_of_two_is_refused_with_a_way_out(tmp_path: Path) -> None:
    load = LoadSettings(parallel=2, kv_unified=False, kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0)
    with pytest.raises(UsageError, match=r"would abort.* f16") as caught:
        footprint.of(spec(PHI_4), load)
    assert "40 layers" in str(caught.value)
    assert results(PHI_4, (load,), tmp_path / "phi-4.gguf") == [ABORTED]


def test_where_one_cache_each_is_too_much_all_conversations_have_one() -> None:
    load = LoadSettings(parallel=2, kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0)
    assert with_embedding_defaults(spec(PHI_4), load) == replace(load, kv_unified=True)
    for other in (LoadSettings(parallel=2), replace(load, parallel=1)):
        assert with_embedding_defaults(spec(PHI_4), other) == other


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (
            LoadSettings(kv_type_v=KvType.Q8_0, flash_attention=FlashAttention.OFF),
            "flash attention",
        ),
        (LoadSettings(kv_type_k=KvType.Q8_0), "blocks of 32 values"),
    ],
)
def test_what_llama_cpp_refuses_by_itself_is_refused_here_too(
    load: LoadSettings, words: str, tmp_path: Path
) -> None:
    odd = model(
        "odd heads",
        "llama",
        1000,
        lambda i: [
            ("attn_norm.weight", (480,)),
            ("attn_q.weight", (480, 480)),
            ("attn_k.weight", (480, 480)),
            ("attn_v.weight", (480, 480)),
            ("attn_output.weight", (480, 480)),
            ("ffn_norm.weight", (480,)),
            ("ffn_gate.weight", (480, 960)),
            ("ffn_up.weight", (480, 960)),
            ("ffn_down.weight", (960, 480)),
        ],
        width=480,
        layers=2,
        feed_forward=960,
        context=4096,
        keys=heads(6, 6, 80),
    )
    with pytest.raises(UsageError, match=words):
        footprint.of(spec(odd), load)
    (result,) = results(odd, (load,), tmp_path / "odd.gguf")
    assert isinstance(result, str)
    assert result != ABORTED
