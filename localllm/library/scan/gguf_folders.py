"""llama.cpp's own cache (`-hf`): `ORG_REPO_FILE.gguf` in one folder, and beside it
`manifest=ORG=REPO=TAG.json`, what the Hub said of the file (llama.cpp, `common/download.cpp`).

The etags that it keeps too are the CDN's and no digests of the file.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from localllm.library.files import names
from localllm.library.scan.found import Found, Passed, gguf_files, read_json, together

_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".downloadInProgress"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """A file that a manifest names."""

    repo: str
    sha256: str | None


def models(root: Path) -> Iterator[Found | Passed]:
    """Every model of the cache; an encoder goes with the models of its own repository."""
    files: list[Path] = []
    for file in gguf_files(root):
        if isinstance(file, Passed):
            yield file
        elif file.parent == root:
            files.append(file)
    for left in sorted(root.glob(f"*.gguf{_UNFINISHED}")):
        yield Passed(path=left, reason="its download ended early")
    listed = dict(_listed(root))

    def made(file: Path) -> Found | Passed:
        if not file.exists():
            return Passed(path=file, reason="what it links to is not there")
        known = listed.get(file.name)
        return Found(
            path=file,
            source=f"llama.cpp:{known.repo if known else file.name}",
            sha256s={root / name: each.sha256 for name, each in listed.items() if each.sha256},
        )

    def publisher(file: Path) -> str:
        return _publisher(file.name, listed)

    for _, group in groupby(sorted(files, key=publisher), key=publisher):
        yield from together(group, made)


def _publisher(file_name: str, listed: Mapping[str, _Listed]) -> str:
    """The repository of a file; without a manifest all that its name says: `ORG_REPO` is at least
    what stands before the second `_`."""
    known = listed.get(file_name)
    return known.repo if known else "_".join(file_name.split("_")[:2])


def _listed(root: Path) -> Iterator[tuple[str, _Listed]]:
    """File name in the cache -> what its manifest says; a manifest that is none says nothing."""
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
                yield name, _Listed(repo=repo, sha256=_digest(file))


def _digest(file: Mapping[str, object]) -> str | None:
    lfs = file.get("lfs")
    stated = lfs.get("sha256") if isinstance(lfs, dict) else None
    return stated if isinstance(stated, str) and _SHA256.fullmatch(stated) else None
