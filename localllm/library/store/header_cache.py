"""The headers of installed models as far as sizing reads them, kept in the cache.

A header with a vocabulary of 262k takes three quarters of the time to read that planning with the
whole catalogue takes, and `suggest` wants those of all installed models. What is kept leaves the
vocabulary out, but for the number of its tokens, and is used as long as the files have the same
length and time.
"""

import json
from typing import TypedDict
from zlib import crc32

from localllm import __version__
from localllm.core.model.quants import GgmlType
from localllm.core.model.spec import MAX_LAYERS, MetadataValue, ModelSpec, TensorInfo
from localllm.library.files import file_cache, paths
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import InstalledModel

_MAX_WORD = 100
"""Characters of a name or a kind; templates and licences are longer, and their owner's business."""

_JsonValue = str | int | float | bool | list[int] | list[float] | list[bool]
_Tensor = tuple[str, list[int], int, int, int]


class _Document(TypedDict):
    architecture: str
    metadata: dict[str, _JsonValue]
    tensors: list[_Tensor]
    version: int
    alignment: int
    data_offset: int
    file_bytes: int


def sized_spec(model: InstalledModel) -> ModelSpec:
    """Read an installed model's header, without its texts: enough to size and time it.

    Raises NotFound, StoreError and GgufError as `inspect_model` does.
    """
    name = crc32(str(model.path).encode("utf-8", "replace"))
    path, made_from = paths.sized_file(paths.cache_dir(), name), _files(model)
    if made_from and (answer := file_cache.recall(path, made_from)) is not None:
        return _restored(answer)
    spec = _without_texts(inspect_model(model.path).spec)
    if made_from:
        file_cache.keep(path, made_from, _written(spec))
    return spec


def _files(model: InstalledModel) -> str:
    """What tells these files from others; nothing when one of them cannot be looked at."""
    found: list[str | int] = [__version__]
    try:
        for part in model.files:
            now = part.path.stat()
            found += [str(part.path), now.st_size, now.st_mtime_ns, now.st_ino]
    except (OSError, ValueError):
        return ""
    return json.dumps(found)


def _without_texts(spec: ModelSpec) -> ModelSpec:
    metadata = {key: value for key, value in spec.metadata.items() if _is_small(value)}
    metadata[f"{spec.architecture}.vocab_size"] = spec.vocabulary
    return ModelSpec(
        architecture=spec.architecture,
        metadata=metadata,
        tensors=spec.tensors,
        version=spec.version,
        alignment=spec.alignment,
        data_offset=spec.data_offset,
        file_bytes=spec.file_bytes,
    )


def _is_small(value: MetadataValue) -> bool:
    """Words, numbers, and lists of numbers by layer: no vocabulary and no chat template."""
    if isinstance(value, str):
        return len(value) <= _MAX_WORD
    if isinstance(value, int | float):
        return True
    return len(value) <= MAX_LAYERS and not any(isinstance(each, str) for each in value)


def _restored(answer: bytes) -> ModelSpec:
    document: _Document = json.loads(answer)
    return ModelSpec(
        architecture=document["architecture"],
        metadata=document["metadata"],
        tensors=tuple(
            TensorInfo(name=name, shape=tuple(shape), type=GgmlType(kind), offset=at, size_bytes=n)
            for name, shape, kind, at, n in document["tensors"]
        ),
        version=document["version"],
        alignment=document["alignment"],
        data_offset=document["data_offset"],
        file_bytes=document["file_bytes"],
    )


def _written(spec: ModelSpec) -> bytes:
    document: _Document = {
        "architecture": spec.architecture,
        "metadata": {key: _plain(value) for key, value in spec.metadata.items()},
        "tensors": [
            (each.name, list(each.shape), each.type.value, each.offset, each.size_bytes)
            for each in spec.tensors
        ],
        "version": spec.version,
        "alignment": spec.alignment,
        "data_offset": spec.data_offset,
        "file_bytes": spec.file_bytes,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _plain(value: MetadataValue) -> _JsonValue:
    if isinstance(value, str | int | float):
        return value
    return list(value)  # type: ignore[return-value]  # `_is_small` lets no texts through
