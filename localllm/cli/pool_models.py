"""What `serve` serves: the models that were named, and all others that are installed, on demand."""

import functools
from collections.abc import Callable
from typing import TypeVar

import click

from localllm.cli.completion import model_names
from localllm.core.text import single_line
from localllm.core.units import parse_bytes, parse_keep_alive, parse_swap_bytes
from localllm.errors import NotFound, UsageError
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.warm_swap import SwapLimits, WarmSwap
from localllm.runtime.runtime import Runtime
from localllm.server.local.pool_models import PoolOptions, pool_models

Result = TypeVar("Result")


_OPTIONS = (
    click.option(
        "--alias",
        "aliases",
        multiple=True,
        metavar="NAME[=MODEL]",
        help="Another name that requests can call MODEL by; without =MODEL, the only one that is "
        "served. Repeatable.",
    ),
    click.option(
        "--keep-alive",
        metavar="TIME",
        callback=lambda _context, _parameter, value: (
            None if value is None else parse_keep_alive(value)
        ),
        help="How long a model stays in memory after its last request: 10m, 300 (seconds), 0, or "
        "-1 for ever (default: that of the settings, else 5m, and for ever of MODELs).",
    ),
    click.option(
        "--pin",
        "pins",
        multiple=True,
        metavar="MODEL",
        shell_complete=model_names,
        help="Never unload this model once it is in memory; repeatable.",
    ),
    click.option(
        "--max-memory",
        metavar="SIZE",
        callback=lambda _c, _p, value: None if value is None else parse_bytes(value),
        help="Memory that all models together may take, such as 8GiB (default: that of the "
        "settings, else what is free).",
    ),
    click.option(
        "--only",
        is_flag=True,
        help="Serve the MODELs alone; load no other installed one on demand.",
    ),
)


def pool_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a verb the options that say how models are kept and named, as one argument `pooled`."""

    @functools.wraps(command)
    def with_pool(
        aliases: tuple[str, ...],
        keep_alive: float | None,
        pins: tuple[str, ...],
        max_memory: int | None,
        only: bool,
        **values: object,
    ) -> Result:
        pooled = PoolOptions(
            aliases=aliases,
            keep_alive_s=keep_alive,
            pins=pins,
            max_memory_bytes=max_memory,
            only=only,
        )
        return command(pooled=pooled, **values)

    for option in reversed(_OPTIONS):
        with_pool = option(with_pool)
    return with_pool


def make_pool(names: tuple[str, ...], options: PoolOptions, user: Settings) -> ModelPool:
    """Make the pool of this machine, with the models of these names.

    Raises UsageError, NotFound.
    """
    check_alone(names, options.choice)
    runtime = Runtime.of_this_machine()
    runtime.max_memory_bytes = options.max_memory_bytes
    if runtime.max_memory_bytes is None and user.max_memory is not None:
        runtime.max_memory_bytes = parse_bytes(user.max_memory)
    chosen = choose_models(runtime, names, only=options.only)
    limits = SwapLimits(
        ram_bytes=parse_swap_bytes(user.warm_swap_ram or "auto"),
        disk_bytes=parse_bytes(user.warm_swap_disk or "0"),
    )
    swap = WarmSwap(runtime, limits, paths.swap_dir())
    return ModelPool(runtime, pool_models(runtime, chosen, options, user), warm_swap=swap)


def check_alone(models: tuple[str, ...], choice: LoadChoice) -> None:
    """Refuse options that belong to one model when there are several. Raises UsageError."""
    if len(models) <= 1:
        return
    if choice.draft is not None:
        raise UsageError("--draft belongs to one model: serve it alone.")
    if choice.chat_template is not None:
        raise UsageError(
            "--chat-template belongs to one model: serve it alone, or name a file for each in the "
            "settings (chat_templates)."
        )
    if choice.loras:
        raise UsageError("--lora belongs to one model: serve it alone.")


def choose_models(
    runtime: Runtime, names: tuple[str, ...], *, only: bool = False
) -> tuple[InstalledModel, ...]:
    """Resolve the names of the models to load at the start; without any, take the only one.

    Raises UsageError for one name twice, and when `only` needs a choice to be made, NotFound.
    """
    if names:
        chosen = tuple(runtime.resolve(name) for name in names)
        twice = {model.name for model in chosen if sum(m.name == model.name for m in chosen) > 1}
        if twice:
            raise UsageError(f"Two of the models have the name {single_line(twice.pop())}.")
        return chosen
    installed = runtime.installed()
    if not installed:
        raise NotFound("No model is installed. Try: localllm import FILE.gguf")
    if len(installed) > 1 and only:
        listed = ", ".join(single_line(model.name) for model in installed)
        raise UsageError(f"Which model? Installed: {listed}. Try: localllm serve NAME --only")
    return installed if len(installed) == 1 else ()
