"""The journal of an incomplete download: its format, and which bytes it vouches for."""

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from localllm.library.download import journal
from localllm.library.download.journal import Journal
from localllm.library.download.target import DownloadTarget, journal_path, part_path

TARGET = DownloadTarget(
    repo="o/r", commit="c", name="n", size_bytes=1000, sha256="a" * 64, path=Path("n")
)
JOURNAL = Journal(
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


def test_a_journal_is_read_as_it_was_written() -> None:
    for each in (JOURNAL, replace(JOURNAL, sha256=None, etag=None, endpoint=None, digests=())):
        assert journal.parse(journal.serialize(each)) == each


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nonsense_is_no_journal(text: bytes) -> None:
    assert journal.parse(text) is None


@given(st.data())
def test_a_journal_with_a_field_of_nonsense_is_refused_or_harmless(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(Journal.__slots__)))
    nonsense = data.draw(
        st.none() | st.integers() | st.text() | st.lists(st.lists(st.integers(), max_size=3))
    )
    found = journal.parse(_changed(field, nonsense))
    if found is not None:
        usable = found.usable(boot=found.boot, length=found.size_bytes)
        assert 0 <= usable.total <= usable.end <= found.size_bytes


def _changed(field: str, value: object) -> bytes:
    return json.dumps({**json.loads(journal.serialize(JOURNAL)), field: value}).encode()


def test_after_a_restart_only_the_synced_bytes_are_usable() -> None:
    assert JOURNAL.usable(boot="one", length=400).ranges == ((0, 400),)
    assert JOURNAL.usable(boot="one", length=200).ranges == ((0, 200),)
    assert JOURNAL.usable(boot="two", length=400).ranges == ((0, 100),)
    assert JOURNAL.usable(boot="", length=400).ranges == ((0, 100),)
    several = replace(JOURNAL, appending=False, written=((0, 300), (500, 600)))
    assert several.usable(boot="one", length=1000).total == 400


def test_a_journal_describes_a_hash_or_else_a_commit() -> None:
    assert JOURNAL.describes(TARGET)
    assert JOURNAL.describes(replace(TARGET, commit="d", name="m"))
    assert not JOURNAL.describes(replace(TARGET, sha256="b" * 64))
    assert not JOURNAL.describes(replace(TARGET, size_bytes=999))
    unhashed = replace(JOURNAL, sha256=None)
    assert unhashed.describes(replace(TARGET, sha256=None))
    assert not unhashed.describes(replace(TARGET, sha256=None, commit="d"))


@given(st.integers(0, 2**50))
def test_a_file_has_a_bounded_number_of_chunks(size: int) -> None:
    chunk = journal.chunk_size(size)
    assert chunk & (chunk - 1) == 0
    assert -(-size // chunk) <= 2048


WRITTEN_BY_0_1 = b"""{
 "version": 1,
 "repo": "o/r",
 "commit": "c",
 "file": "n",
 "size_bytes": 1000,
 "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
 "endpoint": "https://hub",
 "etag": "\\"e\\"",
 "boot": "one",
 "appending": true,
 "synced": [
  [
   0,
   100
  ]
 ],
 "written": [
  [
   0,
   300
  ]
 ],
 "chunk_bytes": 262144,
 "digests": [
  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
 ]
}"""


def test_the_format_on_the_disk_is_that_of_the_first_version() -> None:
    assert journal.parse(WRITTEN_BY_0_1) == JOURNAL
    assert journal.serialize(JOURNAL) == WRITTEN_BY_0_1


def test_the_bytes_on_the_disk_are_the_files_or_those_of_the_part_that_count(
    tmp_path: Path,
) -> None:
    target = replace(TARGET, path=tmp_path / "n")
    assert journal.bytes_on_disk(target) == 0
    part_path(target.path).write_bytes(bytes(400))
    assert journal.bytes_on_disk(target) == 0  # without a journal nothing vouches for them
    journal.save(journal_path(target.path), replace(JOURNAL, boot=journal.boot_id()))
    assert journal.bytes_on_disk(target) == journal.resumable_bytes(target) == 400
    assert journal.bytes_on_disk(replace(target, sha256="c" * 64)) == 0
    target.path.write_bytes(bytes(999))  # another file in its place
    assert journal.bytes_on_disk(target) == 400
    target.path.write_bytes(bytes(1000))
    assert journal.bytes_on_disk(target) == 1000
