"""A complete pull on a Hub that writes down what it is asked: nothing but what it must."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from localllm.errors import ExitCode
from tests.cli.hub_processes import renamed
from tests.hub import FakeHub, Request
from tests.offline.watched import Ended, Guard

REPO = "orchard/quince-GGUF"
FILE = "quince-Q4_1.gguf"
USER_AGENT = f"localllm/{version('localllm')}"
ALLOWED = {"host", "user-agent", "accept", "accept-encoding", "connection", "range", "if-range"}
TRACES = (
    *("CLAUDECODE", "CURSOR_AGENT", "AI_AGENT", "GEMINI_CLI", "CODEX_SANDBOX"),  # agents' own
    *("CI", "GITHUB_ACTIONS", "SPACE_ID", "COLAB_GPU"),
)
"""Variables that huggingface_hub reads to say who uses it, and where."""


@pytest.fixture
def commit(hub: FakeHub, smollm2: Path) -> str:
    """A repository with a real model that is not installed."""
    return hub.add_repo(REPO, {FILE: renamed(smollm2), "README.md": b"A model."})


def pull(guard: Guard, hub: FakeHub, **extra: str) -> Ended:
    """Pull as a user does who is easy to recognise."""
    recognisable = dict.fromkeys(TRACES, "1") | {"HF_ENDPOINT": hub.endpoint}
    return guard.localllm("pull", f"{REPO}:Q4_1", "--json", **recognisable, **extra)


def reach(pieces: Sequence[Request]) -> int:
    """The end of ranges that each begin where the one before has ended."""
    end = 0
    for piece in pieces:
        first, last = (piece.range or "").removeprefix("bytes=").split("-")
        assert int(first) == end
        end = int(last) + 1
    return end


def everything(hub: FakeHub) -> tuple[Request, ...]:
    return (*hub.requests, *hub.cdn_requests)


def test_a_pull_makes_exactly_the_requests_that_it_must(
    guard: Guard, hub: FakeHub, commit: str, smollm2: Path
) -> None:
    ended = pull(guard, hub)
    assert ended.code == ExitCode.OK, ended.err
    assert json.loads(ended.out)["bytes"] == smollm2.stat().st_size
    where = f"/{REPO}/resolve/{commit}/{FILE}"
    assert [(each.method, each.path, each.query) for each in hub.requests] == [
        ("GET", f"/api/models/{REPO}", "blobs=true"),
        ("GET", where, ""),  # the header
        ("GET", where, ""),  # the file
    ]
    *header, file = hub.cdn_requests
    assert {each.method for each in hub.cdn_requests} == {"GET"}
    assert reach(header) < 16 << 20
    assert file.range == "bytes=0-"
    assert ended.seen.attempts == ()  # and nowhere else


def test_no_request_says_more_than_it_must(guard: Guard, hub: FakeHub, commit: str) -> None:
    assert pull(guard, hub).code == ExitCode.OK
    for request in everything(hub):
        assert set(request.headers) <= ALLOWED, request
        assert request.headers["user-agent"] == USER_AGENT
        assert request.headers["accept-encoding"] == "identity"


def test_the_bytes_of_a_file_come_once(
    guard: Guard, hub: FakeHub, commit: str, smollm2: Path
) -> None:
    assert pull(guard, hub).code == ExitCode.OK
    size = smollm2.stat().st_size
    assert size <= hub.bytes_sent < size + (16 << 20)  # the header was read before


def test_a_token_is_shown_to_the_endpoint_only(guard: Guard, hub: FakeHub, commit: str) -> None:
    ended = pull(guard, hub, HF_TOKEN="hf_good")
    assert ended.code == ExitCode.OK, ended.err
    assert {each.token for each in hub.requests} == {"hf_good"}
    assert all("authorization" not in each.headers for each in hub.cdn_requests)
    assert "hf_good" not in ended.out + ended.err
    assert all("hf_good" not in f"{each.path}?{each.query}" for each in everything(hub))


def test_a_second_pull_of_the_same_commit_asks_for_the_list_alone(
    guard: Guard, hub: FakeHub, commit: str
) -> None:
    assert pull(guard, hub).code == ExitCode.OK
    listed, fetched = len(hub.requests), len(hub.cdn_requests)
    assert pull(guard, hub).code == ExitCode.OK
    assert [each.path for each in hub.requests[listed:]] == [f"/api/models/{REPO}"]
    assert len(hub.cdn_requests) == fetched


def test_a_pull_writes_nothing_outside_of_its_directories(
    guard: Guard, hub: FakeHub, commit: str, tmp_path: Path
) -> None:
    """Nothing in the home directory: no cache of huggingface_hub's, no id of an installation."""
    place = tmp_path / "user"
    place.mkdir()
    assert pull(guard, hub, HOME=str(place), USERPROFILE=str(place)).code == ExitCode.OK
    assert [path for path in place.rglob("*") if path.is_file()] == []
