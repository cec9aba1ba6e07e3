"""Ollama's models: `manifests/REGISTRY/NAMESPACE/NAME/TAG` is JSON whose layers name files in
`blobs/`, `sha256-` and their digest.

Layout: ollama, `types/model/name.go` and `server/manifest.go`. A hostile digest could become a path
there (CVE-2024-37032): here it does only when it is 64 hexadecimal digits.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from localllm.library.files.names import printable
from localllm.library.scan.found import FoundModel, SkippedFile, folders_in, read_json

_MODEL = "application/vnd.ollama.image.model"
_MMPROJ = "application/vnd.ollama.image.projector"
_LORA = "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")
_MAX_LAYERS = 1000
_MAX_MANIFESTS = 10_000
_REGISTRY, _LIBRARY = "registry.ollama.ai", "library"


def models(root: Path) -> Iterator[FoundModel | SkippedFile]:
    """Yield the model of every tag, those of one model after each other."""
    for number, manifest in enumerate(_manifests(root / "manifests")):
        if number >= _MAX_MANIFESTS:
            yield SkippedFile(path=root, reason="it has too many manifests; the rest was left")
            return
        try:
            yield _model(root, manifest)
        except ValueError as error:
            yield SkippedFile(path=manifest, reason=str(error))


def _manifests(root: Path) -> Iterator[Path]:
    """Yield files exactly four levels down; links are not followed."""
    for registry in folders_in(root):
        for namespace in folders_in(registry):
            for name in folders_in(namespace):
                try:
                    tags = sorted(name.iterdir())
                except OSError:
                    continue
                yield from (tag for tag in tags if tag.is_file() and not tag.is_symlink())


def _model(root: Path, manifest: Path) -> FoundModel:
    """Read one manifest. Raises ValueError with the reason why it gives no model."""
    name = _display_name(manifest)
    layers = _layers(read_json(manifest))
    weights = [layer for layer in layers if layer.get("mediaType") == _MODEL]
    if any(layer.get("mediaType") == _LORA for layer in layers):
        raise ValueError("it has a LoRA adapter, without which it is another model")
    if not weights:
        raise ValueError("it has no model in GGUF here: it runs elsewhere or has another format")
    if len(weights) > 1:
        raise ValueError(f"it has {len(weights)} files with weights; only one can be adopted")
    path, digest = _blob(root, weights[0])
    mmprojs = [_blob(root, layer) for layer in layers if layer.get("mediaType") == _MMPROJ]
    return FoundModel(
        path=path,
        source=f"ollama:{name}",
        sha256s={path: digest, **dict(mmprojs)},
        mmproj=mmprojs[0][0] if mmprojs else None,
        name=name.rpartition("/")[2].removesuffix(":latest").replace(":", "-"),
    )


def _display_name(manifest: Path) -> str:
    """Return what a user types after `ollama run`. Raises ValueError for an impossible name."""
    parts = manifest.parts[-4:]
    if not all(_WORD.fullmatch(part) for part in parts):
        raise ValueError(f"{printable(manifest.name)} is not a name that Ollama gives")
    registry, namespace, name, tag = parts
    if registry != _REGISTRY:
        return f"{registry}/{namespace}/{name}:{tag}"
    return f"{name}:{tag}" if namespace == _LIBRARY else f"{namespace}/{name}:{tag}"


def _layers(manifest: Mapping[str, object]) -> list[Mapping[str, object]]:
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > _MAX_LAYERS:
        raise ValueError("its manifest has no usable list of layers")
    return [layer for layer in layers if isinstance(layer, dict)]


def _blob(root: Path, layer: Mapping[str, object]) -> tuple[Path, str]:
    """Return the file of a layer and its digest. Raises ValueError when it is incomplete."""
    stated = layer.get("digest")
    match = _DIGEST.fullmatch(stated) if isinstance(stated, str) else None
    if match is None:
        raise ValueError(f"{printable(str(stated)[:80])!r} is no digest")
    path = root / "blobs" / f"sha256-{match[1]}"
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise ValueError(f"its file {path.name[:19]}... is not there: pulled in part?") from error
    stated_size = layer.get("size")
    if isinstance(stated_size, int) and stated_size != size_bytes:
        raise ValueError(
            f"its file has {size_bytes} bytes and should have {stated_size}: pulled in part?"
        )
    return path, match[1]
