"""LM Studio's models: `ORG/REPO/FILE.gguf`, put there by it or by its user."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from localllm.library.scan.found import Found, Passed, gguf_files, together


def models(root: Path) -> Iterator[Found | Passed]:
    """Every model below its models folder; those of one `ORG/REPO` share its encoder."""
    files: list[Path] = []
    for file in gguf_files(root):
        if isinstance(file, Passed):
            yield file
        else:
            files.append(file)
    for _, publisher in groupby(files, key=lambda file: file.relative_to(root).parts[:-1][:2]):
        yield from together(publisher, lambda file: _made(root, file))


def _made(root: Path, file: Path) -> Found | Passed:
    if not file.exists():
        return Passed(path=file, reason="what it links to is not there")
    folders = file.relative_to(root).parts[:-1]
    return Found(path=file, source=f"lm-studio:{'/'.join(folders[:2]) or file.name}")
