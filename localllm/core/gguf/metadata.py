"""The key-value pairs of a header."""

import struct
from array import array

from localllm.core.gguf.arrays import Numbers, Strings
from localllm.core.gguf.source import DAMAGED, Source
from localllm.core.model.spec import MetadataValue
from localllm.errors import GgufError

MAX_KEYS = 4096
"""SmolLM2 and Gemma 3 have 30; llama.cpp knows 270 (`Keys` in gguf-py 0.19)."""
MAX_KEY_BYTES = 256
"""The format allows 65535; the longest that llama.cpp knows has 55."""
MAX_STRINGS = 1 << 21
"""Texts in all arrays of a header: eight times the vocabulary of Gemma 3."""

_BOOL, _STRING, _ARRAY = 7, 8, 9
_CODES = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""`enum gguf_type` (ggml's gguf.h) as `struct` letters."""
_NAMES = {
    0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", _BOOL: "bool",
    _STRING: "text", _ARRAY: "array", 10: "u64", 11: "i64", 12: "f64",
}  # fmt: skip

_U64 = struct.Struct("<Q")
_SMALLEST_PAIR = 8 + 1 + 4 + 1

_TYPED = {
    "general.architecture": ("text",),
    "general.alignment": ("u32",),
    "tokenizer.ggml.tokens": ("array of text",),
    "tokenizer.ggml.merges": ("array of text",),
    "tokenizer.ggml.scores": ("array of f32",),
    "tokenizer.ggml.token_type": ("array of i32", "array of u32"),
    "tokenizer.ggml.precompiled_charsmap": ("array of i8", "array of u8"),
    "general.type": ("text",),
    "adapter.type": ("text",),
    "adapter.lora.alpha": ("f32",),
}
"""What these must be: llama.cpp reads the arrays through a pointer (`llama-vocab.cpp`), and aborts
on an adapter's keys of another type (`llama-adapter.cpp`)."""


def read_pairs(source: Source, count: int) -> dict[str, MetadataValue]:
    """Read `count` pairs. Raises GgufError at the first that cannot be right."""
    if count > MAX_KEYS:
        raise GgufError(f"the header claims {count} keys; at most {MAX_KEYS} are read. {DAMAGED}")
    source.require(count * _SMALLEST_PAIR, f"the list of {count} keys")
    pairs: dict[str, MetadataValue] = {}
    strings_left = MAX_STRINGS
    for number in range(1, count + 1):
        key = _key(source, f"key {number} of {count}")
        if key in pairs:
            raise GgufError(f"the key {key!r} is there twice (duplicate). {DAMAGED}")
        value = _value(source, key, strings_left)
        if isinstance(value, Strings):
            strings_left -= len(value)
        pairs[key] = value
    return pairs


def name(raw: bytes, what: str) -> str:
    """Decode a key or a tensor's name. Raises GgufError for one that no terminal may see."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise GgufError(f"{what} is not UTF-8: {raw[:40]!r}. {DAMAGED}") from error
    if not text:
        raise GgufError(f"{what} is empty. {DAMAGED}")
    if not text.isprintable():
        raise GgufError(f"{what} holds control characters: {text[:40]!a}. {DAMAGED}")
    return text


def _key(source: Source, what: str) -> str:
    length = source.u64(what)
    if length > MAX_KEY_BYTES:
        raise GgufError(
            f"{what} claims a length of {length} bytes; at most {MAX_KEY_BYTES} are read. {DAMAGED}"
        )
    return name(source.text(length, what), what)


def _value(source: Source, key: str, strings_left: int) -> MetadataValue:
    what = f"the value of {key!r}"
    kind = source.u32(what)
    if kind == _ARRAY:
        element = source.u32(what)
        _check_type(key, f"array of {_kind(element, key)}")
        return _array(source, element, what, strings_left)
    _check_type(key, _kind(kind, key))
    if kind == _STRING:
        return source.text(source.u64(what), what).decode("utf-8", "replace")
    return _scalar(source, kind, what)


def _kind(kind: int, key: str) -> str:
    if kind not in _NAMES:
        raise GgufError(f"{key!r} has the unknown value type {kind} (0 to 12 exist). {DAMAGED}")
    return _NAMES[kind]


def _check_type(key: str, found: str) -> None:
    allowed = _TYPED.get(key, (found,))
    if found not in allowed:
        raise GgufError(f"{key!r} has the type {found}; it must be {allowed[0]}. {DAMAGED}")


def _scalar(source: Source, kind: int, what: str) -> MetadataValue:
    layout = struct.Struct("<" + _CODES[kind])
    raw = source.take(layout.size, what)
    if kind == _BOOL:
        _check_booleans(raw, what)
    value: int | float | bool = layout.unpack(raw)[0]
    return value


def _array(source: Source, element: int, what: str, strings_left: int) -> Numbers | Strings:
    count = source.u64(what)
    if element == _ARRAY:
        raise GgufError(f"{what} is a nested array, which no reader supports. {DAMAGED}")
    if element == _STRING:
        return _strings(source, count, what, strings_left)
    code = _CODES[element]
    raw = source.take(count * struct.calcsize("<" + code), f"{what} ({count} elements)")
    if element == _BOOL:
        _check_booleans(raw, what)
    return Numbers(raw, code)


def _check_booleans(raw: bytearray, what: str) -> None:
    wrong = raw.translate(None, b"\0\1")
    if wrong:
        raise GgufError(f"{what} holds a boolean of {wrong[0]}; only 0 and 1 exist. {DAMAGED}")


def _strings(source: Source, count: int, what: str, strings_left: int) -> Strings:
    """Read `count` texts and note where each starts.

    Read are always as many bytes as the array must still have: 8 for the length of each text to
    come and the rest of the one begun. So nothing after the array is touched.
    """
    source.require(8 * count, f"{what} ({count} texts)")
    if count > strings_left:
        raise GgufError(
            f"{what} claims {count} texts; all arrays of a header together may have {MAX_STRINGS}"
            f" and {strings_left} of these are left. {DAMAGED}"
        )
    raw = bytearray()
    starts = array("I")
    at = 0
    while len(starts) < count:
        needed = at + 8 * (count - len(starts)) + _length_at(raw, at)
        source.append(raw, needed - len(raw), f"{what}, text {len(starts) + 1} of {count},")
        at = _walk(raw, at, count, starts)
    starts.append(at + 8)
    return Strings(raw, starts)


def _length_at(raw: bytearray, at: int) -> int:
    """Length of the text that begins there; 0 while its length itself is not read."""
    return int(_U64.unpack_from(raw, at)[0]) if at + 8 <= len(raw) else 0


def _walk(raw: bytearray, at: int, count: int, starts: "array[int]") -> int:
    """Step over the whole texts in `raw`; a quarter of a million passes, so the loop is bare."""
    length_at = _U64.unpack_from
    note = starts.append
    end = len(raw)
    last_length = end - 8
    for _ in range(count - len(starts)):
        if at > last_length:
            break
        start = at + 8
        after = start + length_at(raw, at)[0]
        if after > end:
            break
        note(start)
        at = after
    return at
