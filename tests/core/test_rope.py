"""Contexts beyond training, and the scaling that stretches positions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.capacity import largest_context
from localllm.core.sizing.load import ROPE_OF_HEADER, LoadSettings, RopeScaling, RopeSettings
from localllm.core.sizing.placement import Budget
from localllm.core.sizing.rope import (
    context_warning,
    learned_positions,
    rotates,
    trained_context,
    with_rope_scaling,
)
from localllm.errors import UsageError
from tests.core.forge import spec
from tests.core.forge_published import DENSE
from tests.core.forge_recurrent import EVERY_RECURRENT

LLAMA = spec(DENSE[0])
TRAINED = LLAMA.context_train
RECURRENT = {forged.name: spec(forged) for forged in EVERY_RECURRENT}


def header(**keys: object) -> ModelSpec:
    named = {f"{LLAMA.architecture}.{name.replace('__', '.')}": v for name, v in keys.items()}
    return replace(LLAMA, metadata={**LLAMA.metadata, **named})  # type: ignore[dict-item]


def with_table(rows: int) -> ModelSpec:
    first = LLAMA.tensors[0]
    table = replace(first, name="position_embd.weight", shape=(LLAMA.embedding, rows))
    return replace(LLAMA, tensors=(table, *LLAMA.tensors))


def load(context: int, **rope: object) -> LoadSettings:
    return LoadSettings(context=context, rope=RopeSettings(**rope))  # type: ignore[arg-type]


@given(st.integers(1, 64 * TRAINED), st.sampled_from([RopeScaling.LINEAR, RopeScaling.YARN]))
def test_a_scaling_without_a_factor_reaches_the_context(context: int, kind: RopeScaling) -> None:
    filled = with_rope_scaling(LLAMA, load(context, scaling=kind))
    assert filled.context == context
    assert (filled.rope.freq_scale is None) == (context <= TRAINED)
    assert trained_context(LLAMA, filled.rope) == max(context, TRAINED)
    assert context_warning(LLAMA, filled, "m", requested=context) is None


@given(st.integers(1, 64 * TRAINED))
def test_what_is_within_the_training_context_is_not_warned_of(context: int) -> None:
    warning = context_warning(LLAMA, LoadSettings(context=context), "m", requested=context)
    assert (warning is None) == (context <= TRAINED)


def test_the_warning_has_both_numbers_and_a_way_out() -> None:
    warning = context_warning(LLAMA, load(2 * TRAINED), "m\x1b[2J", requested=2 * TRAINED)
    assert warning is not None
    assert f"trained for {TRAINED} tokens of context and gets {2 * TRAINED}" in warning
    assert "--rope-scaling yarn" in warning
    assert "\x1b" not in warning


def test_a_factor_that_is_too_small_is_said() -> None:
    short = with_rope_scaling(LLAMA, load(4 * TRAINED, freq_scale=0.5))
    warning = context_warning(LLAMA, short, "m", requested=4 * TRAINED)
    assert warning is not None
    assert f"stretched to {2 * TRAINED}" in warning
    assert "--rope-scaling" not in warning  # it is scaled already


def test_another_base_frequency_is_taken_as_it_is() -> None:
    based = with_rope_scaling(LLAMA, load(4 * TRAINED, freq_base=4e6))
    assert based.rope == RopeSettings(freq_base=4e6)
    assert context_warning(LLAMA, based, "m", requested=4 * TRAINED) is None


@pytest.mark.parametrize(
    ("keys", "original"),
    [
        ({"rope__scaling__type": "yarn", "rope__scaling__original_context_length": 4096}, 4096),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, TRAINED // 4),
        # Phi's two sets of factors: its whole context is trained
        (
            {"rope__scaling__type": "longrope", "rope__scaling__original_context_length": 4096},
            TRAINED,
        ),
        ({}, TRAINED),
    ],
)
def test_a_header_that_scales_already_is_scaled_from_its_original_context(
    keys: dict[str, object], original: int
) -> None:
    scaled = header(**keys)
    within = with_rope_scaling(scaled, load(TRAINED, scaling=RopeScaling.YARN))
    assert within.rope.freq_scale is None  # as the header says
    beyond = with_rope_scaling(scaled, load(2 * TRAINED, scaling=RopeScaling.YARN))
    assert beyond.rope.freq_scale == original / (2 * TRAINED)
    off = load(TRAINED, scaling=RopeScaling.NONE)
    assert trained_context(scaled, off.rope) == original
    own = replace(beyond.rope, yarn_orig_ctx=1000, freq_scale=None)
    filled = with_rope_scaling(scaled, replace(beyond, rope=own))
    assert filled.rope.freq_scale == 1000 / (2 * TRAINED)


def test_learned_positions_end_with_their_table() -> None:
    gpt2 = with_table(1024)
    assert learned_positions(gpt2) == 1024
    capped = with_rope_scaling(gpt2, LoadSettings(context=4096))
    assert capped.context == 1024
    warning = context_warning(gpt2, capped, "m", requested=4096)
    assert warning is not None
    assert "positions for 1024 tokens and none beyond" in warning
    assert largest_context(gpt2, capped, Budget(host_bytes=2**40), beyond_training=True) == 1024


@pytest.mark.parametrize(
    "model",
    [
        with_table(1024),
        header(attention__max_alibi_bias=8.0),
        RECURRENT["mamba-2.8b"],
        RECURRENT["RWKV-7-Goose-1.5B"],
        RECURRENT["Nemotron-H-8B"],
    ],
)
def test_a_model_without_rotations_has_nothing_to_scale(model: ModelSpec) -> None:
    assert not rotates(model)
    with pytest.raises(UsageError, match="no rotated positions"):
        with_rope_scaling(model, load(512, scaling=RopeScaling.YARN))
    assert with_rope_scaling(model, load(512)).rope == ROPE_OF_HEADER


def test_the_largest_context_follows_the_scaling() -> None:
    room = Budget(host_bytes=2**40)
    assert largest_context(LLAMA, load(512), room) == TRAINED
    assert largest_context(LLAMA, load(512, freq_scale=0.25), room) == 4 * TRAINED
    beyond = largest_context(LLAMA, load(512), room, beyond_training=True)
    assert beyond is not None
    assert beyond > 4 * TRAINED
