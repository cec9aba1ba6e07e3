"""The pure parts of the downloader: ranges, answers, waits, rates, notes."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.library.download import journal
from localllm.library.download.extents import Extents, first_piece
from localllm.library.download.http_response import (
    Answer,
    Bytes,
    Changed,
    Moved,
    Refused,
    TryAgain,
    Unauthorized,
    read_answer,
    same_etag,
    usable_in_if_range,
)
from localllm.library.download.journal import Notes
from localllm.library.download.progress import WINDOW_S, Pace, StallWatch
from localllm.library.download.retry_policy import Patience
from localllm.library.download.target import DownloadTarget

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
def test_what_extents_reach_is_there_and_no_more(
    steps: list[tuple[bool, tuple[int, int]]], start: int
) -> None:
    extents, positions = built(steps)
    reached = extents.reach(start)
    assert set(range(start, reached)) <= positions
    assert reached not in positions
    assert extents.frontier == extents.reach(0)


@given(changes, changes, st.none() | st.integers(1, 10))
def test_a_piece_is_the_first_that_nobody_has(
    there: list[tuple[bool, tuple[int, int]]],
    taken: list[tuple[bool, tuple[int, int]]],
    most: int | None,
) -> None:
    extents, positions = built(there)
    claimed, others = built(taken)
    free = set(range(SMALL)) - positions - others
    piece = first_piece(extents, claimed, SMALL, most)
    assert (piece is None) == (not free)
    if piece is not None:
        assert piece[0] == min(free)
        assert set(range(*piece)) <= free
        assert most is None or piece[1] - piece[0] <= most


@given(st.integers(1, 2**40), st.integers(1, 2**22), st.integers(1, 8))
def test_pieces_taken_one_after_the_other_cover_the_file_once(
    size: int, most: int, lanes: int
) -> None:
    most = max(most, size // 50)
    there, taken, total = Extents(), Extents(), 0
    while piece := first_piece(there, taken, size, most):
        taken.add(*piece)
        total += piece[1] - piece[0]
        if len(taken.ranges) >= lanes:
            there.add(*taken.ranges[0])
    assert total == size


def answer(status: int, start: int = 0, etag: str | None = '"a"', **headers: str) -> Answer:
    """What an answer about a file of 100 bytes means."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_answer(status, named, start=start, size=100, etag=etag)


def test_the_part_that_was_asked_for_is_taken() -> None:
    said = _with_etag('"a"')
    assert said == Bytes(start=10, end=100, etag='"a"', whole=False)


@pytest.mark.parametrize(
    "content_range",
    ["", "bytes 0-99/100", "bytes 10-100/100", "bytes 10-9/100", "bytes 10-99/101", "bytes */100",
     "bytes 10-99", "items 10-99/100", "bytes 10-99/1" + "0" * 30, "bytes \uff11\uff10-99/100"],
)  # fmt: skip
def test_another_part_is_not_taken(content_range: str) -> None:
    assert isinstance(answer(206, 10, content_range=content_range), TryAgain)


def test_the_whole_file_is_taken_when_its_length_is_right_or_not_said() -> None:
    assert answer(200, 10, content_length="100") == Bytes(start=0, end=100, etag=None, whole=True)
    assert isinstance(answer(200), Bytes)
    assert isinstance(answer(200, content_length="99"), TryAgain)
    assert isinstance(answer(200, content_length="-1"), TryAgain)


def test_a_web_page_is_never_taken() -> None:
    assert isinstance(answer(200, content_type="text/html; charset=utf-8"), Refused)
    assert isinstance(answer(200, content_type="Text/HTML", content_length="812"), Refused)


def test_an_encoded_body_is_never_taken() -> None:
    for status in (200, 206):
        assert isinstance(answer(status, content_encoding="gzip"), TryAgain)


def test_another_etag_is_a_change_and_a_weaker_one_is_not() -> None:
    assert isinstance(_with_etag('"b"'), Changed)
    assert isinstance(_with_etag('W/"a"'), Bytes)
    assert same_etag('W/"a"', '"a"') and not same_etag('"a"', '"b"')
    assert usable_in_if_range('"a"')
    assert not usable_in_if_range('W/"a"') and not usable_in_if_range(None)


def _with_etag(etag: str) -> Answer:
    headers = {"content-range": "bytes 10-99/100", "etag": etag}
    return read_answer(206, headers, start=10, size=100, etag='"a"')


def test_other_statuses_mean_what_they_say() -> None:
    assert answer(302, location="https://cdn") == Moved(to="https://cdn")
    assert isinstance(answer(302), TryAgain)
    assert isinstance(answer(416), Changed)
    assert answer(401, x_error_code="GatedRepo") == Unauthorized(status=401, code="GatedRepo")
    assert isinstance(answer(451), Refused)
    for status in (408, 425, 429, 500, 502, 503, 504, 599):
        assert isinstance(answer(status), TryAgain)


@given(
    st.integers(100, 999),
    st.dictionaries(
        st.sampled_from(
            ["content-length", "content-range", "content-type", "etag", "location",
             "content-encoding", "x-error-code"]
        ),
        st.text(max_size=40),
    ),
)  # fmt: skip
def test_no_answer_is_too_strange(status: int, headers: dict[str, str]) -> None:
    said = read_answer(status, headers, start=10, size=100, etag='"a"')
    if isinstance(said, Bytes):
        assert 0 <= said.start <= 10 < said.end <= 100


@given(st.integers(1, 20), st.none() | st.floats(0, 300), st.booleans())
def test_waits_grow_end_and_heed_the_server(
    failures: int, asked_s: float | None, answered: bool
) -> None:
    patience = Patience()
    wait_s = patience.wait_s(failures, asked_s=asked_s, answered=answered)
    if wait_s is None:
        assert failures > patience.fewer
        later = patience.wait_s(failures + 1, asked_s=asked_s, answered=answered)
        assert later is None
    else:
        assert wait_s >= (asked_s or 0)
        assert wait_s <= max(patience.waits_s[-1], asked_s or 0)


@given(st.floats(300.1, 1e12), st.booleans())
def test_nobody_waits_for_a_day(asked_s: float, answered: bool) -> None:
    assert Patience().wait_s(1, asked_s=asked_s, answered=answered) is None


@given(st.floats(1, 1e9), st.integers(3, 200))
def test_a_steady_pace_is_read_as_it_is(rate: float, samples: int) -> None:
    pace = Pace()
    for each in range(samples):
        pace.add(each * 0.5, round(each * 0.5 * rate))
    read = pace.rate()
    assert read == pytest.approx(rate, rel=1e-6, abs=2)
    assert pace.remaining_s(round(10 * (read or 0))) == pytest.approx(10, rel=0.1)


def test_a_pace_forgets_what_is_long_ago_and_says_nothing_too_soon() -> None:
    pace = Pace()
    assert pace.rate() is None
    pace.add(0.0, 0)
    pace.add(0.1, 10**9)
    assert pace.rate() is None and pace.remaining_s(5) is None and pace.remaining_s(0) == 0
    for each in range(100):
        pace.add(1.0 + each, 10**9)
    assert pace.rate() == 0
    assert pace.remaining_s(5) is None
    assert WINDOW_S < 100


def test_a_stall_is_too_few_bytes_in_the_time() -> None:
    watch = StallWatch(least_bytes=100, within_s=30, now_s=0)
    assert not watch.stalled(29, 50)
    assert not watch.stalled(29.9, 50)  # a hundred: the time begins again
    assert not watch.stalled(59, 99)
    assert watch.stalled(60, 0)


WANTED = DownloadTarget(
    repo="o/r", commit="c", name="n", size_bytes=1000, sha256="a" * 64, path=Path("n")
)
NOTES = Notes(
    repo="o/r",
    commit="c",
    file="n",
    size_bytes=1000,
    sha256="a" * 64,
    endpoint="https://hub",
    etag='"e"',
    boot="one",
    appending=True,
    synced=((0, 100),),
    written=((0, 300),),
    digests=("b" * 64,),
)


def test_notes_are_read_as_they_were_written() -> None:
    for notes in (NOTES, replace(NOTES, sha256=None, etag=None, endpoint=None, digests=())):
        assert journal.parse(journal.serialize(notes)) == notes


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nonsense_is_no_notes(text: bytes) -> None:
    assert journal.parse(text) is None


@given(st.data())
def test_notes_with_a_field_of_nonsense_are_refused_or_harmless(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(Notes.__slots__)))
    nonsense = data.draw(
        st.none() | st.integers() | st.text() | st.lists(st.lists(st.integers(), max_size=3))
    )
    found = journal.parse(_changed(field, nonsense))
    if found is not None:
        there = found.there(boot=found.boot, length=found.size_bytes)
        assert 0 <= there.total <= there.end <= found.size_bytes


def _changed(field: str, value: object) -> bytes:
    return json.dumps({**json.loads(journal.serialize(NOTES)), field: value}).encode()


def test_after_a_restart_only_the_synced_bytes_are_there() -> None:
    assert NOTES.there(boot="one", length=400).ranges == ((0, 400),)
    assert NOTES.there(boot="one", length=200).ranges == ((0, 200),)
    assert NOTES.there(boot="two", length=400).ranges == ((0, 100),)
    assert NOTES.there(boot="", length=400).ranges == ((0, 100),)
    several = replace(NOTES, appending=False, written=((0, 300), (500, 600)))
    assert several.there(boot="one", length=1000).total == 400


def test_notes_are_about_a_hash_or_else_about_a_commit() -> None:
    assert NOTES.about(WANTED)
    assert NOTES.about(replace(WANTED, commit="d", name="m"))
    assert not NOTES.about(replace(WANTED, sha256="b" * 64))
    assert not NOTES.about(replace(WANTED, size_bytes=999))
    unhashed = replace(NOTES, sha256=None)
    assert unhashed.about(replace(WANTED, sha256=None))
    assert not unhashed.about(replace(WANTED, sha256=None, commit="d"))


@given(st.integers(0, 2**50))
def test_a_file_has_a_bounded_number_of_chunks(size: int) -> None:
    chunk = journal.chunk_size(size)
    assert chunk & (chunk - 1) == 0
    assert -(-size // chunk) <= 2048
