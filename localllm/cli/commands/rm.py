"""`localllm rm`: take a model out of the library; a file that we only refer to stays."""

import sys

import click

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.library_output import model_document, open_library
from localllm.cli.output import info, print_json
from localllm.core.units import format_bytes
from localllm.errors import UsageError
from localllm.library.files.names import printable
from localllm.library.store.hard_links import Removal
from localllm.library.store.installed import InstalledModel


@click.command(name="rm")
@click.argument("model", metavar="MODEL", shell_complete=model_names)
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.JSON
def command(model: str, yes: bool, as_json: bool) -> None:
    """Remove a model from the library.

    MODEL is its whole name. Files that were imported where they are stay there; downloads and
    hard links of the library are deleted unless another model uses them.
    """
    store = open_library()
    if not yes:
        _confirm(store.named(model))
    removed = store.remove(model)
    if as_json:
        print_json(
            {
                "models": [model_document(removed.model)],
                "freed_bytes": removed.freed_bytes,
                "deleted": [str(path) for path in removed.deleted],
                "kept": [{"path": str(path), "used_by": name} for path, name in removed.still_used],
            }
        )
    else:
        info(_summary(removed))


def _confirm(model: InstalledModel) -> None:
    """Ask on the terminal. Raises UsageError where there is none, click.Abort for a no."""
    if not sys.stdin.isatty():
        raise UsageError(f"Nobody can be asked here. To remove {model.name}: add --yes.")
    what = "and leave its file where it is"
    if model.owned:
        size_bytes = sum(part.size_bytes for part in model.all_files)
        what = f"and delete its files, {format_bytes(size_bytes)}"
    click.confirm(f"Remove {model.name} {what} ({printable(model.path)})?", abort=True, err=True)


def _summary(removed: Removal) -> str:
    model = removed.model
    if not model.owned:
        left = "is gone already" if model.missing else "was left where it is"
        return f"Removed {model.name}. {printable(model.path)} {left}; nothing was deleted."
    what = f"Removed {model.name}"
    if removed.deleted:
        files = "file" if len(removed.deleted) == 1 else "files"
        what += f" and {len(removed.deleted)} {files} of the library"
    stays = "".join(
        f" {printable(path)} stays: {name} uses it." for path, name in removed.still_used
    )
    if removed.freed_bytes:
        return f"{what}. This freed {format_bytes(removed.freed_bytes)}.{stays}"
    because = " its file has another name elsewhere on the disk." if removed.deleted else ""
    return f"{what}. This freed nothing{':' if because else '.'}{because}{stays}"
