"""The arrays of a header as they lie in the file: no object per element until one is read.

A vocabulary has a quarter of a million texts and most callers want only its length.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar, overload

from localllm.core.gguf.format import SCALARS, ValueType

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
