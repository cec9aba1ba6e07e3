"""The downloader, its stops and resumes, and what the disk does to it."""

import errno
import hashlib
import json
import os
import threading
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest

from localllm.errors import (
    DownloadFailed,
    DownloadStopped,
    NotFound,
    Offline,
    StoreError,
    UsageError,
)
from localllm.library.download import journal
from localllm.library.download.downloader import download
from localllm.library.download.journal import Journal
from localllm.library.download.progress import Progress
from localllm.library.download.target import DownloadTarget, journal_path, part_path
from localllm.library.http.client import Access
from tests.hub import (
    FakeHub,
    Refuse,
    SparseFile,
    Stall,
    Throttle,
)
from tests.library.downloads import FAST_OPTIONS, NAME, REPO, SIZE, Site, content, site_in, stopped

CHUNK = 256 * 2**10


@pytest.fixture
def site(hub: FakeHub, tmp_path: Path) -> Site:
    return site_in(hub, tmp_path / "models", content())


@pytest.mark.smoke
def test_a_file_comes_complete_with_nothing_beside_it(site: Site) -> None:
    done = site.fetch()
    site.assert_complete()
    assert (done.resumed_from, done.transferred_bytes) == (0, SIZE)
    assert done.sha256 == site.target.sha256
    assert site.shown[-1].done_bytes == site.shown[-1].total_bytes == SIZE
    assert len(site.hub.requests) == len(site.hub.cdn_requests) == 1


def test_a_file_that_is_there_is_checked_and_not_fetched_again(site: Site) -> None:
    site.path.write_bytes(site.data)
    done = site.fetch(access=replace(site.access, offline="--offline"))
    assert (done.resumed_from, done.transferred_bytes) == (SIZE, 0)
    assert not site.hub.requests


def test_another_file_in_its_place_stays_until_the_new_one_is_complete(site: Site) -> None:
    other = bytes(SIZE)
    site.path.write_bytes(other)
    site.hub.faults.add(Refuse(404))
    with pytest.raises(NotFound):
        site.fetch()
    assert site.path.read_bytes() == other
    site.hub.faults.clear()
    site.fetch()
    site.assert_complete()


@pytest.mark.smoke
def test_several_connections_bring_the_same_bytes(site: Site) -> None:
    done = site.fetch(connections=5)
    site.assert_complete()
    assert done.transferred_bytes == SIZE
    assert len(site.hub.cdn_requests) == 16  # pieces of 200,000 bytes
    assert len(site.hub.requests) <= 5  # the address is asked for once a connection at most


@pytest.mark.parametrize("at", [1, 65_537, 1_000_000, SIZE - 1])
def test_a_stopped_download_is_kept_to_the_byte(site: Site, at: int) -> None:
    stopped(site, at)
    site.assert_only_kept()
    done = site.fetch()
    site.assert_complete()
    assert (done.resumed_from, done.transferred_bytes) == (at, SIZE - at)


def test_stopping_says_how_much_is_here_and_how_to_go_on(site: Site) -> None:
    site.hub.faults.add(Stall(2**20, threading.Event()))
    with pytest.raises(DownloadStopped) as caught:
        site.fetch(stop_at=2**20)
    assert str(caught.value) == (
        "Stopped: 1.0 MiB of 2.9 MiB is here. The same command goes on from there."
    )
    assert caught.value.exit_code == 130


def test_ctrl_c_is_a_stop(site: Site) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done_bytes >= 500_000:
            raise KeyboardInterrupt

    site.watch = interrupt
    site.hub.faults.add(Stall(500_000, threading.Event()))
    with pytest.raises(DownloadStopped, match=r"is here\. The same command goes on"):
        site.fetch()
    site.watch = lambda _: None
    site.hub.faults.clear()
    assert site.fetch().resumed_from == 500_000
    site.assert_complete()


@pytest.mark.parametrize(("first", "then"), [(1, 4), (4, 1), (4, 4)])
def test_the_number_of_connections_may_change_between_runs(
    site: Site, first: int, then: int
) -> None:
    site.hub.faults.add(Throttle(2e6))
    with pytest.raises(DownloadStopped):
        site.fetch(connections=first, stop_at=1_000_000)
    site.hub.faults.clear()
    done = site.fetch(connections=then)
    site.assert_complete()
    assert done.resumed_from >= 1_000_000
    assert done.resumed_from + done.transferred_bytes == SIZE


def test_a_byte_that_changed_on_the_disk_costs_one_chunk(site: Site) -> None:
    stopped(site, 2_500_000)
    with site.part.open("r+b") as part:
        part.seek(CHUNK + 5)
        part.write(bytes([site.data[CHUNK + 5] ^ 1]))
    done = site.fetch()
    site.assert_complete()
    assert done.transferred_bytes == SIZE - 2_500_000 + CHUNK


def test_after_a_restart_only_what_was_forced_to_the_disk_counts(site: Site) -> None:
    stopped(site, 1_000_000)
    document = json.loads(journal_path(site.path).read_text())
    document |= {"boot": "another", "synced": [[0, 600_000]]}
    journal_path(site.path).write_text(json.dumps(document))
    with site.part.open("r+b") as part:
        part.seek(600_000)
        part.write(bytes(400_000))  # what a power cut leaves of pages that were not written
    done = site.fetch()
    site.assert_complete()
    assert (done.resumed_from, done.transferred_bytes) == (600_000, SIZE - 600_000)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff" * 100])
def test_a_journal_that_cannot_be_read_starts_over(site: Site, text: bytes) -> None:
    stopped(site, 1_000_000)
    journal_path(site.path).write_bytes(text)
    assert site.fetch().resumed_from == 0
    site.assert_complete()


def test_a_part_that_somebody_cut_short_is_completed(site: Site) -> None:
    stopped(site, 1_000_000)
    with site.part.open("r+b") as part:
        part.truncate(300_000)
    assert site.fetch().resumed_from == 300_000
    site.assert_complete()


def test_a_disk_without_room_is_said_before_the_first_byte(site: Site) -> None:
    with pytest.raises(DownloadFailed, match=r"At least 2.9 MiB more .* and 2.9 MiB is free"):
        site.fetch(options=replace(FAST_OPTIONS, free_bytes=lambda _: SIZE - 1))
    assert not site.hub.requests
    stopped(site, 1_000_000)
    site.fetch(options=replace(FAST_OPTIONS, free_bytes=lambda _: SIZE - 1_000_000))
    site.assert_complete()


class Full(FileIO):
    """A file on a disk that is full after `capacity` bytes."""

    def __init__(self, path: Path, *, capacity: int, error: int = errno.ENOSPC) -> None:
        super().__init__(path, "r+")
        self._capacity = capacity
        self._error = error

    def write(self, data: object, /) -> int:
        block = memoryview(data)[: self._capacity - self.tell()]  # type: ignore[arg-type]  # bytes-like
        if not block:
            raise OSError(self._error, "the disk's own words")
        return super().write(block)


def test_a_disk_that_fills_meanwhile_keeps_what_came(site: Site) -> None:
    full = replace(FAST_OPTIONS, open_part=lambda path: Full(path, capacity=1_234_567))
    with pytest.raises(DownloadFailed, match=r"disk is full.*1.7 MiB more.*1.2 MiB of 2.9 MiB"):
        site.fetch(options=full)
    site.assert_only_kept()
    assert site.fetch().resumed_from == 1_234_567
    site.assert_complete()


def test_a_disk_that_refuses_is_one_clear_error(site: Site) -> None:
    refusing = replace(
        FAST_OPTIONS, open_part=lambda path: Full(path, capacity=0, error=errno.EROFS)
    )
    with pytest.raises(StoreError, match="cannot be written to: the disk's own words"):
        site.fetch(options=refusing)
    assert not list(site.directory.iterdir())


def test_a_place_that_cannot_be_made_is_one_clear_error(site: Site) -> None:
    site.directory.rmdir()
    site.directory.write_text("a file where the directory should be")
    with pytest.raises(StoreError, match="cannot be used"):
        site.fetch()
    assert not site.hub.requests


def test_a_read_only_directory_is_one_clear_error(site: Site) -> None:
    site.directory.chmod(0o500)
    try:
        if os.access(site.directory, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(StoreError, match="cannot be written to"):
            site.fetch()
        assert not site.hub.requests
    finally:
        site.directory.chmod(0o700)


def test_a_directory_in_the_place_of_the_file_is_one_clear_error(site: Site) -> None:
    site.path.mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        site.fetch()


def test_offline_nothing_is_asked(site: Site) -> None:
    with pytest.raises(Offline):
        site.fetch(access=replace(site.access, offline="--offline"))
    assert not site.hub.requests
    assert not list(site.directory.iterdir())


def test_files_of_one_call_share_their_totals(hub: FakeHub, tmp_path: Path) -> None:
    files = {f"m-0000{n}-of-00003.gguf": content(500_000 + n, seed=n) for n in (1, 2, 3)}
    files |= {"config.json": b"{}", "empty.gguf": b""}
    commit = hub.add_repo(REPO, files)
    shown: list[Progress] = []
    target = [
        DownloadTarget(
            repo=REPO, commit=commit, name=name, size_bytes=len(data),
            sha256=None if name == "config.json" else hashlib.sha256(data).hexdigest(),
            path=tmp_path / "models" / name,
        )
        for name, data in files.items()
    ]  # fmt: skip
    done = download(
        target, Access(endpoints=(hub.endpoint,)), options=FAST_OPTIONS, on_progress=shown.append
    )
    assert [each.path.read_bytes() for each in done] == list(files.values())
    assert done[3].sha256 == hashlib.sha256(b"{}").hexdigest()
    total = sum(len(data) for data in files.values())
    assert {each.total_bytes for each in shown} == {total}
    counts = [each.done_bytes for each in shown]
    assert counts == sorted(counts)
    assert counts[-1] == total


@pytest.mark.parametrize("connections", [0, -1, 9])
def test_connections_are_from_one_to_eight(site: Site, connections: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 8"):
        site.fetch(connections=connections)


def test_two_files_cannot_have_one_place(site: Site) -> None:
    with pytest.raises(UsageError, match="the same place"):
        download([site.target, site.target], site.access)


def test_a_place_beyond_four_gigabytes_is_written_where_it_belongs(
    hub: FakeHub, tmp_path: Path
) -> None:
    """All but both ends is marked as there; it is stopped before all of it is hashed."""
    head, size = content(70_000), 2**32 + 2**20
    commit = hub.add_repo(REPO, {NAME: SparseFile(head, size)})
    path, tail = tmp_path / NAME, size - 50_000
    with part_path(path).open("wb") as part:
        part.seek(tail)
        part.write(b"\xff" * 50_000)
    target = DownloadTarget(
        repo=REPO, commit=commit, name=NAME, size_bytes=size, sha256=None, path=path,
    )  # fmt: skip
    known = ((100_000, tail),)
    known_journal = Journal(
        repo=REPO, commit=commit, file=NAME, size_bytes=size, sha256=None, boot=journal.boot_id(),
        synced=known, written=known, chunk_bytes=journal.chunk_size(size),
    )  # fmt: skip
    journal.save(journal_path(path), known_journal)
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.done_bytes == size:
            stop.set()

    with pytest.raises(DownloadStopped):
        download(
            [target], Access(endpoints=(hub.endpoint,)), connections=2, options=FAST_OPTIONS,
            on_progress=watch, stop=stop,
        )  # fmt: skip
    assert {each.range for each in hub.cdn_requests} == {"bytes=0-99999", f"bytes={tail}-"}
    with part_path(path).open("rb") as stream:
        assert stream.read(100_000) == head.ljust(100_000, b"\0")
        stream.seek(tail)
        assert stream.read() == bytes(50_000)
