"""llama.cpp's cache and LM Studio's folder: GGUF files in plain folders.

llama.cpp (`-hf`) keeps `ORG_REPO_FILE.gguf` in one folder, and beside it
`manifest=ORG=REPO=TAG.json`, the Hub's metadata of the file (llama.cpp, `common/download.cpp`). The
ETags that it keeps too are the CDN's and no digests of the file. LM Studio has
`ORG/REPO/FILE.gguf`, put there by it or by its user.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from localllm.library.files import names
from localllm.library.scan.found import FoundModel, SkippedFile, gguf_files, models_among, read_json

_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".downloadInProgress"
_DANGLING = "what it links to is not there"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ManifestFile:
    """A file that a manifest of llama.cpp names."""

    repo: str
    sha256: str | None


def llama_cpp_models(root: Path) -> Iterator[FoundModel | SkippedFile]:
    """Yield every model of a cache; an mmproj goes with the models of its own repository."""
    files: list[Path] = []
    for file in gguf_files(root):
        if isinstance(file, SkippedFile):
            yield file
        elif file.parent == root:
            files.append(file)
    for partial in sorted(root.glob(f"*.gguf{_UNFINISHED}")):
        yield SkippedFile(path=partial, reason="its download ended early")
    manifest = dict(_manifest_files(root))

    def to_model(file: Path) -> FoundModel | SkippedFile:
        if not file.exists():
            return SkippedFile(path=file, reason=_DANGLING)
        known = manifest.get(file.name)
        return FoundModel(
            path=file,
            source=f"llama.cpp:{known.repo if known else file.name}",
            sha256s={root / name: each.sha256 for name, each in manifest.items() if each.sha256},
        )

    def publisher(file: Path) -> str:
        return _publisher(file.name, manifest)

    for _, group in groupby(sorted(files, key=publisher), key=publisher):
        yield from models_among(group, to_model)


def lm_studio_models(root: Path) -> Iterator[FoundModel | SkippedFile]:
    """Yield every model below a models folder; those of one `ORG/REPO` share its mmproj."""
    files: list[Path] = []
    for file in gguf_files(root):
        if isinstance(file, SkippedFile):
            yield file
        else:
            files.append(file)

    def to_model(file: Path) -> FoundModel | SkippedFile:
        if not file.exists():
            return SkippedFile(path=file, reason=_DANGLING)
        folders = file.relative_to(root).parts[:-1]
        return FoundModel(path=file, source=f"lm-studio:{'/'.join(folders[:2]) or file.name}")

    for _, publisher in groupby(files, key=lambda file: file.relative_to(root).parts[:-1][:2]):
        yield from models_among(publisher, to_model)


def _publisher(file_name: str, manifest: Mapping[str, _ManifestFile]) -> str:
    """Return the repository of a file.

    Without a manifest all that its name tells: `ORG_REPO` is at least what stands before the
    second `_`.
    """
    known = manifest.get(file_name)
    return known.repo if known else "_".join(file_name.split("_")[:2])


def _manifest_files(root: Path) -> Iterator[tuple[str, _ManifestFile]]:
    """Yield file names in the cache with what their manifests state; skip unreadable manifests."""
    for manifest in sorted(root.glob("manifest=*.json")):
        pieces = manifest.name.removesuffix(".json").split("=")
        repo = "/".join(pieces[1:3])
        if len(pieces) != 4 or not names.is_repo(repo):
            continue
        try:
            document = read_json(manifest)
        except ValueError:
            continue
        for key in ("ggufFile", "mmprojFile"):
            file = document.get(key)
            if isinstance(file, dict) and isinstance(file.get("rfilename"), str):
                name = f"{repo}/{file['rfilename']}".replace("/", "_")
                yield name, _ManifestFile(repo=repo, sha256=_digest(file))


def _digest(file: Mapping[str, object]) -> str | None:
    lfs = file.get("lfs")
    stated = lfs.get("sha256") if isinstance(lfs, dict) else None
    return stated if isinstance(stated, str) and _SHA256.fullmatch(stated) else None
