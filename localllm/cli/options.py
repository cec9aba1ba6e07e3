"""Options that several verbs share, and the values they become."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import (
    FlashAttention,
    KvType,
    LoadSettings,
    Lora,
    Mmproj,
    Pooling,
    Speculate,
)
from localllm.core.sizing.lora import MAX_SCALE
from localllm.library.files import settings

DEFAULT_CONTEXT = 4096
"""Tokens of context when nothing is said; less for a model that was trained with less."""

F = TypeVar("F", bound=Callable[..., object])

MAX_CONTEXT = 2**24
CONTEXT = click.option(
    "--ctx", "context", type=click.IntRange(16, MAX_CONTEXT), metavar="N",
    help=f"Context of one conversation, in tokens (default {DEFAULT_CONTEXT}, at most what the "
    "model was trained for).",
)  # fmt: skip
PARALLEL = click.option(
    "--parallel", type=click.IntRange(1, 256), default=1, metavar="P",
    help="Conversations at the same time; the cache holds P x N tokens (default 1).",
)  # fmt: skip
GPU_LAYERS = click.option(
    "--gpu-layers", metavar="N|auto", callback=lambda _c, _p, value: parse_gpu_layers(value),
    help="Layers on the GPU (default auto: as many as fit).",
)  # fmt: skip
FORCE = click.option("--force", is_flag=True, help="Load even when it does not seem to fit.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
QUIET = click.option("--quiet", is_flag=True, help="No progress on stderr.")
OFFLINE = click.option(
    "--offline", is_flag=True, help="Never use the network: fail at once where it is needed."
)
KV_TYPE = click.option(
    "--kv-type", type=click.Choice([kind.value for kind in KvType]), default="f16",
    help="Element type of the KV cache (default f16).",
)  # fmt: skip
CPU_MOE = click.option(
    "--cpu-moe", type=click.IntRange(0, 10_000), default=0, metavar="N",
    help="Keep the experts of the first N layers in system memory.",
)  # fmt: skip
NO_KV_OFFLOAD = click.option(
    "--no-kv-offload", is_flag=True, help="Keep the KV cache in system memory."
)
BATCH = click.option(
    "--batch", type=click.IntRange(1, 65536), default=2048, help="Logical batch (default 2048)."
)
UBATCH = click.option(
    "--ubatch", type=click.IntRange(1, 65536), default=512, help="Physical batch (default 512)."
)
FLASH_ATTENTION = click.option(
    "--flash-attn", type=click.Choice([mode.value for mode in FlashAttention]), default="auto",
    help="Flash attention (default auto).",
)  # fmt: skip
LORA = click.option(
    "--lora", "loras", multiple=True, metavar="FILE[:SCALE]",
    callback=lambda _c, _p, values: tuple(map(parse_lora, values)),
    help="LoRA adapter to load with the model, and how much it counts for (default 1); repeatable.",
)  # fmt: skip
SPECULATE = click.option(
    "--speculate", type=click.Choice([each.value for each in Speculate]), default="auto",
    help="Guess tokens that the text has had before and check them in one step: where it pays "
    "(auto, the default), never (off), or always (ngram).",
)  # fmt: skip
DRAFT = click.option(
    "--draft", metavar="MODEL",
    help="A smaller model with the same vocabulary, a file or an installed one, that guesses "
    "tokens ahead for MODEL.",
)  # fmt: skip
SWA_FULL = click.option(
    "--swa-full", is_flag=True, help="Full-size cache for sliding-window layers."
)


def parse_gpu_layers(value: str | None) -> int | None:
    """ "auto" or nothing -> None; a number of layers otherwise. Raises click.BadParameter."""
    if value is None or value == "auto":
        return None
    if value.isdecimal() and int(value) <= 10_000:
        return int(value)
    raise click.BadParameter(f"{value!r} is not a number of layers; give 0, 1, 2, ... or auto.")


def parse_lora(value: str) -> Lora:
    """FILE or FILE:SCALE; a name with a colon in it is a file's when there is one of that name.
    Raises click.BadParameter for a scale out of range."""
    name, colon, number = value.rpartition(":")
    if not colon or not name or Path(value).exists():
        return Lora(path=os.path.abspath(value))  # noqa: PTH100  # Path.absolute keeps ".."
    try:
        scale = float(number)
    except ValueError:
        return Lora(path=os.path.abspath(value))  # noqa: PTH100
    if not -MAX_SCALE <= scale <= MAX_SCALE:  # NaN is not
        raise click.BadParameter(f"the scale {number} is not {-MAX_SCALE:g} to {MAX_SCALE:g}.")
    return Lora(path=os.path.abspath(name), scale=scale)  # noqa: PTH100


def default_context(spec: ModelSpec) -> int:
    """The context when none is asked for: that of the settings, else DEFAULT_CONTEXT; the
    training context if that is less."""
    wanted = settings.load().context or DEFAULT_CONTEXT
    return min(wanted, spec.context_train) if spec.context_train > 0 else wanted


def settings_for(
    spec: ModelSpec,
    *,
    context: int | None,
    parallel: int = 1,
    gpu_layers: int | None = None,
    kv_type: KvType = KvType.F16,
    cpu_moe: int = 0,
    kv_offload: bool = True,
    loras: tuple[Lora, ...] = (),
    embeddings: bool = False,
    pooling: Pooling | None = None,
    mmproj: Mmproj | None = None,
    speculate: Speculate = Speculate.OFF,
    draft: Path | None = None,
) -> LoadSettings:
    """The load settings of a verb that has some of these options."""
    return LoadSettings(
        context=context or default_context(spec),
        parallel=parallel,
        gpu_layers=gpu_layers,
        kv_type_k=kv_type,
        kv_type_v=kv_type,
        cpu_moe=cpu_moe,
        kv_offload=kv_offload,
        loras=loras,
        embeddings=embeddings,
        pooling=pooling,
        mmproj=mmproj,
        speculate=Speculate.OFF if embeddings else speculate,
        draft=None if draft is None else str(draft),
    )
