"""The downloader against a real server that does everything wrong, a thing at a time."""

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.errors import AccessDenied, DownloadFailed, NotFound
from localllm.library.download.progress import Progress
from localllm.library.http.client import Access
from tests.hub import (
    Drop,
    FakeHub,
    Flip,
    Gzip,
    NoRanges,
    Portal,
    Redirect,
    Refuse,
    Stall,
    Truncate,
    WrongLength,
)
from tests.library.downloads import FAST_OPTIONS, NAME, REPO, SIZE, Site, content, site_in, stopped

CHUNK = 256 * 2**10


@pytest.fixture
def site(hub: FakeHub, tmp_path: Path) -> Site:
    return site_in(hub, tmp_path / "models", content())


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
    done = site.fetch(options=replace(FAST_OPTIONS, stall_s=0.2))
    site.assert_complete()
    assert done.transferred_bytes == SIZE
    assert any("reconnecting" in message for message in site.messages)


def test_a_connection_that_drips_is_stalled_too(site: Site) -> None:
    ticks = iter(range(10**9))
    slow = replace(FAST_OPTIONS, stall_bytes=2**40, stall_s=25.0, clock=lambda: float(next(ticks)))
    site.fetch(options=slow)
    site.assert_complete()
    assert "stalled, reconnecting in 0 ms" in site.messages
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
    site.fetch(options=replace(FAST_OPTIONS, wait=wait))
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


@pytest.mark.parametrize(
    ("fault", "connections"),
    [(Drop(2000), 1), (Truncate(20_000), 1), (Drop(60_000), 1), (Drop(2000), 4), (Drop(20_000), 4)],
)
def test_a_server_that_always_cuts_the_answer_is_given_up(
    site: Site, fault: Drop | Truncate, connections: int
) -> None:
    site.hub.faults.add(fault)
    with pytest.raises(DownloadFailed, match=r"in a row brought nothing, or less than 64.0 KiB"):
        site.fetch(connections=connections)
    assert len(site.hub.cdn_requests) <= 6 * connections
    site.assert_only_kept()
    site.hub.faults.clear()
    assert site.fetch().resumed_from > 0
    site.assert_complete()


def test_a_server_that_cuts_but_brings_much_each_time_is_gone_on_with(site: Site) -> None:
    site.hub.faults.add(Drop(100_000))
    site.fetch()
    site.assert_complete()
    assert len(site.hub.cdn_requests) == -(-SIZE // 100_000)


def test_a_slow_link_that_breaks_is_gone_on_with(site: Site) -> None:
    site.hub.faults.add(Drop(40_000), times=20)
    ticks = itertools.count()
    slow = replace(FAST_OPTIONS, clock=lambda: next(ticks) * 30.0, stall_bytes=1)
    site.fetch(options=slow)
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


def cleared_by(site: Site, message: str) -> None:
    """Let the Hub's faults end when the download says so."""

    def watch(progress: Progress) -> None:
        if progress.message and message in progress.message:
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
    assert any("sha256 is wrong" in message for message in site.messages)


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
    assert any(
        "another ETag" in message and "starting over" in message for message in site.messages
    )


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
    assert any("another version" in message for message in site.messages)


def test_a_new_commit_with_the_same_file_goes_on_with_what_is_here(site: Site) -> None:
    stopped(site, 1_000_000)
    site.commit = site.hub.change(REPO, {NAME: site.data, "README.md": b"new"})
    assert site.fetch().resumed_from == 1_000_000
    site.assert_complete()


def test_a_listing_that_is_not_true_any_more_is_said(site: Site) -> None:
    site.hub.replace(REPO, NAME, content(seed=1))
    with pytest.raises(DownloadFailed, match="is not the file that was listed"):
        site.fetch()
    assert not site.hub.cdn_requests


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
    assert "the Hub did not take the token; trying without it" in site.messages


def test_a_missing_file_is_not_found(site: Site) -> None:
    site.hub.repos[REPO].commits[site.commit].clear()
    with pytest.raises(NotFound, match=f"has no {NAME} in {REPO}"):
        site.fetch()


def test_a_redirect_that_never_ends_is_given_up(site: Site) -> None:
    site.hub.faults.add(Redirect(f"{site.hub.endpoint}/{REPO}/resolve/{site.commit}/{NAME}"))
    with pytest.raises(DownloadFailed, match="from one address to the next"):
        site.fetch()
