"""A GGUF header without its tokenizer: what llama.cpp needs to size a load, and nothing more.

A dry run spends nearly all its time on the vocabulary (0.5 s for 262k tokens) and uses only its
length. Here the tokenizer's keys are left out of a header and `no_vocab` with the length is put
in; the other bytes are copied as they are.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from localllm.errors import LoadFailed

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Sizes of the value types (`enum gguf_type` in ggml's gguf.h)."""

_KEPT = {b"tokenizer.ggml.token_type_count"}
"""Read before the tokenizer's kind is looked at (`llama_vocab::impl::load`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    key: bytes
    start: int
    end: int
    value: int  # where the value starts, after its type
    kind: int


def without_tokenizer(head: bytes) -> bytes:
    """Rewrite a header (everything before the tensor data, or more) for a dry run.

    The result ends where the tensor data starts. Raises LoadFailed when `head` is not a GGUF of
    version 2 or 3 or ends too early.
    """
    try:
        return _rewrite(head)
    except (struct.error, IndexError, KeyError) as error:
        raise LoadFailed(f"the GGUF header ends early or is damaged: {error}") from error


def _rewrite(head: bytes) -> bytes:
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", head)
    if magic != _MAGIC or version not in _VERSIONS:
        raise LoadFailed(f"not a GGUF file of version 2 or 3: it starts with {head[:8]!r}")
    entries = list(_entries(head, pairs))
    end = entries[-1].end if entries else 24
    infos = head[end : _skip_infos(head, end, tensors)]
    kept = [e for e in entries if _keep(e.key)]
    kept_bytes = [head[e.start : e.end] for e in kept]
    vocabulary = _vocabulary(head, entries)
    kept_bytes.append(_pair(b"tokenizer.ggml.model", _STRING, _string(b"no_vocab")))
    if vocabulary is not None:
        key = _architecture(head, entries) + b".vocab_size"
        kept_bytes = [raw for e, raw in zip(kept, kept_bytes, strict=False) if e.key != key] + (
            kept_bytes[len(kept) :]
        )
        kept_bytes.append(_pair(key, _UINT32, struct.pack("<I", vocabulary)))
    body = struct.pack("<4sIQQ", magic, version, tensors, len(kept_bytes))
    body += b"".join(kept_bytes) + infos
    return body + bytes(-len(body) % _alignment(head, entries))


def _keep(key: bytes) -> bool:
    return not key.startswith(b"tokenizer.") or key in _KEPT


def _entries(head: bytes, pairs: int) -> Iterator[_Entry]:
    at = 24
    for _ in range(pairs):
        start = at
        (length,) = struct.unpack_from("<Q", head, at)
        key = head[at + 8 : at + 8 + length]
        (kind,) = struct.unpack_from("<I", head, at + 8 + length)
        value = at + 12 + length
        at = _skip_value(head, value, kind)
        if at > len(head):
            raise IndexError(f"{at - len(head)} bytes of key {key!r} are missing")
        yield _Entry(key=key, start=start, end=at, value=value, kind=kind)


def _skip_value(head: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return _skip_strings(head, at, 1)
    if kind == _ARRAY:
        element, count = struct.unpack_from("<IQ", head, at)
        if element == _STRING:
            return _skip_strings(head, at + 12, count)
        return int(at + 12 + _SCALAR_BYTES[element] * count)
    return at + _SCALAR_BYTES[kind]


def _skip_strings(head: bytes, at: int, count: int) -> int:
    # a quarter of a million tokens: the loop is kept bare
    length_at = struct.Struct("<Q").unpack_from
    for _ in range(count):
        at += 8 + length_at(head, at)[0]
    return at


def _skip_infos(head: bytes, at: int, tensors: int) -> int:
    for _ in range(tensors):
        at = _skip_strings(head, at, 1)
        (dimensions,) = struct.unpack_from("<I", head, at)
        at += 4 + 8 * dimensions + 4 + 8
    if at > len(head):
        raise IndexError(f"{at - len(head)} bytes of the tensor list are missing")
    return at


def _find(entries: list[_Entry], key: bytes) -> _Entry | None:
    return next((e for e in entries if e.key == key), None)


def _architecture(head: bytes, entries: list[_Entry]) -> bytes:
    entry = _find(entries, b"general.architecture")
    if entry is None or entry.kind != _STRING:
        raise LoadFailed("the header names no architecture")
    return head[entry.value + 8 : entry.end]


def _vocabulary(head: bytes, entries: list[_Entry]) -> int | None:
    """Length of the token list; None when the header has none and states its own count."""
    entry = _find(entries, b"tokenizer.ggml.tokens")
    if entry is None or entry.kind != _ARRAY:
        return None
    return int(struct.unpack_from("<IQ", head, entry.value)[1])


def _alignment(head: bytes, entries: list[_Entry]) -> int:
    entry = _find(entries, b"general.alignment")
    if entry is None or entry.kind != _UINT32:
        return 32
    return int(struct.unpack_from("<I", head, entry.value)[0]) or 32


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _pair(key: bytes, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value
