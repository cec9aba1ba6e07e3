"""Responses of a Hub that is slow, busy, broken or another server."""

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from localllm.errors import ExitCode, HubError
from localllm.library.http.client import Access
from localllm.library.http.retrying_transport import DEADLINE_S, MAX_RESPONSE_BYTES, Clock
from localllm.library.hub.hub import Hub
from tests.hub import (
    BrokenJson,
    Drop,
    FakeHub,
    Gzip,
    Portal,
    Redirect,
    Refuse,
    Stall,
    Truncate,
    WrongLength,
)
from tests.hub.faults import Fault

REPO = "org/quince-GGUF"


@dataclass
class Time:
    """A clock that passes only while somebody sleeps, and by `tick_s` when it is looked at."""

    now_s: float = 0.0
    tick_s: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@dataclass
class HubProbe:
    """A Hub with one repository, and a client of it that never really waits."""

    hub: FakeHub
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.commit = self.hub.add_repo(REPO, {"quince-Q4_0.gguf": b"x"})

    def call(self) -> str:
        """Return the commit of the repository."""
        access = Access(endpoints=(self.hub.endpoint,), token="hf_good")
        clock = Clock(now=self.time.now, sleep=self.time.sleep)
        return Hub(access, clock=clock).repo(REPO).commit

    def fails(self, fault: Fault) -> str:
        """Return the error message when every response has this fault."""
        self.hub.faults.add(fault, on="hub")
        with pytest.raises(HubError) as failed:
            self.call()
        assert failed.value.exit_code == ExitCode.FAILED
        assert "hf_good" not in str(failed.value)
        return str(failed.value)


@pytest.fixture
def probe(hub: FakeHub) -> HubProbe:
    return HubProbe(hub)


# --- not now ---


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(probe: HubProbe, status: int) -> None:
    probe.hub.faults.add(Refuse(status), times=2)
    assert probe.call() == probe.commit
    assert probe.time.slept == [0.5, 1.0]


def test_a_search_is_asked_again_too(probe: HubProbe) -> None:
    """huggingface_hub would wait in its own way there."""
    probe.hub.faults.add(Refuse(503, "9"), times=1)
    clock = Clock(now=probe.time.now, sleep=probe.time.sleep)
    found = Hub(Access(endpoints=(probe.hub.endpoint,)), clock=clock).search("quince")
    assert [each.name for each in found] == [REPO]
    assert probe.time.slept == [9.0]


@pytest.mark.parametrize("fault", [Drop(10), Truncate(10), WrongLength(50)])
def test_an_answer_that_breaks_off_is_asked_for_again(probe: HubProbe, fault: Fault) -> None:
    probe.hub.faults.add(fault, times=2, on="hub")
    assert probe.call() == probe.commit
    assert probe.time.slept == [0.5, 1.0]


def test_a_hub_that_stays_busy_is_given_up_in_time(probe: HubProbe) -> None:
    message = probe.fails(Refuse(503))
    assert message == f"{probe.hub.endpoint} does not give {REPO}: it answers 503 (busy)."
    assert probe.time.slept == [0.5, 1.0, 2.0, 4.0]
    assert len(probe.hub.requests) == 5


@pytest.mark.parametrize(("retry_after", "waited_s"), [("7", 7.0), ("0", 0.5), ("soon", 0.5)])
def test_a_wait_in_seconds_is_kept(probe: HubProbe, retry_after: str, waited_s: float) -> None:
    probe.hub.faults.add(Refuse(429, retry_after), times=1)
    assert probe.call() == probe.commit
    assert probe.time.slept == [waited_s]


def test_a_wait_until_a_date_is_kept(probe: HubProbe) -> None:
    until = datetime.now(UTC) + timedelta(seconds=40)
    probe.hub.faults.add(Refuse(503, format_datetime(until, usegmt=True)), times=1)
    assert probe.call() == probe.commit
    (waited_s,) = probe.time.slept
    assert 0.5 <= waited_s <= 40  # the time now is the system's, the date's in whole seconds


@pytest.mark.parametrize("retry_after", ["86400", "9" * 30, "date"])
def test_a_hub_that_wants_to_be_left_alone_for_a_day_is_and_that_is_said(
    probe: HubProbe, retry_after: str
) -> None:
    if retry_after == "date":
        retry_after = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    message = probe.fails(Refuse(429, retry_after))
    assert "429 (too many requests) and asks to be left alone for " in message
    assert probe.time.slept == []
    assert len(probe.hub.requests) == 1


def test_waits_that_add_up_to_too_much_end(probe: HubProbe) -> None:
    message = probe.fails(Refuse(503, "25"))
    assert "asks to be left alone for 25.0 s" in message
    assert probe.time.slept == [25.0, 25.0]
    assert probe.time.now_s < DEADLINE_S


# --- no answer at all ---


def test_a_login_page_is_known_as_one(probe: HubProbe) -> None:
    message = probe.fails(Portal())
    assert "a network sends that wants a login first; open any page in a browser" in message
    assert len(probe.hub.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"7", b'"x"', b"{}", b'{"id": 7}', b"\xff\xfe", b"[" * 99_999,
        b'{"id": "org/quince-GGUF", "sha": null, "siblings": []}',
        b'{"id": "org/quince-GGUF", "sha": "main", "siblings": []}',
        b'{"id": "x/y", "sha": "%s", "siblings": 7}' % (b"a" * 40),
        b'{"id": "x/y", "sha": "%s", "siblings": [7]}' % (b"a" * 40),
        b'{"id": "x/y", "sha": "%s", "siblings": [{"rfilename": 7}]}' % (b"a" * 40),
        b'{"id": "x/y", "sha": "%s", "siblings": [{"rfilename": "a", "lfs": 7}]}' % (b"a" * 40),
        b'{"id": "x/y", "sha": "%s", "lastModified": "yesterday"}' % (b"a" * 40),
    ],
    ids=range(17),
)  # fmt: skip
def test_nonsense_is_an_error_and_not_a_crash(probe: HubProbe, body: bytes) -> None:
    message = probe.fails(BrokenJson(body))
    assert probe.hub.endpoint in message or REPO in message
    assert "\n" not in message


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"{}", b"[7]", b'[{"id": 7}]', b"[[]]"])
def test_a_search_that_finds_nonsense_is_an_error_or_finds_nothing(
    probe: HubProbe, body: bytes
) -> None:
    probe.hub.faults.add(BrokenJson(body))
    clock = Clock(now=probe.time.now, sleep=probe.time.sleep)
    try:
        found = Hub(Access(endpoints=(probe.hub.endpoint,)), clock=clock).search("quince")
    except HubError:
        return
    assert found == ()


def test_what_the_hub_says_beside_the_files_may_be_anything(probe: HubProbe) -> None:
    known = {"id": REPO, "sha": "a" * 40, "siblings": []}
    odd = {"downloads": "many", "gated": {"a": 1}, "tags": [1, "\x1b[2Jb", None], "cardData": [7]}
    probe.hub.faults.add(BrokenJson(json.dumps(known | odd).encode()))
    repo = Hub(Access(endpoints=(probe.hub.endpoint,))).repo(REPO)
    assert (repo.downloads, repo.gated, repo.tags) == (None, True, ("b",))


def test_another_host_is_not_asked_although_the_answer_leads_there(probe: HubProbe) -> None:
    with FakeHub() as stranger:
        message = probe.fails(Redirect(f"{stranger.endpoint}/api/models/{REPO}?token=hf_x"))
        assert stranger.requests == ()
    assert "another host" in message
    assert "hf_x" not in message


def test_a_redirect_within_the_endpoint_is_followed(probe: HubProbe) -> None:
    probe.hub.faults.add(Redirect(f"/api/models/{REPO}/revision/main?blobs=true", 307), times=1)
    assert probe.call() == probe.commit
    assert [each.token for each in probe.hub.requests] == ["hf_good", "hf_good"]


def test_a_redirect_in_a_circle_ends(probe: HubProbe) -> None:
    assert "without end" in probe.fails(Redirect(f"/api/models/{REPO}"))
    assert len(probe.hub.requests) < 50


def test_an_answer_that_does_not_end_is_cut(probe: HubProbe) -> None:
    message = probe.fails(BrokenJson(b" " * (MAX_RESPONSE_BYTES + 1)))
    assert "its answer is over 32 MiB" in message
    assert len(probe.hub.requests) == 1


def test_an_answer_that_drips_is_given_up(probe: HubProbe) -> None:
    probe.time.tick_s = DEADLINE_S + 1  # so long passes between two looks at the clock
    assert "did not end within 60 s" in probe.fails(BrokenJson(b" " * 10_000))


def test_a_compressed_answer_is_refused(probe: HubProbe) -> None:
    """Nobody asked for one, and its length says nothing of what it becomes."""
    assert "compressed" in probe.fails(Gzip())
    assert len(probe.hub.requests) == 1


def test_two_hubs_are_asked_at_once_and_each_gives_its_own_answer(probe: HubProbe) -> None:
    """huggingface_hub has one client for the whole process."""
    stall = Stall(0, threading.Event())
    probe.hub.faults.add(stall, times=1, on="hub")
    commits: dict[str, str] = {}
    with FakeHub() as other:
        commit = other.add_repo(REPO, {"other-Q4_0.gguf": b"y"})
        threads = [
            threading.Thread(target=lambda each=each: commits.update({each: call_directly(each)}))
            for each in (probe.hub.endpoint, other.endpoint)
        ]
        for thread in threads:
            thread.start()
        assert stall.reached.wait(30)
        stall.until.set()
        for thread in threads:
            thread.join(30)
        assert commits == {probe.hub.endpoint: probe.commit, other.endpoint: commit}


def call_directly(endpoint: str) -> str:
    return Hub(Access(endpoints=(endpoint,))).repo(REPO).commit
