"""Repositories: commits that hold files, as the Hub describes them."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.hub.content import Content

LFS = re.compile(r".*\.(gguf|bin|safetensors|imatrix)")
_POINTER_BYTES = 135


@dataclass
class Repo:
    """A repository; the last commit is `main`."""

    name: str
    private: bool
    gated: str | bool
    license: str | None
    tags: tuple[str, ...]
    downloads: int
    likes: int
    updated: str
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    def commit(self, files: Mapping[str, Content]) -> str:
        """Add a commit; its name follows from what it holds and what was before."""
        listing = "".join(f"{name}:{each.sha256}\n" for name, each in files.items())
        text = f"{self.name}{len(self.commits)}{listing}"
        commit = hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()
        self.commits[commit] = dict(files)
        return commit

    def resolved(self, revision: str) -> str | None:
        """The commit that a revision names."""
        if revision in ("main", "refs/heads/main"):
            return self.head
        return revision if revision in self.commits else None

    def summary(self) -> dict[str, object]:
        """What a search lists without being asked for more."""
        license_tag = [f"license:{self.license}"] if self.license else []
        return {
            "_id": git_oid(self.name)[:24],
            "id": self.name,
            "modelId": self.name,
            "likes": self.likes,
            "downloads": self.downloads,
            "private": self.private,
            "tags": ["gguf", *self.tags, *license_tag],
            "pipeline_tag": "text-generation",
            "library_name": "gguf",
            "createdAt": "2026-01-01T00:00:00.000Z",
        }

    def details(self) -> dict[str, object]:
        """What a search lists when it is asked for everything."""
        return {
            **self.summary(),
            "author": self.name.split("/")[0],
            "sha": self.head,
            "lastModified": self.updated,
            "gated": self.gated,
            "disabled": False,
        }

    def info(self, commit: str, *, blobs: bool) -> dict[str, object]:
        files = self.commits[commit]
        return {
            **self.details(),
            "sha": commit,
            "cardData": {"license": self.license} if self.license else {},
            "siblings": [_sibling(name, each, blobs) for name, each in files.items()],
            "spaces": [],
            "usedStorage": sum(each.size for each in files.values()),
        }

    def tree(self, commit: str, under: str, *, recursive: bool) -> list[dict[str, object]]:
        """Files and directories below a path, as `/tree/` lists them."""
        prefix = f"{under}/" if under else ""
        entries: dict[str, dict[str, object]] = {}
        for name, each in self.commits[commit].items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                path = prefix + "/".join(parts[:depth])
                entries[path] = {"type": "directory", "oid": git_oid(path), "size": 0, "path": path}
            if recursive or len(parts) == 1:
                entries[name] = _leaf(name, each)
        return list(entries.values())


def git_oid(text: str) -> str:
    """An object's name that looks like git's."""
    return hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_lfs(name: str, each: Content) -> bool:
    return LFS.fullmatch(name.lower()) is not None or each.size > 10 << 20


def _sibling(name: str, each: Content, blobs: bool) -> dict[str, object]:
    if not blobs:
        return {"rfilename": name}
    sibling: dict[str, object] = {
        "rfilename": name,
        "blobId": git_oid(each.sha256),
        "size": each.size,
    }
    if is_lfs(name, each):
        sibling["lfs"] = {
            "sha256": each.sha256,
            "size": each.size,
            "pointerSize": _POINTER_BYTES,
        }
    return sibling


def _leaf(name: str, each: Content) -> dict[str, object]:
    leaf: dict[str, object] = {
        "type": "file",
        "oid": git_oid(each.sha256),
        "size": each.size,
        "path": name,
    }
    if is_lfs(name, each):
        leaf["lfs"] = {"oid": each.sha256, "size": each.size, "pointerSize": _POINTER_BYTES}
    return leaf
