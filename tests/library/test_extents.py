"""Extents behave as sets of positions, and pieces of a file are claimed once."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from localllm.library.download.extents import Extents, first_unclaimed

SMALL = 40
ranges = st.tuples(st.integers(0, SMALL), st.integers(0, SMALL))
changes = st.lists(st.tuples(st.booleans(), ranges), max_size=30)


def built(steps: list[tuple[bool, tuple[int, int]]]) -> tuple[Extents, set[int]]:
    """Extents after some changes, and the same as a set of positions."""
    extents, positions = Extents(), set[int]()
    for add, (start, end) in steps:
        if add:
            extents.add(start, end)
            positions |= set(range(start, end))
        else:
            extents.remove(start, end)
            positions -= set(range(start, end))
    return extents, positions


@given(changes)
def test_extents_are_the_set_of_their_positions(
    steps: list[tuple[bool, tuple[int, int]]],
) -> None:
    extents, positions = built(steps)
    assert {each for start, end in extents.ranges for each in range(start, end)} == positions
    assert extents.total == len(positions)
    assert extents.end == max(positions, default=-1) + 1
    missing = {each for start, end in extents.gaps(SMALL) for each in range(start, end)}
    assert missing == set(range(SMALL)) - positions


@given(changes)
def test_extents_are_as_few_ranges_as_possible(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    found = built(steps)[0].ranges
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


@given(changes, st.integers(0, SMALL))
def test_the_contiguous_end_is_the_first_missing_position(
    steps: list[tuple[bool, tuple[int, int]]], start: int
) -> None:
    extents, positions = built(steps)
    reached = extents.contiguous_end(start)
    assert set(range(start, reached)) <= positions
    assert reached not in positions


@given(changes, changes, st.none() | st.integers(1, 10))
def test_a_piece_is_the_first_that_is_neither_present_nor_claimed(
    present: list[tuple[bool, tuple[int, int]]],
    claimed: list[tuple[bool, tuple[int, int]]],
    max_bytes: int | None,
) -> None:
    extents, positions = built(present)
    claims, others = built(claimed)
    free = set(range(SMALL)) - positions - others
    piece = first_unclaimed(extents, claims, SMALL, max_bytes)
    assert (piece is None) == (not free)
    if piece is not None:
        assert piece[0] == min(free)
        assert set(range(*piece)) <= free
        assert max_bytes is None or piece[1] - piece[0] <= max_bytes


@given(st.integers(1, 2**40), st.integers(1, 2**22), st.integers(1, 8))
def test_pieces_claimed_one_after_the_other_cover_the_file_once(
    size: int, max_bytes: int, threads: int
) -> None:
    max_bytes = max(max_bytes, size // 50)
    present, claimed, total = Extents(), Extents(), 0
    while piece := first_unclaimed(present, claimed, size, max_bytes):
        claimed.add(*piece)
        total += piece[1] - piece[0]
        if len(claimed.ranges) >= threads:
            present.add(*claimed.ranges[0])
    assert total == size
