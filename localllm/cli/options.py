"""Options that several verbs share, and the values they become.

An option of a load is called like its field of `LoadChoice`: `load_options` gives a verb those that
it has, and the verb gets them as one value. A new option is a field there and a line here.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from localllm.core.sizing.load import (
    DEFAULT_CONTEXT,
    FlashAttention,
    KvType,
    Lora,
    RopeScaling,
    Speculate,
)
from localllm.core.sizing.lora import MAX_SCALE
from localllm.core.units import parse_bytes
from localllm.engine.messages import NO_EFFORT, Effort, Thinking
from localllm.errors import UsageError
from localllm.library.files.settings import MAX_THREADS
from localllm.runtime.load_policy import LoadChoice

Command = TypeVar("Command", bound=Callable[..., object])
Result = TypeVar("Result")
Value = TypeVar("Value", bound=StrEnum)
Option = Callable[[Command], Command]

MAX_CONTEXT = 2**24
MAX_PARALLEL = 256
_PARALLEL = range(1, MAX_PARALLEL + 1)


def one_of(kind: type[StrEnum], *, without: tuple[StrEnum, ...] = ()) -> click.Choice[str]:
    """Make the type of an option whose words are the values of an enum."""
    return click.Choice([each.value for each in kind if each not in without])


def member_of(
    kind: type[Value],
) -> Callable[[click.Context, click.Parameter, str | None], Value | None]:
    """Make the callback that turns the word of `one_of` into the enum's member."""
    return lambda _context, _parameter, value: None if value is None else kind(value)


def true_or_none(_context: click.Context, _parameter: click.Parameter, value: bool) -> bool | None:
    """Turn a flag that is not given into None: it leaves the value to the load policy."""
    return value or None


CONTEXT = click.option(
    "--ctx", "context", type=click.IntRange(16, MAX_CONTEXT), metavar="N",
    help=f"Context of one conversation, in tokens (default {DEFAULT_CONTEXT}, at most what the "
    "model was trained for).",
)  # fmt: skip
PARALLEL = click.option(
    "--parallel", type=click.IntRange(1, MAX_PARALLEL), default=1, metavar="P",
    help="Conversations at the same time; the cache holds P x N tokens (default 1).",
)  # fmt: skip
GPU_LAYERS = click.option(
    "--gpu-layers", metavar="N|auto", callback=lambda _c, _p, value: parse_gpu_layers(value),
    help="Layers on the GPU (default auto: as many as fit).",
)  # fmt: skip
TRUST_GPU = click.option(
    "--trust-gpu", is_flag=True, callback=true_or_none,
    help="Use the GPU without comparing what it computes with the CPU first.",
)  # fmt: skip
FORCE = click.option("--force", is_flag=True, help="Load even when it does not seem to fit.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
QUIET = click.option("--quiet", is_flag=True, help="No progress on stderr.")
OFFLINE = click.option(
    "--offline", is_flag=True, help="Never use the network: fail at once where it is needed."
)
KV_TYPE = click.option(
    "--kv-type", type=one_of(KvType), default="f16", callback=member_of(KvType),
    help="Element type of the KV cache (default f16).",
)  # fmt: skip
CPU_MOE = click.option(
    "--cpu-moe", type=click.IntRange(0, 10_000), default=0, metavar="N",
    help="Keep the experts of the first N layers in system memory.",
)  # fmt: skip
NO_KV_OFFLOAD = click.option(
    "--no-kv-offload", "kv_offload", is_flag=True, callback=lambda _c, _p, value: not value,
    help="Keep the KV cache in system memory.",
)  # fmt: skip
BATCH = click.option(
    "--batch", type=click.IntRange(1, 65536), default=2048, help="Logical batch (default 2048)."
)
UBATCH = click.option(
    "--ubatch", type=click.IntRange(1, 65536), default=512, help="Physical batch (default 512)."
)
FLASH_ATTENTION = click.option(
    "--flash-attn", "flash_attention", type=one_of(FlashAttention), default="auto",
    callback=member_of(FlashAttention), help="Flash attention (default auto).",
)  # fmt: skip
CACHE_RAM = click.option(
    "--cache-ram", metavar="SIZE", callback=lambda _c, _p, value: None if value is None else
    parse_bytes(value),
    help="Memory for conversations that have lost their place in the cache, such as 2GiB, or 0 "
    "(default: half of what is free, 8 GiB at most). It is given back when others need it.",
)  # fmt: skip
LORA = click.option(
    "--lora", "loras", multiple=True, metavar="FILE[:SCALE]",
    callback=lambda _c, _p, values: tuple(map(parse_lora, values)),
    help="LoRA adapter to load with the model, and how much it counts for (default 1); repeatable.",
)  # fmt: skip
SPECULATE = click.option(
    "--speculate", type=one_of(Speculate), default="auto", callback=member_of(Speculate),
    help="Guess tokens that the text has had before and check them in one step: where it pays "
    "(auto, the default), never (off), or always (ngram).",
)  # fmt: skip
DRAFT = click.option(
    "--draft", metavar="MODEL",
    help="A smaller model with the same vocabulary, a file or an installed one, that guesses "
    "tokens ahead for MODEL.",
)  # fmt: skip
ROPE = (
    click.option(
        "--rope-scaling", type=one_of(RopeScaling), callback=member_of(RopeScaling),
        help="Stretch positions for a --ctx beyond what the model was trained for (default: as the "
        "model's file says).",
    ),
    click.option(
        "--rope-scale", type=click.FloatRange(1, 1000), metavar="N",
        help="Factor by which contexts get longer (default: what --ctx needs).",
    ),
    click.option(
        "--rope-freq-base", type=click.FloatRange(0, 1e15, min_open=True), metavar="X",
        help="Base frequency of the rotation (default: the model's).",
    ),
    click.option(
        "--rope-freq-scale", type=click.FloatRange(0.001, 1000), metavar="X",
        help="1 / --rope-scale.",
    ),
    click.option(
        "--yarn-orig-ctx", type=click.IntRange(1, MAX_CONTEXT), metavar="N",
        help="Context that the model was trained for before YaRN (default: as its file says).",
    ),
)  # fmt: skip
THREADS = click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), metavar="N",
    help="Threads to compute with (default: that of the settings, else one for each fast core that "
    "may be used).",
)  # fmt: skip
MMAP = click.option(
    "--mmap/--no-mmap", "mmap", default=None,
    help="Map the model's file, or read it into memory (default: map it, but on a network drive).",
)  # fmt: skip
CHAT_TEMPLATE = click.option(
    "--chat-template", metavar="FILE",
    help="Use the chat template (Jinja) in FILE instead of the model's own.",
)  # fmt: skip
SWA_FULL = click.option(
    "--swa-full", is_flag=True, help="Full-size cache for sliding-window layers."
)


def parse_gpu_layers(value: str | None) -> int | None:
    """Read a number of layers; None for "auto" or nothing. Raises click.BadParameter."""
    if value is None or value == "auto":
        return None
    if value.isdecimal() and int(value) <= 10_000:
        return int(value)
    raise click.BadParameter(f"{value!r} is not a number of layers; give 0, 1, 2, ... or auto.")


def parse_lora(value: str) -> Lora:
    """Read FILE or FILE:SCALE; a name with a colon is a file's when there is one of that name.

    Raises click.BadParameter for a scale out of range.
    """
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


def parse_parallel(value: str | None) -> int | None:
    """Read a number of sequences; None for "auto" or nothing. Raises click.BadParameter."""
    if value is None or value == "auto":
        return None
    if value.isascii() and value.isdecimal() and len(value) <= 3 and int(value) in _PARALLEL:
        return int(value)
    raise click.BadParameter(f"give 1 to {MAX_PARALLEL}, or auto.")


_LOAD_FIELDS = frozenset(field.name for field in fields(LoadChoice))


def load_options(
    *options: Option[Callable[..., Result]], base: LoadChoice
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a verb these options of a load, in this order in its --help.

    The verb gets them as one argument, `choice`: `base` with the options' values.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(command)
        def with_choice(**values: object) -> Result:
            # The options' callbacks have made each value what its field is.
            options: dict[str, Any] = {n: values.pop(n) for n in _LOAD_FIELDS & values.keys()}
            source = click.get_current_context().get_parameter_source
            given = frozenset(n for n in options if source(n) is ParameterSource.COMMANDLINE)
            return command(choice=replace(base, **options, given=given), **values)

        for option in reversed(options):
            with_choice = option(with_choice)
        return with_choice

    return decorate


def thinking_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a verb the switches of a model's thinking.

    It gets them as one argument, `thinking`; None when none was given.
    """
    efforts = [NO_EFFORT, *(each.value for each in Effort)]
    switches = (
        click.option("--think/--no-think", default=None,
                     help="Let a model that can think do so, or not."),
        click.option("--reasoning-effort", type=click.Choice(efforts),
                     help="How much it thinks; none is --no-think."),
        click.option("--reasoning-budget", type=click.IntRange(0), metavar="N",
                     help="End its thinking after N tokens."),
    )  # fmt: skip

    @functools.wraps(command)
    def with_thinking(
        think: bool | None,
        reasoning_effort: str | None,
        reasoning_budget: int | None,
        **values: object,
    ) -> Result:
        if think is True and (reasoning_effort == NO_EFFORT or reasoning_budget == 0):
            raise UsageError("--think cannot go with an effort of none or a budget of 0.")
        given = (think, reasoning_effort, reasoning_budget)
        thinking = Thinking.of_effort(reasoning_effort)
        if think is not None:
            thinking = replace(thinking, enabled=think)
        thinking = replace(thinking, budget=reasoning_budget)
        return command(thinking=None if given == (None,) * 3 else thinking, **values)

    decorated: Callable[..., Result] = with_thinking
    for option in reversed(switches):
        decorated = option(decorated)
    return decorated
