"""The cache of huggingface_hub (and of newer llama.cpp):
`models--ORG--REPO/snapshots/COMMIT/FILE`, links to `blobs/SHA256`.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from localllm.library.files import names
from localllm.library.scan.found import (
    FoundModel,
    SkippedFile,
    folders_in,
    gguf_files,
    models_among,
    read_small,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_REF_BYTES = 100


def models(root: Path) -> Iterator[FoundModel | SkippedFile]:
    """Yield every model of a cache, each file once; the commit of `main` comes first."""
    for folder in folders_in(root):
        if not folder.name.startswith("models--"):
            continue
        repo = folder.name.removeprefix("models--").replace("--", "/")
        if not names.is_repo(repo):
            yield SkippedFile(path=folder, reason="its name is not that of a repository")
            continue
        seen: set[Path] = set()
        for snapshot in _snapshots(folder):
            yield from _snapshot(folder, snapshot, f"hub:{repo}@{snapshot.name}", seen)


def _snapshots(folder: Path) -> list[Path]:
    main = _ref(folder / "refs" / "main")
    found = [each for each in folders_in(folder / "snapshots") if _COMMIT.fullmatch(each.name)]
    return sorted(found, key=lambda each: (each.name != main, each.name))


def _snapshot(
    folder: Path, snapshot: Path, source: str, seen: set[Path]
) -> Iterator[FoundModel | SkippedFile]:
    """Yield one commit's models, but for files that an earlier commit has as well."""
    usable: list[Path] = []
    for file in gguf_files(snapshot):
        if isinstance(file, SkippedFile):
            yield file
        elif (reason := _unusable(folder, file)) is not None:
            yield SkippedFile(path=file, reason=reason)
        else:
            usable.append(file)
    blobs = {file: file.resolve() for file in usable}

    def to_model(file: Path) -> FoundModel | None:
        if blobs[file] in seen:
            return None
        seen.add(blobs[file])
        return FoundModel(path=file, source=source, sha256s=digests)

    digests = {
        file: blob.name
        for file, blob in blobs.items()
        if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name)
    }
    yield from models_among(usable, to_model)


def _unusable(folder: Path, file: Path) -> str | None:
    try:
        blob = file.resolve(strict=True)
    except (OSError, RuntimeError):
        return "what it links to is not there: its download ended early, or the cache was cleaned"
    if not blob.is_relative_to(folder.resolve()):
        return "it links to a place outside its repository's folder"
    return None


def _ref(path: Path) -> str:
    try:
        return read_small(path, _MAX_REF_BYTES).decode("ascii", "replace").strip()
    except ValueError:
        return ""
