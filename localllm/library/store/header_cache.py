"""A cache of the headers of installed models, as far as sizing needs them.

Parsing a header with a vocabulary of 262k takes three quarters of the time that planning with the
whole catalogue takes, and `suggest` needs those of all installed models. A cached header has the
size of the vocabulary and not its tokens; it is valid while the files have the same length and
modification time.
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

_MAX_TEXT = 100
"""Characters of a string that is cached: names and types, but no templates and licences."""

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


def cached_spec(model: InstalledModel) -> ModelSpec:
    """Return an installed model's header without its texts: enough to size and time it.

    Raises NotFound, StoreError and GgufError as `inspect_model` does.
    """
    name = crc32(str(model.path).encode("utf-8", "replace"))
    path, key = paths.header_cache_file(paths.cache_dir(), name), _cache_key(model)
    if key and (cached := file_cache.get(path, key)) is not None:
        return _parse(cached)
    spec = _without_texts(inspect_model(model.path).spec)
    if key:
        file_cache.put(path, key, _serialize(spec))
    return spec


def _cache_key(model: InstalledModel) -> str:
    """Identify the model's files as they are now; "" when one of them cannot be reached."""
    key: list[str | int] = [__version__]
    try:
        for part in model.files:
            now = part.path.stat()
            key += [str(part.path), now.st_size, now.st_mtime_ns, now.st_ino]
    except (OSError, ValueError):
        return ""
    return json.dumps(key)


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
    """True for short strings, numbers, and lists of numbers by layer; not for a vocabulary."""
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT
    if isinstance(value, int | float):
        return True
    return len(value) <= MAX_LAYERS and not any(isinstance(each, str) for each in value)


def _parse(text: bytes) -> ModelSpec:
    document: _Document = json.loads(text)
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


def _serialize(spec: ModelSpec) -> bytes:
    document: _Document = {
        "architecture": spec.architecture,
        "metadata": {key: _json_value(value) for key, value in spec.metadata.items()},
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


def _json_value(value: MetadataValue) -> _JsonValue:
    if isinstance(value, str | int | float):
        return value
    return list(value)  # type: ignore[return-value]  # `_is_small` lets no texts through
