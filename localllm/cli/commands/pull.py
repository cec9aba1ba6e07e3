"""`localllm pull`: download a model from the Hub, by default the quant that suits this machine."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.text import Text

from localllm.cli import library_output, options
from localllm.cli.commands.ls import table
from localllm.cli.hub_client import asked
from localllm.cli.output import literal, print_json, stderr, stdout
from localllm.cli.progress import Interrupted, drawn, interruptible
from localllm.core.recommend import Goal, Preferences
from localllm.core.reference import read_reference
from localllm.core.units import format_bytes
from localllm.errors import ExitCode, UsageError
from localllm.library.download.journal import bytes_on_disk
from localllm.library.download.target import MAX_CONNECTIONS, DownloadTarget
from localllm.library.files import settings
from localllm.library.files.names import checked, printable
from localllm.library.http.client import Access
from localllm.library.store import starter
from localllm.library.store.store import Store
from localllm.runtime.hub_models import repositories
from localllm.runtime.local_machine import this_machine
from localllm.runtime.pull import Choice, Pulled, already_installed, pull, wanted
from localllm.runtime.pull import choose as choose_file


@click.command(name="pull")
@click.argument("model", metavar="MODEL[:QUANT]")
@click.option("--quant", metavar="QUANT",
              help="Quant, or a file's name (default: what `suggest` takes here).")  # fmt: skip
@click.option("--revision", metavar="REV", help="Branch, tag or commit (default main).")
@click.option("--dest", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Put the file into DIR, where it stays when the model is removed.")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, MAX_CONNECTIONS), default=1, metavar="N",
              help=f"Connections at once, at most {MAX_CONNECTIONS} (default 1).")  # fmt: skip
@click.option("--goal", type=click.Choice([goal.value for goal in Goal]), default="balanced",
              help="What to prefer when no quant is named (default balanced).")  # fmt: skip
@options.CONTEXT
@click.option("--name", help="What to call the model (default: as it calls itself).")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and fetch nothing.")
@options.OFFLINE
@options.JSON
@options.QUIET
def command(
    model: str,
    quant: str | None,
    revision: str | None,
    dest: Path | None,
    connections: int,
    goal: str,
    context: int | None,
    name: str | None,
    dry_run: bool,
    offline: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Download MODEL from the Hub: a catalogue name or ORG/REPO.

    An interrupted download goes on where it stopped when the same command is given again.
    """
    if name is not None:
        checked(name)
    repositories(
        read_reference(model, quant)
    )  # a name that cannot be one is said before anybody is asked
    chosen = settings.load()
    with asked(offline=offline, quiet=quiet) as hub:
        choice = choose_file(
            model,
            quant=quant,
            revision=revision,
            hub=hub,
            machine=this_machine(chosen.reserve_bytes)[0],
            preferences=Preferences(
                goal=Goal(goal), context=context or chosen.context or options.DEFAULT_CONTEXT
            ),
        )
    store = library_output.library()
    if not quiet:
        _tell(choice)
    if dry_run:
        _print_plan(_planned(choice, store, dest), choice, as_json=as_json)
        return ExitCode.OK
    _require_free(name, choice, store, dest)
    try:
        pulled = _fetch(choice, hub.access, store, dest, name, connections=connections, quiet=quiet)
    except (Interrupted, KeyboardInterrupt):
        stderr().print("Stopped. What came is kept: the same command goes on from there.")
        return ExitCode.INTERRUPTED
    _print_pulled(pulled, choice, as_json=as_json, quiet=quiet)
    return ExitCode.OK


def _require_free(name: str | None, choice: Choice, store: Store, dest: Path | None) -> None:
    """Raise UsageError for a name that another model has, before anything is fetched for it."""
    holder = next((model for model in store.installed() if model.name == name), None)
    if holder is None and name != starter.NAME:
        return
    ours = {file.path for file in wanted(choice, store, dest)}
    if holder is None or (holder.path not in ours and not holder.missing):
        raise UsageError(
            f"The name {name} is taken. Choose another --name; `localllm ls` lists all."
        )


def _tell(choice: Choice) -> None:
    """Say what is taken and why."""
    console = stderr()
    console.print(
        literal(f"{choice.name}, {format_bytes(choice.size_bytes)}", style="bold"), soft_wrap=True
    )
    said = [*choice.reasons]
    if choice.mmproj is not None:
        size = format_bytes(choice.mmproj.size_bytes)
        said.append(f"With {choice.mmproj.name} ({size}), its encoder.")
    for sentence in said:
        console.print(Text.assemble("  ", literal(sentence)), soft_wrap=True)
    if choice.warning is not None:
        library_output.warn(choice.warning)


def _fetch(
    choice: Choice,
    access: Access,
    store: Store,
    dest: Path | None,
    name: str | None,
    *,
    connections: int,
    quiet: bool,
) -> Pulled:
    with drawn(choice.size_bytes, quiet=quiet) as show:
        return interruptible(
            lambda stop: pull(
                choice,
                access=access,
                store=store,
                dest=dest,
                name=name,
                connections=connections,
                on_progress=show,
                stop=stop,
            )
        )


def _print_pulled(pulled: Pulled, choice: Choice, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(document(pulled, choice))
        return
    model = pulled.model
    if pulled.already and not quiet:
        said = f"{choice.name} is installed already, as {model.name} ({printable(model.path)})."
        stderr().print(literal(said), soft_wrap=True)
    stdout().print(table((model,)))
    if not quiet:
        stderr().print(literal(f"Run it: localllm run {model.name}", style="dim"), soft_wrap=True)


def document(pulled: Pulled, choice: Choice) -> dict[str, object]:
    """What `pull --json` prints. Of a split model `sha256` is null: its files have one each."""
    model = pulled.model
    return {
        "file": str(model.path),
        "bytes": model.size_bytes,
        "sha256": pulled.sha256,
        "commit": pulled.commit,
        "resumed_from": pulled.resumed_from,
        "transferred_bytes": pulled.transferred_bytes,
        "already_installed": pulled.already,
        "name": model.name,
        "quant": choice.quant,
        "repo": choice.repo.name,
        "reasons": list(choice.reasons),
        "warning": choice.warning,
        "mmproj": str(model.mmproj.path) if model.mmproj else None,
        "files": [asdict(part) for part in model.all_files],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a dry run found: bytes still to come, and the room where they would go."""

    files: tuple[DownloadTarget, ...]
    missing_bytes: int
    free_bytes: int
    installed: str | None

    @property
    def has_room(self) -> bool:
        return self.missing_bytes <= self.free_bytes


def _planned(choice: Choice, store: Store, dest: Path | None) -> _Plan:
    files = wanted(choice, store, dest)
    model = already_installed(choice, store)
    there = next(each for each in files[0].path.parents if each.is_dir())
    return _Plan(
        files=files,
        missing_bytes=0 if model else sum(each.size_bytes - bytes_on_disk(each) for each in files),
        free_bytes=shutil.disk_usage(there).free,
        installed=model.name if model else None,
    )


def _print_plan(plan: _Plan, choice: Choice, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "dry_run": True,
                "repo": choice.repo.name,
                "commit": choice.repo.commit,
                "quant": choice.quant,
                "bytes": choice.size_bytes,
                "missing_bytes": plan.missing_bytes,
                "free_bytes": plan.free_bytes,
                "has_room": plan.has_room,
                "installed": plan.installed,
                "reasons": list(choice.reasons),
                "warning": choice.warning,
                "files": [asdict(each) for each in plan.files],
            }
        )
        return
    console = stdout()
    for each in plan.files:
        text = f"{each.name} ({format_bytes(each.size_bytes)}) -> {printable(each.path)}"
        console.print(literal(text), soft_wrap=True)
    if plan.installed is not None:
        console.print(literal(f"Nothing to fetch: it is installed already, as {plan.installed}."))
        return
    verdict = "there is room" if plan.has_room else "there is no room"
    console.print(
        f"To fetch: {format_bytes(plan.missing_bytes)}; {format_bytes(plan.free_bytes)} is free on"
        f" that disk: {verdict}.",
        soft_wrap=True,
    )
