"""Load a model with a bar on stderr, and say what it lacks before and after."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    TextColumn,
)
from rich.progress import Progress as Bars

from localllm.core.model.purpose import why_not_generative
from localllm.core.model.spec import ModelSpec
from localllm.core.quality.quality import cache_loss
from localllm.core.sizing.load import LoadSettings, Mmproj
from localllm.core.text import single_line
from localllm.engine.messages import LoadProgress
from localllm.errors import LocalLLMError, UsageError
from localllm.library.store.companions import default_mmproj, why_no_vision
from localllm.library.store.inspect import mmproj_for
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import ResidentModel, Runtime, read_spec


def require_answers(spec: ModelSpec, name: str) -> None:
    """Raise UsageError for a model that does not continue text (an encoder, a reranker)."""
    if (instead := why_not_generative(spec)) is not None:
        raise UsageError(
            f"{single_line(name)} ({spec.architecture}) is {instead}. "
            "This verb needs a model that answers; `localllm ls` lists what is installed."
        )


def require_vision(model: InstalledModel) -> Mmproj:
    """The encoder for images. Raises UsageError for a model that has none here."""
    mmproj = default_mmproj(model)
    if mmproj is None:
        raise UsageError(why_no_vision(model))
    return mmproj


def mmproj_if_any(model: InstalledModel, spec: ModelSpec) -> Mmproj | None:
    """The encoder of a model that has one; what is wrong with it is said, and the model answers
    text without it."""
    mmproj = default_mmproj(model)
    if mmproj is None:
        return None
    try:
        return mmproj_for(Path(mmproj.path), spec)
    except LocalLLMError as error:
        click.echo(single_line(f"{error} {model.name} answers, but sees no images."), err=True)
        return None


async def load_with_progress(
    runtime: Runtime,
    model: InstalledModel,
    settings: LoadSettings,
    *,
    force: bool,
    quiet: bool,
) -> ResidentModel:
    """Load; the bar is gone when it is done and is not drawn where there is no terminal.

    A cache type that can change answers is named first, with what that is published to cost.
    """
    if not quiet:
        await _say_loss(model, settings)
    console = Console(stderr=True, quiet=quiet)
    progress = Bars(
        TextColumn("Loading {task.fields[name]}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with progress:
        task = progress.add_task("load", total=1.0, name=single_line(model.name))
        async with aclosing(runtime.load(model, settings, force=force)) as events:
            async for event in events:
                if isinstance(event, LoadProgress):
                    progress.update(task, completed=event.fraction)
                else:
                    return event
    raise AssertionError("a load ends with its resident model")


async def _say_loss(model: InstalledModel, settings: LoadSettings) -> None:
    keys, values = settings.kv_type_k, settings.kv_type_v
    if cache_loss("", keys, values) is None:
        return  # most loads: the file is not read for this
    spec = await asyncio.to_thread(read_spec, model.path)
    if (loss := cache_loss(spec.architecture, keys, values)) is not None:
        click.echo(single_line(loss), err=True)
