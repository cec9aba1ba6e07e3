"""A set of byte positions as half-open ranges, kept sorted, disjoint and apart. Pure.

Apart from the part file, so that its arithmetic is tested as a set of integers, without threads.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""The bytes from the first number up to, not including, the second."""


class Extents:
    """A mutable set of byte positions in the fewest ranges that can express it."""

    __slots__ = ("_ends", "_starts", "total")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        for start, end in ranges:
            self.add(start, end)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self.ranges == other.ranges

    __hash__ = None  # type: ignore[assignment]  # mutable

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges, first to last."""
        return tuple(zip(self._starts, self._ends, strict=True))

    @property
    def end(self) -> int:
        """The end of the last range; 0 for the empty set."""
        return self._ends[-1] if self._ends else 0

    def contiguous_end(self, position: int = 0) -> int:
        """Return the end of the range that holds `position`; `position` itself when none does."""
        index = bisect_right(self._starts, position) - 1
        return max(position, self._ends[index]) if index >= 0 else position

    def add(self, start: int, end: int) -> None:
        """Add the bytes of a range. An empty range changes nothing."""
        if start >= end:
            return
        # Ranges that overlap or touch the new one merge with it.
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._replace(first, last, [(start, end)])

    def remove(self, start: int, end: int) -> None:
        """Remove the bytes of a range. An empty range changes nothing."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        around = [(self._starts[first], start), (end, self._ends[last - 1])]
        self._replace(first, last, [(a, b) for a, b in around if a < b])

    def gaps(self, size: int) -> Iterator[Range]:
        """Yield the ranges below `size` that are not in the set, first to last."""
        position = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if start >= size:
                break
            if position < start:
                yield position, start
            position = end
        if position < size:
            yield position, size

    def _replace(self, first: int, last: int, ranges: list[Range]) -> None:
        old = zip(self._starts[first:last], self._ends[first:last], strict=True)
        self.total += sum(b - a for a, b in ranges) - sum(b - a for a, b in old)
        self._starts[first:last] = [a for a, _ in ranges]
        self._ends[first:last] = [b for _, b in ranges]


def first_unclaimed(
    present: Extents, claimed: Extents, size: int, max_bytes: int | None
) -> Range | None:
    """Return the first range in neither set, cut to `max_bytes`; None when nothing is left."""
    for gap_start, gap_end in present.gaps(size):
        for free_start, end in claimed.gaps(gap_end):
            start = max(free_start, gap_start)
            if start < end:
                return start, end if max_bytes is None else min(end, start + max_bytes)
    return None
