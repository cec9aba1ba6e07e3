"""The folders of other programs, forged on the disk as those programs lay them out."""

import hashlib
import json
from pathlib import Path

from tests.library import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "f" * 40
_MODEL = "application/vnd.ollama.image.model"
_PROJECTOR = "application/vnd.ollama.image.projector"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class HuggingFace:
    """`models--ORG--REPO/{blobs,refs,snapshots}`."""

    def __init__(self, root: Path, repo: str = "org/Tiny-GGUF") -> None:
        self.folder = root / f"models--{repo.replace('/', '--')}"
        (self.folder / "blobs").mkdir(parents=True)
        (self.folder / "refs").mkdir()
        (self.folder / "refs" / "main").write_text(COMMIT)

    def add(self, name: str, data: bytes, *, commit: str = COMMIT, blob: str | None = None) -> Path:
        """A file of a commit: a relative link to the blob that its digest names."""
        target = self.folder / "blobs" / (blob or sha256(data))
        target.write_bytes(data)
        link = self.folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        link.symlink_to(f"{up}blobs/{target.name}")
        return link


class Ollama:
    """`manifests/REGISTRY/NAMESPACE/NAME/TAG` and `blobs/sha256-...`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, data: bytes) -> str:
        digest = sha256(data)
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return f"sha256:{digest}"

    def add(
        self,
        name: str,
        tag: str,
        data: bytes,
        *,
        projector: bytes | None = None,
        host: str = "registry.ollama.ai",
        namespace: str = "library",
    ) -> Path:
        layers = [self.layer(_MODEL, data)]
        if projector is not None:
            layers.append(self.layer(_PROJECTOR, projector))
        layers.append(self.layer("application/vnd.ollama.image.template", b"{{ .Prompt }}"))
        return self.manifest({"layers": layers}, name, tag, host=host, namespace=namespace)

    def layer(self, kind: str, data: bytes) -> dict[str, object]:
        return {"mediaType": kind, "digest": self.blob(data), "size": len(data)}

    def manifest(
        self,
        document: object,
        name: str,
        tag: str,
        *,
        host: str = "registry.ollama.ai",
        namespace: str = "library",
    ) -> Path:
        file = self.root / "manifests" / host / namespace / name / tag
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
        return file


def llama_cpp(root: Path, repo: str, file: str, data: bytes, *, tag: str = "Q4_K_M") -> Path:
    """`ORG_REPO_FILE` and the manifest that llama.cpp saved of it."""
    root.mkdir(parents=True, exist_ok=True)
    cached = root / f"{repo}/{file}".replace("/", "_")
    cached.write_bytes(data)
    listed = {"rfilename": file, "size": len(data), "lfs": {"sha256": sha256(data)}}
    manifest = root / f"manifest={repo.replace('/', '=')}={tag}.json"
    manifest.write_text(json.dumps({"ggufFile": listed}))
    cached.with_name(f"{cached.name}.etag").write_text('"not a digest"')
    return cached


def gguf(**general: str | int | bool) -> bytes:
    """The bytes of a small model whose `general.*` keys are the arguments."""
    own: tiny.Values = {f"general.{key}": value for key, value in general.items()}
    return tiny.header(tiny.MODEL | own)
