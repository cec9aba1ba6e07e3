"""`localllm ls`: what is installed, and what became of its files."""

import click

from localllm.cli import options
from localllm.cli.library_output import (
    model_document,
    model_table,
    open_library,
    unsupported_here,
    warn_of_problems,
    warn_of_unsupported,
)
from localllm.cli.output import info, print_json, stdout
from localllm.library.store import starter


@click.command(name="ls")
@options.JSON
def command(as_json: bool) -> None:
    """Installed models."""
    models = open_library().installed()
    unsupported = unsupported_here(models)
    if as_json:
        print_json(
            {"models": [model_document(each, unsupported.get(each.name)) for each in models]}
        )
        return
    if models:
        stdout().print(model_table(models, unsupported))
    else:
        info(f"No model is installed. Try: {starter.INSTALL}, or localllm import FILE.gguf")
    warn_of_problems(models)
    warn_of_unsupported(unsupported)
