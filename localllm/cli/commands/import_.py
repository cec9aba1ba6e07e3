"""`localllm import`: adopt GGUF files that are on this disk, without a copy; with --scan, those of
other programs."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
from rich.table import Table

from localllm.cli import options
from localllm.cli.library_output import (
    model_document,
    model_table,
    open_library,
    unsupported_here,
    warn_of_unsupported,
)
from localllm.cli.output import info, literal, print_json, stderr, stdout, warn
from localllm.cli.progress import hashing_bar
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError, UsageError
from localllm.library.files.checksum import sha256_of
from localllm.library.scan.places import Place, places
from localllm.library.scan.sweep import ScanResult, ScanStatus, sweep
from localllm.library.store.inspect import files_of
from localllm.library.store.installed import InstalledModel


@click.command(name="import")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(path_type=Path))
@click.option(
    "--scan",
    "scanned",
    is_flag=True,
    help="Adopt what the Hugging Face cache, LM Studio, Ollama and llama.cpp have.",
)
@click.option("--dry-run", is_flag=True, help="With --scan: only say what would be adopted.")
@click.option("--name", help="What to call the model (default: as it calls itself).")
@click.option("--link", is_flag=True, help="Keep a hard link, so that deleting PATH loses nothing.")
@click.option("--hash", "hashed", is_flag=True, help="Also record the SHA-256 of each file.")
@options.JSON
@options.QUIET
def command(
    paths: Sequence[Path],
    scanned: bool,
    dry_run: bool,
    name: str | None,
    link: bool,
    hashed: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Adopt GGUF files that are on this disk.

    Each file stays where it is and is never copied. Any part of a split model
    (NAME-00001-of-00005.gguf) adopts all of them.
    """
    if scanned:
        if paths or name is not None or hashed:
            raise UsageError("--scan finds the files itself: give no PATH, --name or --hash.")
        _scan(link=link, dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    if not paths or dry_run:
        raise UsageError(
            "--dry-run needs --scan." if paths else "Name a GGUF file, or give --scan."
        )
    _import(paths, name=name, link=link, hashed=hashed, as_json=as_json, quiet=quiet)


def _import(
    paths: Sequence[Path],
    *,
    name: str | None,
    link: bool,
    hashed: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    if name is not None and len(paths) > 1:
        raise UsageError(
            f"--name names one model and {len(paths)} files were given. Import them one by one; of"
            " a split model any one part is enough."
        )
    store = open_library()
    digest = (lambda path: _hash(path, quiet=quiet)) if hashed else None
    models, errors = _adopt_all(
        paths, lambda path: store.adopt(path, name=name, link=link, digest=digest)
    )
    unsupported = unsupported_here(models)
    if as_json:
        print_json(
            {"models": [model_document(each, unsupported.get(each.name)) for each in models]}
        )
    elif models:
        stdout().print(model_table(models, unsupported))
    warn_of_unsupported(unsupported)
    for error in errors[:-1]:
        warn(str(error))
    if errors:
        raise errors[-1]


def _adopt_all(
    paths: Sequence[Path], adopt: Callable[[Path], InstalledModel]
) -> tuple[tuple[InstalledModel, ...], list[LocalLLMError]]:
    """Adopt each file, the parts of one model once; a file that fails does not stop the others."""
    models: dict[str, InstalledModel] = {}
    errors: list[LocalLLMError] = []
    done: set[Path] = set()
    for path in paths:
        try:
            files = files_of(path)
            if done.isdisjoint(files):
                model = adopt(path)
                models[model.name] = model
            done.update(files)
        except LocalLLMError as error:
            errors.append(error)
    return tuple(models.values()), errors


def _hash(path: Path, *, quiet: bool) -> str:
    with hashing_bar(path.name, path.stat().st_size, quiet=quiet) as read:
        return sha256_of(path, on_read=read)


_RUNNERS = "the Hugging Face cache, LM Studio, Ollama and llama.cpp"


def _scan(*, link: bool, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Scan, and print what was adopted, what was known already, and what was skipped and why."""
    scanned = places(os.environ, Path.home())
    outcomes: list[ScanResult] = []
    console = stderr()
    console.quiet = quiet
    with console.status("Looking ...") as status:
        for outcome in sweep(open_library(), scanned, link=link, dry_run=dry_run):
            outcomes.append(outcome)
            status.update(literal(f"{outcome.place.runner}: {outcome.path.name}"))
    unsupported = unsupported_here(each.model for each in outcomes if each.model is not None)
    if as_json:
        print_json(_document(scanned, outcomes, unsupported, dry_run=dry_run))
        return
    if models := [each for each in outcomes if each.model is not None]:
        stdout().print(_table(models, dry_run=dry_run))
    for outcome in outcomes:
        if outcome.reason is not None:
            warn(f"{outcome.place.runner}: {outcome.path}: {outcome.reason}.")
    warn_of_unsupported(unsupported)
    if not quiet:
        info(_summary(scanned, outcomes, dry_run=dry_run))


def _summary(scanned: Sequence[Place], outcomes: Sequence[ScanResult], *, dry_run: bool) -> str:
    if not scanned:
        return f"None of {_RUNNERS} has a folder here."
    count = Counter(outcome.status for outcome in outcomes)
    looked = ", ".join(f"{place.runner} ({place.path})" for place in scanned)
    adopted = "would be adopted" if dry_run else "adopted, none copied"
    return (
        f"Looked at {looked}: {count[ScanStatus.ADOPTED]} {adopted};"
        f" {count[ScanStatus.KNOWN]} there already; {count[ScanStatus.SKIPPED]} skipped."
    )


def _document(
    scanned: Sequence[Place],
    outcomes: Sequence[ScanResult],
    unsupported: Mapping[str, str],
    *,
    dry_run: bool,
) -> dict[str, object]:
    models: dict[ScanStatus, list[object]] = {status: [] for status in ScanStatus}
    for each in outcomes:
        if each.model is not None:
            row = model_document(each.model, unsupported.get(each.model.name)) | {
                "runner": each.place.runner,
                "note": each.reason,
            }
            models[each.status].append(row)
    return {
        "dry_run": dry_run,
        "places": [{"runner": place.runner, "path": place.path} for place in scanned],
        "models": models[ScanStatus.ADOPTED],
        "known": models[ScanStatus.KNOWN],
        "skipped": [
            {"runner": each.place.runner, "path": str(each.path), "reason": each.reason}
            for each in outcomes
            if each.status is ScanStatus.SKIPPED
        ],
    }


def _table(found: Sequence[ScanResult], *, dry_run: bool) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("NAME", no_wrap=True)
    drawn.add_column("QUANT", no_wrap=True)
    drawn.add_column("SIZE", justify="right", no_wrap=True)
    drawn.add_column("FOUND IN", no_wrap=True)
    drawn.add_column("RESULT", no_wrap=True)
    words = {
        ScanStatus.ADOPTED: "would be adopted" if dry_run else "adopted",
        ScanStatus.KNOWN: "there already",
    }
    for each in found:
        assert each.model is not None
        drawn.add_row(
            literal(each.model.name),
            literal(each.model.quant or "unknown"),
            format_bytes(each.model.size_bytes),
            literal(each.place.runner),
            literal(words[each.status]),
        )
    return drawn
