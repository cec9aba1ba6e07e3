"""Every fault of the loopback Hub does what its name says."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from tests.hub import (
    BrokenJson,
    Drop,
    FakeHub,
    Flip,
    Gzip,
    NoRanges,
    Portal,
    Redirect,
    Refuse,
    Stall,
    Throttle,
    Truncate,
    WrongLength,
)
from tests.hub.faults import Fault

DATA = bytes(range(250)) * 1000


@pytest.fixture
def link(hub: FakeHub) -> str:
    commit = hub.add_repo("org/m", {"m.gguf": DATA})
    return hub.link("org/m", commit, "m.gguf")


def get(url: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    return httpx2.get(url, headers=headers, trust_env=False, timeout=10)


def received(url: str) -> int:
    """How many bytes come before the transfer breaks."""
    count = 0
    with (
        pytest.raises(httpx2.TransportError),
        httpx2.stream("GET", url, trust_env=False, timeout=10) as response,
    ):
        for piece in response.iter_raw():
            count += len(piece)
    return count


@pytest.mark.parametrize("after", [1, 1000, len(DATA) - 1])
def test_a_truncated_body_ends_in_peace_where_it_should(
    hub: FakeHub, link: str, after: int
) -> None:
    hub.faults.add(Truncate(after), times=1)
    assert received(link) == after
    assert get(link).content == DATA


def test_a_dropped_connection_is_reset(hub: FakeHub, link: str) -> None:
    hub.faults.add(Drop(1000), times=1)
    with pytest.raises(httpx2.ReadError):
        get(link)
    assert hub.cdn_requests[0].sent == 1000


def test_a_stalled_transfer_goes_on_when_the_test_says_so(hub: FakeHub, link: str) -> None:
    stall = Stall(1000, threading.Event())
    hub.faults.add(stall, times=1)
    got: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: got.append(get(link)))
    thread.start()
    assert stall.reached.wait(10)
    assert hub.cdn_requests[0].sent == 1000
    assert not got
    stall.until.set()
    thread.join(10)
    assert got[0].content == DATA


def test_a_client_that_leaves_ends_a_stall(hub: FakeHub, link: str) -> None:
    stall = Stall(0, threading.Event())
    hub.faults.add(stall)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(link, trust_env=False, timeout=0.05)
    assert hub.cdn_requests[0].answered.wait(10)


def test_one_byte_is_flipped_where_the_file_has_it(hub: FakeHub, link: str) -> None:
    hub.faults.add(Flip(1500))
    whole = get(link).content
    assert [at for at in range(len(DATA)) if whole[at] != DATA[at]] == [1500]
    part = get(link, {"Range": "bytes=1500-1501"}).content
    assert part == bytes([DATA[1500] ^ 0xFF, DATA[1501]])
    assert get(link, {"Range": "bytes=1501-"}).content == DATA[1501:]


@pytest.mark.parametrize("by", [-10, 10])
def test_a_length_is_stated_wrong(hub: FakeHub, link: str, by: int) -> None:
    hub.faults.add(WrongLength(by))
    with httpx2.stream("GET", link, trust_env=False) as response:
        assert int(response.headers["content-length"]) == len(DATA) + by


def test_without_ranges_all_of_it_comes(hub: FakeHub, link: str) -> None:
    hub.faults.add(NoRanges())
    answer = get(link, {"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (200, DATA)
    assert "accept-ranges" not in answer.headers


def test_gzip_comes_without_a_length(hub: FakeHub, link: str) -> None:
    hub.faults.add(Gzip())
    answer = get(link, {"Accept-Encoding": "identity"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "content-length" not in answer.headers
    assert answer.content == DATA


def test_a_refusal_says_when_to_come_back(hub: FakeHub, link: str) -> None:
    hub.faults.add(Refuse(503, "7"), times=1, on="cdn")
    refused = get(link)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
    assert get(link).status_code == 200


def test_faults_follow_one_another_and_end_when_cleared(hub: FakeHub, link: str) -> None:
    hub.faults.add(Refuse(429), times=1, on="cdn")
    hub.faults.add(Refuse(502), times=1, on="any")
    hub.faults.add(Refuse(500), on="cdn", path="m.gguf")
    assert [get(link).status_code for _ in range(4)] == [429, 502, 500, 500]
    hub.faults.clear()
    assert get(link).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (Portal(), 200, "text/html"),
        (BrokenJson(), 200, "application/json"),
        (Redirect("https://elsewhere.example/x"), 302, ""),
    ],
)
def test_the_endpoint_answers_what_no_hub_would(
    hub: FakeHub, fault: Fault, status: int, kind: str
) -> None:
    hub.add_repo("org/m", {})
    hub.faults.add(fault)
    answer = get(f"{hub.endpoint}/api/models/org/m")
    assert answer.status_code == status
    assert answer.headers.get("content-type", "").startswith(kind)


def test_a_throttled_transfer_is_whole(hub: FakeHub, link: str) -> None:
    hub.faults.add(Throttle(5e6))
    assert get(link).content == DATA


def test_everything_is_recorded(hub: FakeHub, link: str) -> None:
    get(f"{hub.endpoint}/api/models?search=x", {"Authorization": "Bearer hf_good"})
    get(link, {"Range": "bytes=0-9"})
    (listed,), (fetched,) = hub.requests, hub.cdn_requests
    assert (listed.method, listed.path, listed.parameters) == (
        "GET",
        "/api/models",
        {"search": "x"},
    )
    assert (listed.token, listed.status) == ("hf_good", 200)
    deadline = time.monotonic() + 30
    while fetched.sent < 10 and time.monotonic() < deadline:  # counted after the client has them
        time.sleep(0.01)
    assert (fetched.range, fetched.status, fetched.sent) == ("bytes=0-9", 206, 10)
    assert hub.bytes_sent == 10 + listed.sent


def test_folders_are_served_by_a_process_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "org" / "name"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "m.gguf").write_bytes(DATA)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        info = get(f"{endpoint}/api/models/org/name?blobs=true").json()
        assert [each["rfilename"] for each in info["siblings"]] == ["sub/m.gguf"]
        url = f"{endpoint}/org/name/resolve/{info['sha']}/sub/m.gguf"
        assert httpx2.get(url, follow_redirects=True, trust_env=False).content == DATA
    finally:
        process.terminate()
        assert process.wait(10) == 0
