"""Contexts beyond what a model was trained for, and the RoPE scaling that stretches it.

A model has seen positions up to its training context only. Rotated positions (RoPE) can be computed
for any token, and scaled so that far ones look like those it has seen; learned ones end with their
table. The names are llama.cpp's, as are the defaults (`llama_init_from_model`, b11434).
"""

from dataclasses import replace

from localllm.core.model.architecture import Memory, Rope
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import ROPE_OF_HEADER, LoadSettings, RopeScaling, RopeSettings
from localllm.core.text import single_line
from localllm.errors import UsageError


def learned_positions(spec: ModelSpec) -> int | None:
    """Return the number of positions in a model's table of them, beyond which there is nothing to
    look up; None when it computes them."""
    for tensor in spec.tensors:
        if tensor.name == "position_embd.weight" and len(tensor.shape) > 1:
            return tensor.shape[1]
    return None


def rotates(spec: ModelSpec) -> bool:
    """Return True for a model whose positions are rotations, which can be scaled."""
    return (
        spec.arch.rope is not Rope.NO_LAYER
        and spec.arch.memory is not Memory.RECURRENT
        and not spec.value("attention.max_alibi_bias")
        and learned_positions(spec) is None
    )


def with_rope_scaling(spec: ModelSpec, load: LoadSettings) -> LoadSettings:
    """Fill in the factor of a scaling that was asked for without one: what the context needs.

    Also caps the context at the model's table of positions. Raises UsageError for a model without
    rotated positions.
    """
    if (most := learned_positions(spec)) is not None:
        load = replace(load, context=min(load.context, most))
    rope = load.rope
    if rope == ROPE_OF_HEADER:
        return load
    if not rotates(spec):
        raise UsageError(
            f"This model ({spec.architecture}) has no rotated positions (RoPE): leave out "
            "--rope-scaling and the like."
        )
    stretched = rope.scaling in (RopeScaling.LINEAR, RopeScaling.YARN)
    if stretched and rope.freq_scale is None and load.context > spec.context_train > 0:
        factor = _original_context(spec, rope) / load.context
        load = replace(load, rope=replace(rope, freq_scale=factor))
    return load


def trained_context(spec: ModelSpec, rope: RopeSettings) -> int | None:
    """Return the longest context that a model knows positions of, as they are scaled; None where
    that is not known."""
    if spec.context_train <= 0:
        return None
    if rope.scaling is RopeScaling.NONE:
        return _original_context(spec, rope)
    if rope.freq_scale is not None:
        return round(_original_context(spec, rope) / rope.freq_scale)
    return spec.context_train if rope.freq_base is None else None


def _original_context(spec: ModelSpec, rope: RopeSettings) -> int:
    """Return the context before any scaling, also that which the header asks for."""
    if rope.yarn_orig_ctx is not None:
        return rope.yarn_orig_ctx
    kind, factor = spec.value("rope.scaling.type"), spec.value("rope.scaling.factor")
    stated = spec.value("rope.scaling.original_context_length")
    if kind == "yarn" and isinstance(stated, int) and stated > 0:
        return stated
    if kind == "linear" and isinstance(factor, float) and factor > 1:
        return round(spec.context_train / factor)
    return spec.context_train


def context_warning(
    spec: ModelSpec, load: LoadSettings, name: str, *, requested: int | None
) -> str | None:
    """Say what is wrong with a context that is longer than a model can use; None when it is not.

    `requested`: the context of --ctx or the request; None when the policy chose it.
    """
    shown = single_line(name)
    if requested is not None and load.context < requested:
        return (
            f"{shown} has positions for {load.context} tokens and none beyond: that is its "
            f"context, not {requested}."
        )
    trained = trained_context(spec, load.rope)
    if trained is None or load.context <= trained:
        return None
    advice = "Take a smaller --ctx."
    if load.rope.scaling is None and load.rope.freq_scale is None and rotates(spec):
        advice += " Or stretch what it knows, at some cost in quality: --rope-scaling yarn."
    stretched = f", which are stretched to {trained}," if trained != spec.context_train else ""
    return (
        f"{shown} was trained for {spec.context_train} tokens of context{stretched} and gets "
        f"{load.context}: beyond {trained} its answers get worse, further on to nonsense. {advice}"
    )
