"""Which bytes of a file are there: half-open ranges, kept sorted, disjoint and apart. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""The bytes from the first number up to, not including, the second."""


class Extents:
    """A set of byte positions, as few ranges as can say it."""

    __slots__ = ("_ends", "_starts", "total")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        for start, end in ranges:
            self.add(start, end)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self.ranges == other.ranges

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges, first to last."""
        return tuple(zip(self._starts, self._ends, strict=True))

    @property
    def frontier(self) -> int:
        """The first byte that is not there."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def end(self) -> int:
        """Where the last range ends; 0 when there is none."""
        return self._ends[-1] if self._ends else 0

    def reach(self, position: int) -> int:
        """Up to where the bytes from `position` on are there: `position` itself when it is not."""
        index = bisect_right(self._starts, position) - 1
        return max(position, self._ends[index]) if index >= 0 else position

    def add(self, start: int, end: int) -> None:
        """Put the bytes of a range in. An empty range changes nothing."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._replace(first, last, [(start, end)])

    def remove(self, start: int, end: int) -> None:
        """Take the bytes of a range out."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        kept = [(self._starts[first], start), (end, self._ends[last - 1])]
        self._replace(first, last, [(a, b) for a, b in kept if a < b])

    def gaps(self, size: int) -> Iterator[Range]:
        """The ranges below `size` that are not there, first to last."""
        position = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if start >= size:
                break
            if position < start:
                yield position, start
            position = end
        if position < size:
            yield position, size

    def _replace(self, first: int, last: int, by: list[Range]) -> None:
        gone = zip(self._starts[first:last], self._ends[first:last], strict=True)
        self.total += sum(b - a for a, b in by) - sum(b - a for a, b in gone)
        self._starts[first:last] = [a for a, _ in by]
        self._ends[first:last] = [b for _, b in by]


def first_piece(there: Extents, taken: Extents, size: int, most: int | None) -> Range | None:
    """The first bytes that are neither there nor taken by somebody, at most `most` of them.

    None when nothing is left to take.
    """
    for gap_start, gap_end in there.gaps(size):
        for start, end in taken.gaps(gap_end):
            start = max(start, gap_start)
            if start < end:
                return start, end if most is None else min(end, start + most)
    return None
