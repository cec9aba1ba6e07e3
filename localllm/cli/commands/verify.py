"""`localllm verify`: prove that models are, byte for byte, what was recorded of them."""

from collections.abc import Sequence

import click
from rich.table import Table

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.library_output import model_document, open_library
from localllm.cli.output import literal, print_json, stdout, warn
from localllm.cli.progress import hashing_bar
from localllm.core.units import format_bytes
from localllm.errors import ExitCode, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.library.store.verify import Verification, verify


@click.command(name="verify")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=model_names)
@click.option("--all", "everything", is_flag=True, help="Every installed model.")
@options.JSON
@options.QUIET
def command(models: Sequence[str], everything: bool, as_json: bool, quiet: bool) -> int:
    """Hash models again and compare them with the recorded SHA-256.

    MODEL is an installed name, the beginning of one, or a path. Nothing is asked of the network:
    for a download the recorded SHA-256 is the one that the Hub published. Where none was recorded
    the first is. Exit status 1 when a file is not what it was.
    """
    store = open_library()
    results = [_verify(model, store, quiet=quiet) for model in _chosen(store, models, everything)]
    if as_json:
        print_json({"models": [_row(result) for result in results]})
    else:
        stdout().print(_table(results))
        for result in results:
            if result.ok is False:
                warn(f"{result.model.name}: {result.detail}")
    reasons = dict.fromkeys(each.unrecorded for each in results if each.unrecorded)
    for reason in reasons:
        warn(f"The result was not recorded. {reason}")
    return ExitCode.FAILED if any(result.ok is False for result in results) else ExitCode.OK


def _chosen(store: Store, models: Sequence[str], everything: bool) -> tuple[InstalledModel, ...]:
    """Choose the models to verify. Raises UsageError when none is named, NotFound."""
    if everything:
        if models:
            raise UsageError("Name models or give --all, not both.")
        return store.installed()
    if not models:
        total_bytes = sum(model.size_bytes for model in store.installed())
        raise UsageError(
            f"Name the models to verify, or give --all to read all {format_bytes(total_bytes)}."
        )
    return tuple({model.path: model for model in map(store.find, models)}.values())


def _verify(model: InstalledModel, store: Store, *, quiet: bool) -> Verification:
    total_bytes = sum(part.size_bytes for part in model.all_files)
    with hashing_bar(model.name, total_bytes, quiet=quiet) as read:
        return verify(model, store, on_read=lambda _, count: read(count))


def _row(result: Verification) -> dict[str, object]:
    return model_document(result.model) | {"ok": result.ok, "detail": result.detail}


def _table(results: Sequence[Verification]) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("NAME", no_wrap=True)
    drawn.add_column("SIZE", justify="right", no_wrap=True)
    drawn.add_column("RESULT", no_wrap=True)
    drawn.add_column("DETAIL", overflow="fold")
    words = {True: "ok", False: "failed", None: "unknown"}
    for result in results:
        drawn.add_row(
            literal(result.model.name),
            format_bytes(result.model.size_bytes),
            literal(words[result.ok], "bold red" if result.ok is False else ""),
            literal("see below" if result.ok is False else result.detail),
        )
    return drawn
