"""Settings of a load for embeddings, and their memory by llama.cpp's own dry run."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.model.purpose import is_bidirectional, is_embedding_model, is_matryoshka
from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.core.sizing import footprint
from localllm.core.sizing.embedding import own_pooling, with_embedding_defaults
from localllm.core.sizing.load import FlashAttention, LoadSettings, Pooling, Speculate
from localllm.errors import UsageError
from tests.core.dry_run import dry_runs
from tests.core.forge import spec, write
from tests.core.forge_published import EVERY_ATTENTION
from tests.core.forge_recurrent import ENCODER, EVERY_RECURRENT

FORGED = {forged.architecture: forged for forged in (*EVERY_ATTENTION, *EVERY_RECURRENT)}
BERT, LLAMA = spec(ENCODER), spec(FORGED["llama"])
LOADS = (
    LoadSettings(embeddings=True),
    LoadSettings(embeddings=True, context=1024, parallel=4, ubatch=256),
    LoadSettings(
        embeddings=True,
        context=512,
        parallel=2,
        flash_attention=FlashAttention.OFF,
    ),
)


def with_key(known: ModelSpec, key: str, value: MetadataValue | None) -> ModelSpec:
    metadata = {name: each for name, each in known.metadata.items() if name != key}
    return replace(known, metadata=metadata if value is None else metadata | {key: value})


@pytest.mark.parametrize("name", ["bert", "llama", "gemma3", "qwen3", "mamba", "lfm2"])
def test_the_estimate_is_llama_cpps_dry_run(name: str, tmp_path: Path) -> None:
    known, path = spec(FORGED[name]), tmp_path / "model.gguf"
    write(FORGED[name], path)
    loads = [with_embedding_defaults(known, load) for load in LOADS]
    for load, sizes in zip(loads, dry_runs([(path, load) for load in loads]), strict=True):
        assert not isinstance(sizes, str), sizes
        estimate = footprint.of(known, load)
        assert estimate.compute_bytes == pytest.approx(sizes["compute"], rel=0.05)
        # llama.cpp may round a batch up to whole sequences
        assert estimate.output_bytes == pytest.approx(sizes["output"], rel=0.05)
        assert estimate.kv_bytes == pytest.approx(sizes.get("kv", 0), abs=2**14)


def test_an_encoder_reads_a_text_in_one_piece_and_no_longer_one_than_it_learned() -> None:
    load = with_embedding_defaults(
        BERT, LoadSettings(context=4096, embeddings=True, batch=64, ubatch=64)
    )
    assert (load.context, load.batch, load.ubatch) == (512, 512, 512)
    assert load.pooling is Pooling.CLS
    assert with_embedding_defaults(BERT, load) == load


def test_a_decoder_reads_it_in_pieces() -> None:
    requested = LoadSettings(context=8192, embeddings=True, ubatch=256, speculate=Speculate.AUTO)
    load = with_embedding_defaults(LLAMA, requested)
    assert (load.context, load.batch, load.ubatch) == (8192, 256, 256)
    assert (load.pooling, load.speculate) == (Pooling.MEAN, Speculate.OFF)


def test_a_load_that_answers_stays_as_it_is() -> None:
    assert with_embedding_defaults(LLAMA, LoadSettings()) == LoadSettings()


@pytest.mark.parametrize(
    ("value", "pooling"),
    [
        (None, Pooling.MEAN), (0, Pooling.MEAN), (1, Pooling.MEAN), (2, Pooling.CLS),
        (3, Pooling.LAST), (4, Pooling.RANK), (9, Pooling.MEAN), ("cls", Pooling.MEAN),
    ],
)  # fmt: skip
def test_the_header_says_how_it_pools(value: MetadataValue | None, pooling: Pooling) -> None:
    assert own_pooling(with_key(BERT, "bert.pooling_type", value)) is pooling


def test_who_looks_ahead_is_known() -> None:
    assert is_bidirectional(BERT)
    assert not is_bidirectional(LLAMA)
    assert is_bidirectional(with_key(LLAMA, "llama.attention.causal", False))
    assert is_bidirectional(replace(LLAMA, architecture="gemma-embedding"))


def test_ranking_needs_a_classifier() -> None:
    settings = LoadSettings(embeddings=True, pooling=Pooling.RANK)
    with pytest.raises(UsageError, match="no classifier"):
        with_embedding_defaults(BERT, settings)


def test_what_has_no_embeddings_is_said() -> None:
    with pytest.raises(UsageError, match="has no embeddings"):
        with_embedding_defaults(replace(LLAMA, architecture="dream"), LoadSettings(embeddings=True))


def test_only_models_made_for_it_are_embedding_models() -> None:
    assert is_embedding_model(BERT)
    assert not is_embedding_model(LLAMA)
    assert not is_embedding_model(replace(LLAMA, architecture="dream"))


def test_matryoshka_is_a_tag() -> None:
    assert not is_matryoshka(BERT)
    assert is_matryoshka(with_key(BERT, "general.tags", ("en", "Matryoshka-2")))
    assert not is_matryoshka(with_key(BERT, "general.tags", "matryoshka"))
