"""The policy that every front end loads by: what was said, the model, and the settings."""

from dataclasses import replace

import pytest

from localllm.core.model.purpose import is_embedding_model
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import (
    DEFAULT_CONTEXT,
    FlashAttention,
    KvType,
    LoadSettings,
    Lora,
    Mmproj,
    Pooling,
    RopeScaling,
    RopeSettings,
    Speculate,
)
from localllm.errors import UsageError
from localllm.library.files.settings import Settings
from localllm.runtime.load_policy import (
    AUTO_PARALLEL,
    CHAT,
    Companions,
    LoadChoice,
    NotGenerative,
    check_purpose,
    choice_for_model,
    context_or_default,
    context_warnings,
    load_candidates,
    load_settings,
)
from tests.core import forge
from tests.core.forge_published import DENSE
from tests.core.forge_recurrent import ENCODER
from tests.runtime.models import SHORT, SHORT_CONTEXT

LLAMA = forge.spec(DENSE[0])
BERT = forge.spec(ENCODER)
OTHER = LoadChoice(
    context=2048, parallel=3, gpu_layers=7, kv_type=KvType.Q8_0, cpu_moe=2, kv_offload=False,
    batch=1024, ubatch=256, flash_attention=FlashAttention.ON, swa_full=True, threads=5,
    speculate=Speculate.NGRAM, cache_ram=2**30,
)  # fmt: skip


def settled(
    choice: LoadChoice,
    spec: ModelSpec = LLAMA,
    settings: Settings | None = None,
    companions: Companions | None = None,
) -> LoadSettings:
    return load_settings(choice, spec, settings or Settings(), companions or Companions())


@pytest.mark.parametrize(
    ("said", "of_settings", "model", "loaded"),
    [
        (None, None, DENSE[0], DEFAULT_CONTEXT),
        (None, 1024, DENSE[0], 1024),
        (None, 8192, DENSE[0], 8192),
        (2048, 1024, DENSE[0], 2048),
        (None, None, SHORT, SHORT_CONTEXT),
        (None, 1024, SHORT, SHORT_CONTEXT),
        (None, 256, SHORT, 256),
        (1024, None, SHORT, 1024),  # who says so gets more than the model was trained for
    ],
)
def test_the_context_is_what_was_said_else_the_settings_else_the_default_within_the_training(
    said: int | None, of_settings: int | None, model: forge.Forged, loaded: int
) -> None:
    choice, settings = replace(CHAT, context=said), Settings(context=of_settings)
    assert settled(choice, forge.spec(model), settings).context == loaded


def test_the_context_of_a_plan_is_decided_in_the_same_order() -> None:
    assert context_or_default(512, Settings(context=1024)) == 512
    assert context_or_default(None, Settings(context=1024)) == 1024
    assert context_or_default(None, Settings()) == DEFAULT_CONTEXT


def test_everything_that_was_said_is_loaded() -> None:
    loaded = settled(OTHER)
    assert loaded == LoadSettings(
        context=2048, parallel=3, gpu_layers=7, kv_type_k=KvType.Q8_0, kv_type_v=KvType.Q8_0,
        cpu_moe=2, kv_offload=False, batch=1024, ubatch=256, flash_attention=FlashAttention.ON,
        swa_full=True, threads=5, speculate=Speculate.NGRAM, cache_ram=2**30,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "of_settings", "loaded"),
    [(None, None, None), (None, "1GiB", 2**30), (None, "auto", None), (0, "1GiB", 0)],
)
def test_memory_for_conversations_without_a_slot_is_what_was_given_else_the_settings(
    given: int | None, of_settings: str | None, loaded: int | None
) -> None:
    user = Settings(cache_ram=of_settings)
    assert settled(LoadChoice(cache_ram=given), settings=user).cache_ram == loaded


def test_a_scaling_of_positions_is_loaded_with_the_factor_that_the_context_needs() -> None:
    trained = LLAMA.context_train
    stretched = LoadChoice(context=4 * trained, rope_scaling=RopeScaling.YARN)
    assert settled(stretched).rope == RopeSettings(scaling=RopeScaling.YARN, freq_scale=0.25)
    by_hand = replace(stretched, rope_scale=8.0, rope_freq_base=2e6, yarn_orig_ctx=2048)
    assert settled(by_hand).rope == RopeSettings(
        scaling=RopeScaling.YARN, freq_base=2e6, freq_scale=1 / 8, yarn_orig_ctx=2048
    )
    with pytest.raises(UsageError, match="--rope-freq-scale"):
        settled(replace(by_hand, rope_freq_scale=0.5))


def test_the_settings_scale_a_model_by_its_name_and_do_not_cap_its_context() -> None:
    longer = 2 * LLAMA.context_train
    user = Settings(context=longer, rope_scaling=(("mine", "yarn"),))
    mine = choice_for_model(LoadChoice(), "mine", user)
    assert settled(mine, settings=user).context == longer
    assert settled(mine, settings=user).rope.freq_scale == 0.5
    other = choice_for_model(LoadChoice(), "other", user)
    assert settled(other, settings=user).context == LLAMA.context_train
    said = LoadChoice(rope_scaling=RopeScaling.NONE)
    assert choice_for_model(said, "mine", user) == said


def test_a_context_beyond_training_is_a_warning_of_the_load() -> None:
    choice = LoadChoice(context=2 * LLAMA.context_train)
    (warning,) = context_warnings(choice, LLAMA, settled(choice), "m")
    assert str(LLAMA.context_train) in warning
    assert context_warnings(LoadChoice(), LLAMA, settled(LoadChoice()), "m") == ()
    long_text = LoadChoice(context=100_000)
    (warning,) = context_warnings(long_text, BERT, settled(long_text, BERT), "m")
    assert f"positions for {BERT.context_train} tokens and none beyond" in warning


def test_companions_are_loaded_as_they_passed_the_gatekeeper() -> None:
    companions = Companions(
        loras=(Lora(path="/a.gguf", scale=0.5, layer_bytes=(1, 2)),),
        mmproj=Mmproj(path="/mmproj.gguf", weights_bytes=3),
        draft_path="/draft.gguf",
    )
    loaded = settled(CHAT, companions=companions)
    assert (loaded.loras, loaded.mmproj) == (companions.loras, companions.mmproj)
    assert loaded.active_draft == "/draft.gguf"


def test_a_micro_batch_is_never_larger_than_its_batch() -> None:
    assert settled(replace(CHAT, batch=64)).ubatch == 64


def test_as_many_sequences_as_fit_are_candidates_and_a_number_is_one() -> None:
    auto = load_candidates(LoadChoice(), LLAMA, Settings(), Companions())
    assert tuple(each.parallel for each in auto) == AUTO_PARALLEL
    (three,) = load_candidates(LoadChoice(parallel=3), LLAMA, Settings(), Companions())
    assert three.parallel == 3


def test_an_embedding_model_is_loaded_for_embeddings_unless_it_must_answer() -> None:
    assert is_embedding_model(BERT)
    loaded = settled(LoadChoice(), BERT)
    assert loaded.embeddings
    assert loaded.pooling is not None
    assert loaded.speculate is Speculate.OFF
    with pytest.raises(NotGenerative, match="is an embedding model") as caught:
        check_purpose(CHAT, BERT, "bert")
    assert caught.value.embeds
    check_purpose(LoadChoice(), BERT, "bert")


def test_a_model_that_answers_is_loaded_for_embeddings_only_when_that_is_said() -> None:
    assert not settled(LoadChoice()).embeddings
    loaded = settled(LoadChoice(embeddings=True, pooling=Pooling.LAST))
    assert (loaded.embeddings, loaded.pooling) == (True, Pooling.LAST)


def test_pooling_belongs_to_embeddings() -> None:
    choice = LoadChoice(pooling=Pooling.CLS)
    with pytest.raises(UsageError, match="--pooling belongs to"):
        check_purpose(choice, LLAMA, "llama")
    check_purpose(choice, BERT, "bert")
    check_purpose(replace(choice, embeddings=True), LLAMA, "llama")
