"""A model's way into memory, with a bar on stderr."""

from contextlib import aclosing

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from localllm.core.load import LoadSettings
from localllm.core.text import single_line
from localllm.engine.events import LoadProgress
from localllm.library.store import InstalledModel
from localllm.runtime import ResidentModel, Runtime


async def load_with_progress(
    runtime: Runtime,
    model: InstalledModel,
    settings: LoadSettings,
    *,
    force: bool,
    quiet: bool,
) -> ResidentModel:
    """Load; the bar is gone when it is done and is not drawn where there is no terminal."""
    console = Console(stderr=True, quiet=quiet)
    progress = Progress(
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
