"""Open the library for a verb, and print its models: as rows, as JSON, with their problems."""

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

from localllm.cli.output import literal, warn
from localllm.core.units import format_bytes
from localllm.library.files import paths
from localllm.library.store.installed import FileState, InstalledModel
from localllm.library.store.store import Store, remedy

if TYPE_CHECKING:
    from rich.table import Table


def open_library() -> Store:
    """Open the library of this user; what it had to mend is said on stderr."""
    return Store(paths.data_dir(), warn=warn)


def warn_of_problems(models: Iterable[InstalledModel]) -> None:
    """Name each model whose files were moved or replaced, and what to do about it."""
    for model in models:
        if (problem := model.problem) is not None:
            warn(f"{model.name}: {problem}. {remedy(model)}")


def unsupported_here(models: Iterable[InstalledModel]) -> dict[str, str]:
    """Find the models that the installed llama.cpp cannot run, by name; each with the reason."""
    from localllm.runtime.engine_support import unsupported_models

    return unsupported_models(model for model in models if model.problem is None)


def warn_of_unsupported(reasons: Mapping[str, str]) -> None:
    """Name each model that cannot run here, and what would help."""
    for name, reason in reasons.items():
        warn(f"{name} cannot run here: {reason}")


def model_table(models: Iterable[InstalledModel], unsupported: Container[str] = ()) -> "Table":
    """Draw models as rows; those named in `unsupported` cannot run here."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("NAME", no_wrap=True)
    table.add_column("QUANT", no_wrap=True)
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("LICENSE", overflow="fold")
    table.add_column("SOURCE", overflow="fold")
    table.add_column("STATE", no_wrap=True)
    table.add_column("VERIFIED", no_wrap=True)
    for model in models:
        good = model.state is FileState.OK
        runs = model.name not in unsupported
        table.add_row(
            literal(model.name),
            literal(model.quant or "unknown"),
            format_bytes(model.size_bytes),
            literal(model.license or "unknown"),
            literal(source_label(model)),
            literal(
                model.state.value if runs else "cannot run", "" if good and runs else "bold yellow"
            ),
            literal(_verified(model) if good else "no"),
        )
    return table


def source_label(model: InstalledModel) -> str:
    """Write where a model came from, short enough for a table."""
    place, at, commit = model.source.partition("@")
    if at:
        return f"{place}@{commit[:7]}"
    return f"{place} (hard link)" if model.owned else place


def _verified(model: InstalledModel) -> str:
    """Write the day (UTC) on which all bytes were last as recorded."""
    return model.verified_at[:10] if model.verified_at else "no"


def model_document(model: InstalledModel, unsupported: str | None = None) -> dict[str, object]:
    """Return one entry of `models` in the JSON of every verb of the library (docs/library.md).

    `unsupported`: why the installed llama.cpp cannot run it.
    """
    return {
        "name": model.name,
        "quant": model.quant,
        "path": str(model.path),
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "license": model.license,
        "source": model.source,
        "verified_at": model.verified_at,
        "state": model.state.value,
        "problem": model.problem or unsupported,
        "owned": model.owned,
        "mmproj": str(model.mmproj.path) if model.mmproj else None,
        "files": [
            {"path": str(part.path), "size_bytes": part.size_bytes, "sha256": part.sha256}
            for part in model.all_files
        ],
    }
