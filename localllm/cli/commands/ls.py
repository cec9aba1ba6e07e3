"""`localllm ls`: what is installed, and what became of its files."""

import click
from rich.table import Table

from localllm.cli import library_output, options
from localllm.cli.output import literal, print_json, stderr, stdout
from localllm.core.units import format_bytes
from localllm.library.store import starter
from localllm.library.store.installed import FileState, InstalledModel


@click.command(name="ls")
@options.JSON
def command(as_json: bool) -> None:
    """Installed models."""
    models = library_output.library().installed()
    if as_json:
        print_json({"models": [library_output.row(model) for model in models]})
        return
    if models:
        stdout().print(table(models))
    else:
        stderr().print(
            f"No model is installed. Try: {starter.INSTALL}, or localllm import FILE.gguf",
            soft_wrap=True,
        )
    library_output.warn_of_problems(models)


def table(models: tuple[InstalledModel, ...]) -> Table:
    """Draw models as rows."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("NAME", no_wrap=True)
    drawn.add_column("QUANT", no_wrap=True)
    drawn.add_column("SIZE", justify="right", no_wrap=True)
    drawn.add_column("LICENSE", overflow="fold")
    drawn.add_column("SOURCE", overflow="fold")
    drawn.add_column("STATE", no_wrap=True)
    drawn.add_column("VERIFIED", no_wrap=True)
    for model in models:
        good = model.state is FileState.OK
        drawn.add_row(
            literal(model.name),
            literal(model.quant or "unknown"),
            format_bytes(model.size_bytes),
            literal(model.license or "unknown"),
            literal(library_output.source(model)),
            literal(model.state.value, "" if good else "bold yellow"),
            literal(_verified(model) if good else "no"),
        )
    return drawn


def _verified(model: InstalledModel) -> str:
    """The day (UTC) on which all bytes were last found as recorded."""
    return model.verified_at[:10] if model.verified_at else "no"
