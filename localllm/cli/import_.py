"""`localllm import`: make GGUF files that are on this disk part of the library, without a copy."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from localllm.cli import choose, hashing, options, scan
from localllm.cli.ls import table
from localllm.cli.output import print_json, stdout
from localllm.errors import LocalLLMError, UsageError
from localllm.library.digest import sha256_of
from localllm.library.examine import files_of
from localllm.library.store import InstalledModel


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
        scan.run(link=link, dry_run=dry_run, as_json=as_json, quiet=quiet)
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
    store = choose.library()
    digest = (lambda path: _hash(path, quiet=quiet)) if hashed else None
    models, errors = _adopt_all(
        paths, lambda path: store.adopt(path, name=name, link=link, digest=digest)
    )
    if as_json:
        print_json({"models": [choose.row(model) for model in models]})
    elif models:
        stdout().print(table(models))
    for error in errors[:-1]:
        choose.warn(str(error))
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
    with hashing.progress(path.name, path.stat().st_size, quiet=quiet) as read:
        return sha256_of(path, read=read)
