"""Processes that download: killed at any byte, two at a time, and under the system's limits."""

import random
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.hub import FakeHub, Stall, Throttle
from tests.library.downloads import Site, content, site_in, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills with POSIX signals")

SIZE = 2_000_003
KILLS = 8


@pytest.fixture
def site(hub: FakeHub, tmp_path: Path) -> Site:
    return site_in(hub, tmp_path / "models", content(SIZE))


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sent(site: Site) -> int:
    """Bytes of the file that left the server."""
    return sum(each.sent for each in site.hub.cdn_requests)


def test_kill_minus_nine_at_any_byte_costs_no_byte(site: Site) -> None:
    chosen = random.Random(1)
    at = sorted({1, SIZE - 1, *(chosen.randrange(SIZE) for _ in range(KILLS - 2))})
    here = 0
    for position in at:
        site.hub.faults.add(Stall(position - here, threading.Event()))
        child = site.child()
        until(lambda position=position: length(site.part) == position)  # type: ignore[misc]
        child.kill()
        site.hub.faults.clear()
        site.assert_only_kept()
        here = position
    done = site.child().result()
    site.assert_complete()
    assert (done["resumed_from"], done["transferred_bytes"]) == (SIZE - 1, 1)
    assert sent(site) == SIZE


@pytest.mark.parametrize("connections", [1, 4])
def test_kills_in_the_middle_of_a_transfer_cost_at_most_a_tenth(
    hub: FakeHub, tmp_path: Path, connections: int
) -> None:
    size, rate = 8_000_000, 2_000_000
    site = Site(hub, tmp_path / "models", content(size))
    chosen = random.Random(connections)
    hub.faults.add(Throttle(rate / connections))
    for mark in sorted(chosen.randrange(size * 4 // 5) for _ in range(4)):
        child = site.child(connections=connections)
        until(lambda mark=mark: hub.bytes_sent >= mark)  # type: ignore[misc]
        child.kill()
        site.assert_only_kept()
    hub.faults.clear()
    site.child(connections=connections).result()
    site.assert_complete()
    assert hub.bytes_sent <= 1.1 * size


def test_the_second_of_two_processes_shows_the_first_and_finds_it_done(site: Site) -> None:
    go = threading.Event()
    site.hub.faults.add(Stall(1_000_000, go))
    first = site.child()
    until(lambda: length(site.part) == 1_000_000)

    def watch(_: object) -> None:
        if site.messages:
            go.set()

    site.watch = watch
    second = site.fetch()
    assert second.transferred_bytes == 0
    assert site.messages[0] == "waiting for another localllm"
    assert site.shown[0].done_bytes > 0
    assert first.result()["transferred_bytes"] == SIZE
    site.assert_complete()
    assert sent(site) == SIZE


def test_the_second_process_goes_on_when_the_first_is_killed(site: Site) -> None:
    site.hub.faults.add(Stall(1_000_000, threading.Event()), times=1)
    first = site.child()
    until(lambda: length(site.part) == 1_000_000)

    def watch(_: object) -> None:
        if first.process.poll() is None:
            first.kill()

    site.watch = watch
    second = site.fetch()
    site.assert_complete()
    assert (second.resumed_from, second.transferred_bytes) == (1_000_000, SIZE - 1_000_000)


def test_ctrl_c_ends_the_process_with_everything_kept(site: Site) -> None:
    site.hub.faults.add(Stall(1_000_000, threading.Event()), times=1)
    child = site.child()
    until(lambda: length(site.part) == 1_000_000)
    child.process.send_signal(signal.SIGINT)
    result = child.result()
    assert result["exit"] == 130
    assert result["error"] == (
        "Stopped: 977 KiB of 1.9 MiB is here. The same command goes on from there."
    )
    assert site.child().result()["resumed_from"] == 1_000_000
    site.assert_complete()


def test_a_limit_on_the_size_of_files_is_one_clear_error(site: Site) -> None:
    result = site.child(max_file_bytes=500_000).result()
    assert (result["exit"], result["code"]) == (1, "store")
    assert "does not take a file of 1.9 MiB" in str(result["error"])
    assert site.child().result()["resumed_from"] == 500_000
    site.assert_complete()
