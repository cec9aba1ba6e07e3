"""A Hub that is slow, busy, broken or somebody else."""

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from localllm.errors import ExitCode, HubError
from localllm.library.http.client import Access
from localllm.library.http.retrying_transport import ANSWER_S, MAX_ANSWER_BYTES, Clock
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
class Asking:
    """A Hub that holds one repository, and somebody who asks it without really waiting."""

    hub: FakeHub
    time: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        self.commit = self.hub.add_repo(REPO, {"quince-Q4_0.gguf": b"x"})

    def ask(self) -> str:
        """The commit of the repository, as the Hub is understood."""
        access = Access(endpoints=(self.hub.endpoint,), token="hf_good")
        clock = Clock(now=self.time.now, sleep=self.time.sleep)
        return Hub(access, clock=clock).repo(REPO).commit

    def fails(self, fault: Fault) -> str:
        """What is said when every answer has this fault."""
        self.hub.faults.add(fault, on="hub")
        with pytest.raises(HubError) as failed:
            self.ask()
        assert failed.value.exit_code == ExitCode.FAILED
        assert "hf_good" not in str(failed.value)
        return str(failed.value)


@pytest.fixture
def asking(hub: FakeHub) -> Asking:
    return Asking(hub)


# --- not now ---


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(asking: Asking, status: int) -> None:
    asking.hub.faults.add(Refuse(status), times=2)
    assert asking.ask() == asking.commit
    assert asking.time.slept == [0.5, 1.0]


def test_a_search_is_asked_again_too(asking: Asking) -> None:
    """huggingface_hub would wait in its own way there."""
    asking.hub.faults.add(Refuse(503, "9"), times=1)
    clock = Clock(now=asking.time.now, sleep=asking.time.sleep)
    found = Hub(Access(endpoints=(asking.hub.endpoint,)), clock=clock).search("quince")
    assert [each.name for each in found] == [REPO]
    assert asking.time.slept == [9.0]


@pytest.mark.parametrize("fault", [Drop(10), Truncate(10), WrongLength(50)])
def test_an_answer_that_breaks_off_is_asked_for_again(asking: Asking, fault: Fault) -> None:
    asking.hub.faults.add(fault, times=2, on="hub")
    assert asking.ask() == asking.commit
    assert asking.time.slept == [0.5, 1.0]


def test_a_hub_that_stays_busy_is_given_up_in_time(asking: Asking) -> None:
    said = asking.fails(Refuse(503))
    assert said == f"{asking.hub.endpoint} does not give {REPO}: it answers 503 (busy)."
    assert asking.time.slept == [0.5, 1.0, 2.0, 4.0]
    assert len(asking.hub.requests) == 5


@pytest.mark.parametrize(("wish", "waited_s"), [("7", 7.0), ("0", 0.5), ("soon", 0.5)])
def test_a_wait_in_seconds_is_kept(asking: Asking, wish: str, waited_s: float) -> None:
    asking.hub.faults.add(Refuse(429, wish), times=1)
    assert asking.ask() == asking.commit
    assert asking.time.slept == [waited_s]


def test_a_wait_until_a_date_is_kept(asking: Asking) -> None:
    until = datetime.now(UTC) + timedelta(seconds=40)
    asking.hub.faults.add(Refuse(503, format_datetime(until, usegmt=True)), times=1)
    assert asking.ask() == asking.commit
    (waited_s,) = asking.time.slept
    assert 0.5 <= waited_s <= 40  # the time now is the system's, the date's in whole seconds


@pytest.mark.parametrize("wish", ["86400", "9" * 30, "date"])
def test_a_hub_that_wants_to_be_left_alone_for_a_day_is_and_that_is_said(
    asking: Asking, wish: str
) -> None:
    if wish == "date":
        wish = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    said = asking.fails(Refuse(429, wish))
    assert "429 (too many requests) and asks to be left alone for " in said
    assert asking.time.slept == [] and len(asking.hub.requests) == 1


def test_waits_that_add_up_to_too_much_end(asking: Asking) -> None:
    said = asking.fails(Refuse(503, "25"))
    assert "asks to be left alone for 25.0 s" in said
    assert asking.time.slept == [25.0, 25.0] and asking.time.now_s < ANSWER_S


# --- no answer at all ---


def test_a_login_page_is_known_as_one(asking: Asking) -> None:
    said = asking.fails(Portal())
    assert "a network sends that wants a login first; open any page in a browser" in said
    assert len(asking.hub.requests) == 1


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
def test_nonsense_is_an_error_and_not_a_crash(asking: Asking, body: bytes) -> None:
    said = asking.fails(BrokenJson(body))
    assert (asking.hub.endpoint in said or REPO in said) and "\n" not in said


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"{}", b"[7]", b'[{"id": 7}]', b"[[]]"])
def test_a_search_that_finds_nonsense_is_an_error_or_finds_nothing(
    asking: Asking, body: bytes
) -> None:
    asking.hub.faults.add(BrokenJson(body))
    clock = Clock(now=asking.time.now, sleep=asking.time.sleep)
    try:
        found = Hub(Access(endpoints=(asking.hub.endpoint,)), clock=clock).search("quince")
    except HubError:
        return
    assert found == ()


def test_what_the_hub_says_beside_the_files_may_be_anything(asking: Asking) -> None:
    known = {"id": REPO, "sha": "a" * 40, "siblings": []}
    odd = {"downloads": "many", "gated": {"a": 1}, "tags": [1, "\x1b[2Jb", None], "cardData": [7]}
    asking.hub.faults.add(BrokenJson(json.dumps(known | odd).encode()))
    repo = Hub(Access(endpoints=(asking.hub.endpoint,))).repo(REPO)
    assert (repo.downloads, repo.gated, repo.tags) == (None, True, ("b",))


def test_another_host_is_not_asked_although_the_answer_leads_there(asking: Asking) -> None:
    with FakeHub() as stranger:
        said = asking.fails(Redirect(f"{stranger.endpoint}/api/models/{REPO}?token=hf_x"))
        assert stranger.requests == ()
    assert "another host" in said and "hf_x" not in said


def test_a_redirect_within_the_endpoint_is_followed(asking: Asking) -> None:
    asking.hub.faults.add(Redirect(f"/api/models/{REPO}/revision/main?blobs=true", 307), times=1)
    assert asking.ask() == asking.commit
    assert [each.token for each in asking.hub.requests] == ["hf_good", "hf_good"]


def test_a_redirect_in_a_circle_ends(asking: Asking) -> None:
    assert "without end" in asking.fails(Redirect(f"/api/models/{REPO}"))
    assert len(asking.hub.requests) < 50


def test_an_answer_that_does_not_end_is_cut(asking: Asking) -> None:
    said = asking.fails(BrokenJson(b" " * (MAX_ANSWER_BYTES + 1)))
    assert "its answer is over 32 MiB" in said
    assert len(asking.hub.requests) == 1


def test_an_answer_that_drips_is_given_up(asking: Asking) -> None:
    asking.time.tick_s = ANSWER_S + 1  # so long passes between two looks at the clock
    assert "did not end within 60 s" in asking.fails(BrokenJson(b" " * 10_000))


def test_a_compressed_answer_is_refused(asking: Asking) -> None:
    """Nobody asked for one, and its length says nothing of what it becomes."""
    assert "compressed" in asking.fails(Gzip())
    assert len(asking.hub.requests) == 1


def test_two_hubs_are_asked_at_once_and_each_gives_its_own_answer(asking: Asking) -> None:
    """huggingface_hub has one client for the whole process."""
    held = Stall(0, threading.Event())
    asking.hub.faults.add(held, times=1, on="hub")
    answers: dict[str, str] = {}
    with FakeHub() as other:
        commit = other.add_repo(REPO, {"other-Q4_0.gguf": b"y"})
        threads = [
            threading.Thread(target=lambda each=each: answers.update({each: ask_plainly(each)}))
            for each in (asking.hub.endpoint, other.endpoint)
        ]
        for thread in threads:
            thread.start()
        assert held.reached.wait(30)
        held.until.set()
        for thread in threads:
            thread.join(30)
        assert answers == {asking.hub.endpoint: asking.commit, other.endpoint: commit}


def ask_plainly(endpoint: str) -> str:
    return Hub(Access(endpoints=(endpoint,))).repo(REPO).commit
