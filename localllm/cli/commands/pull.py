"""`localllm pull`: download a model from the Hub, by default the quant that suits this machine."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from localllm.cli import options
from localllm.cli.hub_client import open_hub
from localllm.cli.library_output import model_table, open_library
from localllm.cli.output import info, literal, print_json, stdout, warn
from localllm.cli.progress import Interrupted, download_bar, interruptible
from localllm.core.recommend import Goal, Preferences
from localllm.core.units import format_bytes
from localllm.errors import ExitCode, UsageError
from localllm.library.download.journal import bytes_on_disk
from localllm.library.download.target import MAX_CONNECTIONS, DownloadTarget
from localllm.library.files import settings
from localllm.library.files.names import checked, printable
from localllm.library.http.client import Access
from localllm.library.store import starter
from localllm.library.store.store import Store
from localllm.policy.active import active_policy, require
from localllm.runtime.find_model import ModelQuery, OnHub, find_published
from localllm.runtime.load_policy import context_or_default
from localllm.runtime.local_machine import likely_graphs, this_machine
from localllm.runtime.pull import (
    Pulled,
    PullPlan,
    already_installed,
    download_targets,
    facts_of,
    plan_pull,
    pull,
)

_MAX_LEFT_OUT = 3


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
    published = find_published(ModelQuery(model=model, quant=quant, revision=revision))
    if isinstance(published, OnHub):
        revision = published.revision
    user = settings.load()
    with open_hub(offline=offline, quiet=quiet) as hub:
        plan = plan_pull(
            published,
            revision=revision,
            hub=hub,
            machine=this_machine(user.reserve_bytes)[0],
            preferences=Preferences(
                goal=Goal(goal), context=context_or_default(context, user), graphs=likely_graphs()
            ),
        )
    require(active_policy().allows_fetch(facts_of(plan)))
    store = open_library()
    if not quiet:
        _print_choice(plan)
    _warn_of_unsupported(plan)
    if dry_run:
        _print_dry_run(_dry_run(plan, store, dest), plan, as_json=as_json)
        return ExitCode.OK
    _require_free_name(name, plan, store, dest)
    try:
        pulled = _fetch(plan, hub.access, store, dest, name, connections=connections, quiet=quiet)
    except (Interrupted, KeyboardInterrupt):
        info("Stopped. What came is kept: the same command goes on from there.")
        return ExitCode.INTERRUPTED
    _print_pulled(pulled, plan, as_json=as_json, quiet=quiet)
    return ExitCode.OK


def _warn_of_unsupported(plan: PullPlan) -> None:
    """Say before anything is fetched that the installed llama.cpp does not run this model: a newer
    one may."""
    from localllm.runtime.engine_support import unsupported

    for reason in unsupported((plan.architecture or "",)).values():
        warn(f"{plan.name} cannot run here: {reason}")


def _require_free_name(name: str | None, plan: PullPlan, store: Store, dest: Path | None) -> None:
    """Raise UsageError for a name that another model has, before anything is fetched for it."""
    holder = next((model for model in store.installed() if model.name == name), None)
    if holder is None and name != starter.NAME:
        return
    ours = {target.path for target in download_targets(plan, store, dest)}
    if holder is None or (holder.path not in ours and not holder.missing):
        raise UsageError(
            f"The name {name} is taken. Choose another --name; `localllm ls` lists all."
        )


def _print_choice(plan: PullPlan) -> None:
    """Say on stderr which files are taken and why."""
    info(f"{plan.name}, {format_bytes(plan.size_bytes)}", bold=True)
    for reason in plan.reasons:
        info(f"  {reason}")
    if plan.mmproj is not None:
        info(f"  With {plan.mmproj.name} ({format_bytes(plan.mmproj.size_bytes)}), its encoder.")
    for left in plan.left_out[:_MAX_LEFT_OUT]:
        info(f"  Left out: {left.name}: {left.reason}.", dim=True)
    if (more := len(plan.left_out) - _MAX_LEFT_OUT) > 0:
        info(f"  Left out too: {more} more; `localllm show {plan.repo.name}` says why.", dim=True)
    if plan.warning is not None:
        warn(plan.warning)


def _fetch(
    plan: PullPlan,
    access: Access,
    store: Store,
    dest: Path | None,
    name: str | None,
    *,
    connections: int,
    quiet: bool,
) -> Pulled:
    with download_bar(plan.size_bytes, quiet=quiet) as show:
        return interruptible(
            lambda stop: pull(
                plan,
                access=access,
                store=store,
                dest=dest,
                name=name,
                connections=connections,
                on_progress=show,
                stop=stop,
            )
        )


def _print_pulled(pulled: Pulled, plan: PullPlan, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(document(pulled, plan))
        return
    model = pulled.model
    if pulled.already and not quiet:
        info(f"{plan.name} is installed already, as {model.name} ({printable(model.path)}).")
    stdout().print(model_table((model,)))
    if not quiet:
        info(f"Run it: localllm run {model.name}", dim=True)


def document(pulled: Pulled, plan: PullPlan) -> dict[str, object]:
    """Return what `pull --json` prints; `sha256` is null for a split model, whose files have each
    its own."""
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
        "quant": plan.quant,
        "repo": plan.repo.name,
        "reasons": list(plan.reasons),
        "warning": plan.warning,
        "mmproj": str(model.mmproj.path) if model.mmproj else None,
        "files": [asdict(part) for part in model.all_files],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _DryRun:
    """The files of a plan with their places, the bytes still to come, and what the disk has free
    for them; `installed` is the name of the model where it is here already."""

    targets: tuple[DownloadTarget, ...]
    missing_bytes: int
    free_bytes: int
    installed: str | None

    @property
    def has_room(self) -> bool:
        return self.missing_bytes <= self.free_bytes


def _dry_run(plan: PullPlan, store: Store, dest: Path | None) -> _DryRun:
    targets = download_targets(plan, store, dest)
    model = already_installed(plan, store)
    directory = next(each for each in targets[0].path.parents if each.is_dir())
    missing = sum(each.size_bytes - bytes_on_disk(each) for each in targets)
    return _DryRun(
        targets=targets,
        missing_bytes=0 if model else missing,
        free_bytes=shutil.disk_usage(directory).free,
        installed=model.name if model else None,
    )


def _print_dry_run(dry_run: _DryRun, plan: PullPlan, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "dry_run": True,
                "repo": plan.repo.name,
                "commit": plan.repo.commit,
                "quant": plan.quant,
                "bytes": plan.size_bytes,
                "missing_bytes": dry_run.missing_bytes,
                "free_bytes": dry_run.free_bytes,
                "has_room": dry_run.has_room,
                "installed": dry_run.installed,
                "reasons": list(plan.reasons),
                "warning": plan.warning,
                "files": [asdict(each) for each in dry_run.targets],
            }
        )
        return
    console = stdout()
    for each in dry_run.targets:
        text = f"{each.name} ({format_bytes(each.size_bytes)}) -> {printable(each.path)}"
        console.print(literal(text), soft_wrap=True)
    if dry_run.installed is not None:
        console.print(
            literal(f"Nothing to fetch: it is installed already, as {dry_run.installed}.")
        )
        return
    verdict = "there is room" if dry_run.has_room else "there is no room"
    console.print(
        f"To fetch: {format_bytes(dry_run.missing_bytes)}; {format_bytes(dry_run.free_bytes)} is"
        f" free on that disk: {verdict}.",
        soft_wrap=True,
    )
