"""Open the library for a verb, and say what is wrong with the models in it."""

from collections.abc import Iterable

from rich.text import Text

from localllm.cli.output import literal, stderr
from localllm.library.files import paths
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store, remedy


def library() -> Store:
    """The library of this user; what it had to mend is said on stderr."""
    return Store(paths.data_dir(), warn=warn)


def warn(text: str) -> None:
    """Say on stderr that something needs attention. Not wrapped: a command in it stays whole."""
    stderr().print(Text.assemble(("Warning: ", "bold yellow"), literal(text)), soft_wrap=True)


def warn_of_problems(models: Iterable[InstalledModel]) -> None:
    """Name each model whose files were moved or replaced, and what to do about it."""
    for model in models:
        if (problem := model.problem) is not None:
            warn(f"{model.name}: {problem}. {remedy(model)}")


def source(model: InstalledModel) -> str:
    """Where a model came from, short enough for a table."""
    place, at, commit = model.source.partition("@")
    if at:
        return f"{place}@{commit[:7]}"
    return f"{place} (hard link)" if model.owned else place


def row(model: InstalledModel) -> dict[str, object]:
    """One entry of `models` in the JSON of every verb of the library (docs/library.md)."""
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
        "problem": model.problem,
        "owned": model.owned,
        "mmproj": str(model.mmproj.path) if model.mmproj else None,
        "files": [
            {"path": str(part.path), "size_bytes": part.size_bytes, "sha256": part.sha256}
            for part in model.all_files
        ],
    }
