"""The key-value pairs of a header, and its arrays as they lie in the file.

A vocabulary has a quarter of a million texts and most callers want only its length: no object is
made for an element until it is read.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar, overload

from localllm.core.gguf.byte_reader import DAMAGED, ByteReader
from localllm.core.gguf.format import SCALARS, U64, ValueType
from localllm.core.model.spec import MetadataValue
from localllm.errors import GgufError

MAX_KEYS = 4096
"""SmolLM2 and Gemma 3 have 30; llama.cpp knows 270 (`Keys` in gguf-py 0.19)."""
MAX_KEY_BYTES = 256
"""The format allows 65535; the longest that llama.cpp knows has 55."""
MAX_STRINGS = 1 << 21
"""Texts in all arrays of a header: eight times the vocabulary of Gemma 3."""

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
"""The types these must have: llama.cpp reads the arrays through a pointer (`llama-vocab.cpp`), and
aborts on an adapter's keys of another type (`llama-adapter.cpp`)."""


Item = TypeVar("Item")


class _Packed(Sequence[Item]):
    """Read-only; equal to any sequence of equal items; shows its first items and its length."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have no hash

    def _item(self, index: int) -> Item:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self._item(each) for each in range(*index.indices(len(self))))
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"index {index} of an array of {length}")
        return self._item(index % length)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        shown = ", ".join(repr(item) for item in self[:3])
        return f"[{shown}{', ...' if len(self) > 3 else ''}] ({len(self)})"


class Numbers(_Packed[float]):
    """Integers, floats or booleans. `raw` is the elements as the file has them."""

    __slots__ = ("_layout", "_raw", "element")

    def __init__(self, raw: bytes | bytearray, element: ValueType) -> None:
        self.element = element
        self._layout = SCALARS[element]
        self._raw = raw

    def __len__(self) -> int:
        return len(self._raw) // self._layout.size

    def __iter__(self) -> Iterator[float]:
        return (value for (value,) in self._layout.iter_unpack(self._raw))

    def _item(self, index: int) -> float:
        value: float = self._layout.unpack_from(self._raw, index * self._layout.size)[0]
        return value

    def __reduce__(self) -> tuple[type, tuple[bytes, ValueType]]:
        return Numbers, (bytes(self._raw), self.element)


class Strings(_Packed[str]):
    """Texts, decoded one at a time.

    A byte that is not UTF-8 reads as U+FFFD: some vocabularies hold parts of characters, and a
    lone surrogate in its place would break every encoder that meets it later. (The `gguf` package
    raises instead.)

    `raw` is the array as the file has it, a length of 8 bytes before each text; `starts` says
    where each text starts, and at its end where one after the last would.
    """

    __slots__ = ("_raw", "_starts")

    def __init__(self, raw: bytes | bytearray, starts: "array[int]") -> None:
        self._raw = raw
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[str]:
        raw = self._raw
        for start, after in pairwise(self._starts):
            yield raw[start : after - 8].decode("utf-8", "replace")

    def _item(self, index: int) -> str:
        start, end = self._starts[index], self._starts[index + 1] - 8
        return self._raw[start:end].decode("utf-8", "replace")

    def __reduce__(self) -> tuple[type, tuple[bytes, "array[int]"]]:
        return Strings, (bytes(self._raw), self._starts)


def read_pairs(reader: ByteReader, count: int) -> dict[str, MetadataValue]:
    """Read `count` pairs. Raises GgufError at the first that cannot be right."""
    if count > MAX_KEYS:
        raise GgufError(f"the header claims {count} keys; at most {MAX_KEYS} are read. {DAMAGED}")
    reader.require(count * _SMALLEST_PAIR, f"the list of {count} keys")
    pairs: dict[str, MetadataValue] = {}
    strings_left = MAX_STRINGS
    for number in range(1, count + 1):
        key = _key(reader, f"key {number} of {count}")
        if key in pairs:
            raise GgufError(f"the key {key!r} is there twice (duplicate). {DAMAGED}")
        value = _value(reader, key, strings_left)
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


def _key(reader: ByteReader, what: str) -> str:
    length = reader.u64(what)
    if length > MAX_KEY_BYTES:
        raise GgufError(
            f"{what} claims a length of {length} bytes; at most {MAX_KEY_BYTES} are read. {DAMAGED}"
        )
    return name(reader.text(length, what), what)


def _value(reader: ByteReader, key: str, strings_left: int) -> MetadataValue:
    what = f"the value of {key!r}"
    kind = _kind(reader.u32(what), key)
    if kind is ValueType.ARRAY:
        element = _kind(reader.u32(what), key)
        _check_type(key, f"array of {element.label}")
        return _array(reader, element, what, strings_left)
    _check_type(key, kind.label)
    if kind is ValueType.STRING:
        return reader.text(reader.u64(what), what).decode("utf-8", "replace")
    return _scalar(reader, kind, what)


def _kind(number: int, key: str) -> ValueType:
    try:
        return ValueType(number)
    except ValueError as error:
        raise GgufError(
            f"{key!r} has the unknown value type {number} (0 to 12 exist). {DAMAGED}"
        ) from error


def _check_type(key: str, found: str) -> None:
    allowed = _TYPED.get(key, (found,))
    if found not in allowed:
        raise GgufError(f"{key!r} has the type {found}; it must be {allowed[0]}. {DAMAGED}")


def _scalar(reader: ByteReader, kind: ValueType, what: str) -> MetadataValue:
    layout = SCALARS[kind]
    raw = reader.take(layout.size, what)
    if kind is ValueType.BOOL:
        _check_booleans(raw, what)
    value: int | float | bool = layout.unpack(raw)[0]
    return value


def _array(
    reader: ByteReader, element: ValueType, what: str, strings_left: int
) -> Numbers | Strings:
    count = reader.u64(what)
    if element is ValueType.ARRAY:
        raise GgufError(f"{what} is a nested array, which no reader supports. {DAMAGED}")
    if element is ValueType.STRING:
        return _strings(reader, count, what, strings_left)
    raw = reader.take(count * SCALARS[element].size, f"{what} ({count} elements)")
    if element is ValueType.BOOL:
        _check_booleans(raw, what)
    return Numbers(raw, element)


def _check_booleans(raw: bytearray, what: str) -> None:
    wrong = raw.translate(None, b"\0\1")
    if wrong:
        raise GgufError(f"{what} holds a boolean of {wrong[0]}; only 0 and 1 exist. {DAMAGED}")


def _strings(reader: ByteReader, count: int, what: str, strings_left: int) -> Strings:
    """Read `count` texts and record where each starts.

    Each pass reads the bytes that the array must still have: 8 for the length of each text to
    come and the rest of the one begun. So nothing after the array is touched.
    """
    reader.require(8 * count, f"{what} ({count} texts)")
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
        reader.append(raw, needed - len(raw), f"{what}, text {len(starts) + 1} of {count},")
        at = _walk(raw, at, count, starts)
    starts.append(at + 8)
    return Strings(raw, starts)


def _length_at(raw: bytearray, at: int) -> int:
    """Length of the text that begins there; 0 while its length itself is not read."""
    return int(U64.unpack_from(raw, at)[0]) if at + 8 <= len(raw) else 0


def _walk(raw: bytearray, at: int, count: int, starts: "array[int]") -> int:
    """Record where the whole texts in `raw` start; return where the first that is cut starts."""
    length_at = U64.unpack_from  # a quarter of a million passes: the loop is kept bare
    record = starts.append
    end = len(raw)
    last_length = end - 8
    for _ in range(count - len(starts)):
        if at > last_length:
            break
        start = at + 8
        after = start + length_at(raw, at)[0]
        if after > end:
            break
        record(start)
        at = after
    return at
