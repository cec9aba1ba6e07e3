"""The downloader against a real server that does everything wrong, a thing at a time."""

import errno
import hashlib
import json
import threading
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest

from localllm.errors import (
    AccessDenied,
    DownloadFailed,
    DownloadStopped,
    NotFound,
    Offline,
    StoreError,
    UsageError,
)
from localllm.library.download import Progress, Wanted, download
from localllm.library.download import notes as noting
from localllm.library.download.notes import Notes, notes_of, part_of
from localllm.library.network import Access
from tests.hub import (
    Drop,
    FakeHub,
    Flip,
    Gzip,
    NoRanges,
    Portal,
    Redirect,
    Refuse,
    SparseFile,
    Stall,
    Throttle,
    Truncate,
    WrongLength,
)
from tests.library.downloads import EAGER, NAME, REPO, SIZE, Site, content

CHUNK = 256 * 2**10


@pytest.fixture
def site(hub: FakeHub, tmp_path: Path) -> Site:
    directory = tmp_path / "models"
    directory.mkdir()
    return Site(hub, directory, content())


def stopped(site: Site, at: int, *, connections: int = 1) -> None:
    """Leave a download that stopped when `at` bytes were there."""
    until = threading.Event()
    site.hub.faults.add(Stall(at, until))
    with pytest.raises(DownloadStopped):
        site.fetch(connections=connections, stop_at=at)
    until.set()
    site.hub.faults.clear()


def test_a_file_comes_complete_with_nothing_beside_it(site: Site) -> None:
    done = site.fetch()
    site.assert_complete()
    assert (done.resumed_from, done.transferred_bytes) == (0, SIZE)
    assert done.sha256 == site.wanted.sha256
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


def test_several_connections_bring_the_same_bytes(site: Site) -> None:
    done = site.fetch(connections=5)
    site.assert_complete()
    assert done.transferred_bytes == SIZE
    assert len(site.hub.cdn_requests) == 16  # pieces of 200,000 bytes
    assert len(site.hub.requests) <= 5  # the address is asked for once a connection at most


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    "fault", [Drop(123_457), Truncate(123_457), WrongLength(-7), Drop(0), Truncate(1)]
)
def test_a_transfer_that_breaks_off_goes_on_where_it_was(
    site: Site, fault: Drop | Truncate | WrongLength, connections: int
) -> None:
    site.hub.faults.add(fault, times=3)
    done = site.fetch(connections=connections)
    site.assert_complete()
    assert done.transferred_bytes <= SIZE * 1.1


def test_a_length_that_promises_more_than_comes_does_no_harm(site: Site) -> None:
    site.hub.faults.add(WrongLength(+1000), times=1)
    assert site.fetch().transferred_bytes == SIZE
    site.assert_complete()


def test_a_stalled_connection_is_opened_again(site: Site) -> None:
    never = threading.Event()
    site.hub.faults.add(Stall(700_000, never), times=1)
    done = site.fetch(conditions=replace(EAGER, stall_s=0.2))
    site.assert_complete()
    assert done.transferred_bytes == SIZE
    assert any("reconnecting" in note for note in site.notes)


def test_a_connection_that_drips_is_stalled_too(site: Site) -> None:
    ticks = iter(range(10**9))
    slow = replace(EAGER, stall_bytes=2**40, stall_s=25.0, clock=lambda: float(next(ticks)))
    site.fetch(conditions=slow)
    site.assert_complete()
    assert "stalled, reconnecting in 0 ms" in site.notes
    assert len(site.hub.cdn_requests) > 1


def test_a_server_without_ranges_is_read_through_to_what_is_missing(site: Site) -> None:
    stopped(site, 1_000_000)
    site.hub.faults.add(NoRanges())
    done = site.fetch()
    site.assert_complete()
    assert (done.resumed_from, done.transferred_bytes) == (1_000_000, SIZE)


def test_several_connections_become_one_when_the_server_knows_no_ranges(site: Site) -> None:
    site.hub.faults.add(NoRanges())
    site.hub.faults.add(Drop(2_500_000), times=1)
    site.fetch(connections=4)
    site.assert_complete()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again_when_it_says(site: Site, status: int) -> None:
    waits: list[float] = []

    def wait(event: threading.Event, seconds: float) -> bool:
        waits.append(seconds)
        return event.is_set()

    site.hub.faults.add(Refuse(status, "7"), times=2)
    site.hub.faults.add(Refuse(status), times=1, on="cdn")
    site.fetch(conditions=replace(EAGER, wait=wait))
    site.assert_complete()
    assert waits == [7.0, 7.0, 0.0]


def test_a_server_that_wants_a_day_is_not_waited_for(site: Site) -> None:
    site.hub.faults.add(Refuse(429, "86400"))
    with pytest.raises(DownloadFailed, match="left alone for 1d; localllm waits 5m at most"):
        site.fetch()
    assert len(site.hub.requests) == 1
    assert not list(site.directory.iterdir())


def test_a_server_that_never_recovers_is_given_up(site: Site) -> None:
    stopped(site, 1_000_000)
    site.hub.faults.add(Refuse(503), on="cdn")
    with pytest.raises(DownloadFailed, match=r"503.*977 KiB of 2.9 MiB is here"):
        site.fetch()
    site.assert_only_kept()
    site.hub.faults.clear()
    assert site.fetch().resumed_from == 1_000_000
    site.assert_complete()


def test_a_signed_address_that_expired_is_asked_for_again(site: Site) -> None:
    until = threading.Event()
    stall = Stall(1_000_000, until)
    site.hub.faults.add(stall, times=1)
    site.hub.faults.add(Truncate(1_000_001), times=1)

    def expire() -> None:
        stall.reached.wait(60)
        site.hub.expire_links()
        until.set()

    thread = threading.Thread(target=expire)
    thread.start()
    done = site.fetch()
    thread.join()
    site.assert_complete()
    assert done.transferred_bytes == SIZE
    assert [each.status for each in site.hub.cdn_requests] == [206, 403, 206]
    assert len(site.hub.requests) == 2


def test_a_login_page_is_not_taken_for_the_file(site: Site) -> None:
    for port in ("hub", "cdn"):
        site.hub.faults.add(Portal(), on=port)
        with pytest.raises(DownloadFailed, match="a web page instead of the file"):
            site.fetch()
        site.hub.faults.clear()
        assert not list(site.directory.iterdir())


def test_an_encoded_body_is_not_taken_for_the_file(site: Site) -> None:
    site.hub.faults.add(Gzip(), times=2)
    site.fetch()
    site.assert_complete()
    assert all(each.headers["accept-encoding"] == "identity" for each in site.hub.cdn_requests)


def cleared_by(site: Site, note: str) -> None:
    """Let the Hub's faults end when the download says so."""

    def watch(progress: Progress) -> None:
        if progress.note and note in progress.note:
            site.hub.faults.clear()

    site.watch = watch


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("offset", [0, CHUNK - 1, 1_500_000, SIZE - 1])
def test_a_flipped_byte_is_found_and_its_chunk_fetched_again(
    site: Site, offset: int, connections: int
) -> None:
    cleared_by(site, "sha256 is wrong")
    site.hub.faults.add(Flip(offset))
    done = site.fetch(connections=connections)
    site.assert_complete()
    assert done.transferred_bytes <= SIZE + offset + 2 * CHUNK
    assert any("sha256 is wrong" in note for note in site.notes)


def test_a_byte_that_flips_in_the_second_copy_does_no_harm(site: Site) -> None:
    site.hub.faults.add(Flip(100), times=1)
    site.hub.faults.add(Flip(50), times=1)  # of the comparison's first chunk
    site.fetch()
    site.assert_complete()


def test_many_flipped_bytes_are_all_found(site: Site) -> None:
    cleared_by(site, "sha256 is wrong")
    for offset in range(0, SIZE, 400_000):
        site.hub.faults.add(Flip(offset), times=1)
        site.hub.faults.add(Truncate(400_000), times=1)
    done = site.fetch()
    site.assert_complete()
    assert done.transferred_bytes > SIZE


def test_a_server_that_has_another_file_is_not_believed(site: Site) -> None:
    site.hub.faults.add(Flip(1_000_000))
    with pytest.raises(DownloadFailed, match="a second copy did not help"):
        site.fetch()
    site.assert_only_kept()


def test_a_damaged_file_without_ranges_is_fetched_once_more(site: Site) -> None:
    cleared_by(site, "starting over")
    site.hub.faults.add(NoRanges())
    site.hub.faults.add(Flip(9))
    site.fetch()
    site.assert_complete()


def test_a_mirror_repairs_what_the_first_endpoint_has_wrong(site: Site) -> None:
    with FakeHub() as mirror:
        site.hub.faults.add(Flip(2_000_000))
        mirror.add_repo(REPO, {NAME: site.data})
        access = Access(endpoints=(site.hub.endpoint, mirror.endpoint))
        done = site.fetch(access=access)
        site.assert_complete()
        assert done.transferred_bytes <= SIZE + 2_000_000 + 2 * CHUNK
        assert sum(each.sent for each in mirror.cdn_requests) == done.transferred_bytes - SIZE


@pytest.mark.parametrize("status", [404, 503, 403])
def test_the_next_mirror_is_asked_when_one_does_not_give_the_file(site: Site, status: int) -> None:
    with FakeHub() as broken:
        broken.faults.add(Refuse(status))
        site.fetch(access=Access(endpoints=(broken.endpoint, site.hub.endpoint)))
        site.assert_complete()
        assert len(broken.requests) == (3 + 1 if status == 503 else 1)


def test_an_endpoint_that_is_not_there_is_given_up_soon(site: Site) -> None:
    with FakeHub() as gone:
        dead = gone.endpoint
    with pytest.raises(DownloadFailed, match="no connection"):
        site.fetch(access=Access(endpoints=(dead,)))


def test_a_file_that_changed_on_the_server_starts_over_and_says_so(site: Site) -> None:
    stopped(site, 1_000_000)
    site.hub.restamp(REPO, NAME)
    done = site.fetch()
    site.assert_complete()
    assert done.resumed_from == 0
    assert any("another ETag" in note and "starting over" in note for note in site.notes)


def test_a_resume_asks_with_the_etag_of_the_cdn(site: Site) -> None:
    stopped(site, 1_000_000)
    site.fetch()
    last = site.hub.cdn_requests[-1]
    assert last.headers["range"] == "bytes=1000000-"
    assert last.headers["if-range"] == site.hub.cdn_etag(REPO, site.commit, NAME)


def test_a_part_of_another_version_is_not_gone_on_with(site: Site) -> None:
    stopped(site, 1_000_000)
    site.data = content(seed=1)
    site.commit = site.hub.change(REPO, {NAME: site.data})
    done = site.fetch()
    site.assert_complete()
    assert done.resumed_from == 0
    assert any("another version" in note for note in site.notes)


def test_a_new_commit_with_the_same_file_goes_on_with_what_is_here(site: Site) -> None:
    stopped(site, 1_000_000)
    site.commit = site.hub.change(REPO, {NAME: site.data, "README.md": b"new"})
    assert site.fetch().resumed_from == 1_000_000
    site.assert_complete()


def test_a_listing_that_is_not_true_any_more_is_said(site: Site) -> None:
    site.hub.replace(REPO, NAME, content(seed=1))
    with pytest.raises(DownloadFailed, match="is not the file that org/model-GGUF listed"):
        site.fetch()
    assert not site.hub.cdn_requests


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
    notes = json.loads(notes_of(site.path).read_text())
    notes |= {"boot": "another", "synced": [[0, 600_000]]}
    notes_of(site.path).write_text(json.dumps(notes))
    with site.part.open("r+b") as part:
        part.seek(600_000)
        part.write(bytes(400_000))  # what a power cut leaves of pages that were not written
    done = site.fetch()
    site.assert_complete()
    assert (done.resumed_from, done.transferred_bytes) == (600_000, SIZE - 600_000)


@pytest.mark.parametrize("notes", [b"", b"{", b"[]", b"null", b'{"version": 1}', b"\xff" * 100])
def test_notes_that_cannot_be_read_start_over(site: Site, notes: bytes) -> None:
    stopped(site, 1_000_000)
    notes_of(site.path).write_bytes(notes)
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
        site.fetch(conditions=replace(EAGER, free_bytes=lambda _: SIZE - 1))
    assert not site.hub.requests
    stopped(site, 1_000_000)
    site.fetch(conditions=replace(EAGER, free_bytes=lambda _: SIZE - 1_000_000))
    site.assert_complete()


class Full(FileIO):
    """A file on a disk that is full after `room` bytes."""

    def __init__(self, path: Path, *, room: int, error: int = errno.ENOSPC) -> None:
        super().__init__(path, "r+")
        self._room = room
        self._error = error

    def write(self, data: object, /) -> int:
        block = memoryview(data)[: self._room - self.tell()]  # type: ignore[arg-type]  # bytes-like
        if not block:
            raise OSError(self._error, "the disk's own words")
        return super().write(block)


def test_a_disk_that_fills_meanwhile_keeps_what_came(site: Site) -> None:
    full = replace(EAGER, open_part=lambda path: Full(path, room=1_234_567))
    with pytest.raises(DownloadFailed, match=r"disk is full.*1.7 MiB more.*1.2 MiB of 2.9 MiB"):
        site.fetch(conditions=full)
    site.assert_only_kept()
    assert site.fetch().resumed_from == 1_234_567
    site.assert_complete()


def test_a_disk_that_refuses_is_one_clear_error(site: Site) -> None:
    refusing = replace(EAGER, open_part=lambda path: Full(path, room=0, error=errno.EROFS))
    with pytest.raises(StoreError, match="cannot be written to: the disk's own words"):
        site.fetch(conditions=refusing)
    assert not list(site.directory.iterdir())


def test_a_place_that_cannot_be_made_is_one_clear_error(site: Site) -> None:
    site.directory.rmdir()
    site.directory.write_text("a file where the directory should be")
    with pytest.raises(StoreError, match="cannot be used"):
        site.fetch()
    assert not site.hub.requests


def test_a_directory_in_the_place_of_the_file_is_one_clear_error(site: Site) -> None:
    site.path.mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        site.fetch()


def test_a_gated_repository_says_which_page_to_open(hub: FakeHub, tmp_path: Path) -> None:
    data = content(1000)
    commit = hub.add_repo(REPO, {NAME: data}, gated="manual")
    site = Site(hub, tmp_path / "models", data, commit)
    for token in (None, "hf_good"):
        with pytest.raises(AccessDenied, match=f"Open {hub.endpoint}/{REPO} and accept its terms"):
            site.fetch(access=replace(site.access, token=token))
    site.fetch(access=replace(site.access, token="hf_member"))
    site.assert_complete()
    assert all(each.token is None for each in hub.cdn_requests)


def test_a_token_that_the_hub_does_not_know_is_left_out_and_said(site: Site) -> None:
    site.fetch(access=replace(site.access, token="hf_old"), connections=3)
    site.assert_complete()
    assert "the Hub did not take the token; trying without it" in site.notes


def test_a_missing_file_is_not_found(site: Site) -> None:
    site.hub.repos[REPO].commits[site.commit].clear()
    with pytest.raises(NotFound, match=f"has no {NAME} in {REPO}"):
        site.fetch()


def test_a_redirect_that_never_ends_is_given_up(site: Site) -> None:
    site.hub.faults.add(Redirect(f"{site.hub.endpoint}/{REPO}/resolve/{site.commit}/{NAME}"))
    with pytest.raises(DownloadFailed, match="from one address to the next"):
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
    wanted = [
        Wanted(
            repo=REPO, commit=commit, name=name, size_bytes=len(data),
            sha256=None if name == "config.json" else hashlib.sha256(data).hexdigest(),
            path=tmp_path / "models" / name,
        )
        for name, data in files.items()
    ]  # fmt: skip
    done = download(
        wanted, Access(endpoints=(hub.endpoint,)), conditions=EAGER, on_progress=shown.append
    )
    assert [each.path.read_bytes() for each in done] == list(files.values())
    assert done[3].sha256 == hashlib.sha256(b"{}").hexdigest()
    total = sum(len(data) for data in files.values())
    assert {each.total_bytes for each in shown} == {total}
    counts = [each.done_bytes for each in shown]
    assert counts == sorted(counts) and counts[-1] == total


@pytest.mark.parametrize("connections", [0, -1, 9])
def test_connections_are_from_one_to_eight(site: Site, connections: int) -> None:
    with pytest.raises(UsageError, match="from 1 to 8"):
        site.fetch(connections=connections)


def test_two_files_cannot_have_one_place(site: Site) -> None:
    with pytest.raises(UsageError, match="the same place"):
        download([site.wanted, site.wanted], site.access)


def test_a_place_beyond_four_gigabytes_is_written_where_it_belongs(
    hub: FakeHub, tmp_path: Path
) -> None:
    """The hole of a sparse file is marked as there already: only both ends are fetched."""
    head, size = content(70_000), 2**32 + 2**20
    commit = hub.add_repo(REPO, {NAME: SparseFile(head, size)})
    path = tmp_path / NAME
    wanted = Wanted(
        repo=REPO, commit=commit, name=NAME, size_bytes=size, sha256=None, path=path,
    )  # fmt: skip
    tail = size - 50_000
    with part_of(path).open("wb") as part:
        part.truncate(size)
    hole = ((100_000, tail),)
    noting.save(
        notes_of(path),
        Notes(
            repo=REPO, commit=commit, file=NAME, size_bytes=size, sha256=None,
            boot=noting.boot(), synced=hole, written=hole,
            chunk_bytes=noting.chunk_size(size),
        ),
    )  # fmt: skip
    (done,) = download([wanted], Access(endpoints=(hub.endpoint,)), connections=2)
    assert done.transferred_bytes == 150_000
    assert path.stat().st_size == size
    ranges = {each.range for each in hub.cdn_requests}
    assert ranges == {"bytes=0-99999", f"bytes={tail}-"}
    with path.open("rb") as stream:
        assert stream.read(len(head)) == head
