"""The requests that the Hub gets, and what becomes of its responses."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from localllm.errors import AccessDenied, ExitCode, HubError, NotFound, Offline, UsageError
from localllm.library.http.client import Access
from localllm.library.http.retrying_transport import Clock
from localllm.library.hub.file_list import HubFile
from localllm.library.hub.hub import Hub, SearchHit
from tests.hub import BrokenJson, FakeHub, Portal, Refuse

REPO = "org/quince-GGUF"
FILES = {"quince-Q4_K_M.gguf": b"GGUF" * 100, "README.md": b"A model."}
AGENTS = ("CLAUDECODE", "CURSOR_AGENT", "AI_AGENT", "CODEX_SANDBOX", "SPACE_ID", "CI")
"""Variables that huggingface_hub reads to say who uses it, and where."""


@dataclass
class Time:
    """A clock that passes only while somebody sleeps."""

    now_s: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now_s, sleep=self.sleep)


def hub_client(hub: FakeHub | str, *more: FakeHub | str, token: str | None = None) -> Hub:
    """A client that never really waits."""
    endpoints = tuple(each if isinstance(each, str) else each.endpoint for each in (hub, *more))
    return Hub(Access(endpoints=endpoints, token=token), clock=Time().clock)


def dead_endpoint() -> str:
    """An endpoint where nobody listens any more."""
    with FakeHub() as gone:
        return gone.endpoint


def requests_of(hub: FakeHub) -> list[tuple[str, str, str]]:
    return [(each.method, each.path, each.query) for each in hub.requests]


# --- what is asked, and what comes of it ---


def test_a_search_is_one_question(hub: FakeHub) -> None:
    hub.add_repo("org/quince-small", {}, downloads=3, likes=1, tags=("chat",))
    hub.add_repo("org/quince-big", {}, downloads=9, gated="manual")
    hub.add_repo("org/plum", {}, downloads=99)
    found = hub_client(hub).search("quince")
    assert [each.name for each in found] == ["org/quince-big", "org/quince-small"]
    assert found[1] == SearchHit(
        name="org/quince-small", downloads=3, likes=1, updated="2026-11-01T12:00:00+00:00",
        gated=False, tags=("gguf", "chat", "license:apache-2.0"),
    )  # fmt: skip
    assert found[0].gated
    expand = "&".join(
        f"expand={e}" for e in ("downloads", "gated", "lastModified", "likes", "tags")
    )
    assert requests_of(hub) == [
        ("GET", "/api/models", f"filter=gguf&search=quince&sort=downloads&limit=20&{expand}")
    ]


def test_a_search_stops_at_its_limit_and_asks_no_second_page(hub: FakeHub) -> None:
    hub.page = 3
    for number in range(9):
        hub.add_repo(f"org/m{number}", {}, downloads=number)
    found = hub_client(hub).search("", limit=3)
    assert [each.name for each in found] == ["org/m8", "org/m7", "org/m6"]
    assert len(hub.requests) == 1
    assert len(hub_client(hub).search("", limit=-5)) == 1
    assert len(hub_client(hub).search("m", limit=10**9)) == 9


@pytest.mark.parametrize("text", ["a&filter=x", "a b/../c", "\x1b[2J\n", "ü" * 10_000, "%00"])
def test_whatever_is_searched_for_arrives_as_words(hub: FakeHub, text: str) -> None:
    assert hub_client(hub).search(text) == ()
    (request,) = hub.requests
    assert request.path == "/api/models"
    assert request.parameters["filter"] == "gguf"
    assert len(request.query) < 2000
    assert request.parameters.get("search", "").isprintable()


def test_a_hit_that_is_no_repository_is_left_out(hub: FakeHub) -> None:
    hub.add_repo("org/good", {})
    for name in ("org/..", "org/a\x1b[2J", "gpt2", "a/b/c", "org/" + "x" * 100):
        hub.add_repo(name, {})
    assert [each.name for each in hub_client(hub).search("")] == ["org/good"]


def test_a_repository_is_one_question(hub: FakeHub) -> None:
    commit = hub.add_repo(REPO, FILES, license="mit", tags=("chat", "a\nb"), downloads=7)
    repo = hub_client(hub).repo(REPO)
    assert (repo.name, repo.commit, repo.license) == (REPO, commit, "mit")
    assert (repo.downloads, repo.gated, repo.endpoint) == (7, False, hub.endpoint)
    assert repo.tags == ("gguf", "chat", "a b", "license:mit")
    sha256 = hub.repos[REPO].commits[commit]["quince-Q4_K_M.gguf"].sha256
    assert repo.files == (
        HubFile(name="quince-Q4_K_M.gguf", size_bytes=400, sha256=sha256),
        HubFile(name="README.md", size_bytes=8, sha256=None),
    )
    assert requests_of(hub) == [("GET", f"/api/models/{REPO}", "blobs=true")]


def test_a_revision_is_asked_for_by_its_name(hub: FakeHub) -> None:
    old = hub.add_repo(REPO, FILES)
    new = hub.change(REPO, {})
    assert (hub_client(hub).repo(REPO).commit, hub_client(hub).repo(REPO, old).commit) == (new, old)
    assert requests_of(hub)[1:] == [("GET", f"/api/models/{REPO}/revision/{old}", "blobs=true")]
    with pytest.raises(NotFound, match=f"has no {REPO} at v9") as missing:
        hub_client(hub).repo(REPO, "v9")
    assert missing.value.exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("quince", None), ("", None), ("../x", None), ("org/../x", None), ("a/b/c", None),
        ("org/x y", None), ("org/x\n", None), ("https://huggingface.co/a/b", None),
        ("org/" + "x" * 100, None), (REPO, ""), (REPO, "../main"), (REPO, "a b"),
        (REPO, "-rf"), (REPO, "x" * 999), (REPO, "a?b=c"), (REPO, "a%2e"),
    ],
)  # fmt: skip
def test_what_names_nothing_is_a_usage_error_before_anybody_is_asked(
    hub: FakeHub, name: str, revision: str | None
) -> None:
    with pytest.raises(UsageError):
        hub_client(hub).repo(name, revision)
    assert hub.requests == ()


def test_the_library_below_says_nothing_about_who_asks(hub: FakeHub, tmp_path: Path) -> None:
    """In a process of its own, as huggingface_hub reads the environment while it is imported."""
    hub.add_repo(REPO, FILES)
    code = (
        "import sys\n"
        "from localllm.library.hub.hub import Hub\n"
        "from localllm.library.http.client import Access\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        f"hub = Hub(Access(endpoints=({hub.endpoint!r},)))\n"
        f"hub.search('quince'), hub.repo({REPO!r})\n"
        "assert 'huggingface_hub' in sys.modules and 'hf_xet' not in sys.modules\n"
    )
    extra = dict.fromkeys(AGENTS, "1") | {"HOME": str(tmp_path / "user")}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **extra})
    assert [each.path for each in hub.requests] == ["/api/models", f"/api/models/{REPO}"]
    for request in hub.requests:
        assert request.headers == {
            "host": hub.endpoint.removeprefix("http://"),
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": f"localllm/{version('localllm')}",
        }
    assert not (tmp_path / "user").exists()


@pytest.mark.parametrize("variable", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
def test_a_variable_that_the_library_cannot_read_is_a_usage_error(variable: str) -> None:
    code = (
        "from localllm.errors import UsageError\n"
        "from localllm.library.hub.hub import Hub\n"
        "from localllm.library.http.client import Access\n"
        "try:\n"
        "    Hub(Access(endpoints=('http://127.0.0.1:9',))).search('x')\n"
        "except UsageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={**os.environ, variable: "soon"},
    )  # fmt: skip
    assert "begins with HF_ cannot be used" in done.stdout
    assert "soon" in done.stdout


# --- who may see it ---


def test_a_missing_repository_is_missing_with_and_without_a_token(hub: FakeHub) -> None:
    for token, hint in ((None, "HF_TOKEN"), ("hf_good", "token that may read it")):
        with pytest.raises(NotFound, match="has no org/none, or it is private") as missing:
            hub_client(hub, token=token).repo("org/none")
        assert hint in str(missing.value)
        assert missing.value.exit_code == ExitCode.NOT_FOUND
    assert [each.status for each in hub.requests] == [401, 404]


def test_a_private_repository_is_listed_for_its_token(hub: FakeHub) -> None:
    hub.add_repo(REPO, FILES, private=True)
    assert hub_client(hub, token="hf_good").repo(REPO).name == REPO
    with pytest.raises(NotFound):
        hub_client(hub).repo(REPO)


def test_a_gated_repository_is_listed_for_all(hub: FakeHub) -> None:
    hub.add_repo(REPO, FILES, gated="manual")
    repo = hub_client(hub).repo(REPO)
    assert repo.gated
    assert repo.files[0].sha256 is not None


@pytest.mark.parametrize(
    ("token", "what_to_do"),
    [
        (None, ("accept its terms", "/settings/tokens", "HF_TOKEN")),
        ("hf_good", ("ask for access",)),
    ],
)
def test_a_refused_listing_says_which_page_to_open(
    hub: FakeHub, token: str | None, what_to_do: tuple[str, ...]
) -> None:
    hub.add_repo(REPO, FILES)
    hub.faults.add(Refuse(403))
    with pytest.raises(AccessDenied) as denied:
        hub_client(hub, token=token).repo(REPO)
    for words in (f"{hub.endpoint}/{REPO}", *what_to_do):
        assert words in str(denied.value)
    assert len(hub.requests) == 1


def test_a_token_that_is_not_known_is_left_away_and_that_is_said(hub: FakeHub) -> None:
    hub.add_repo(REPO, FILES)
    client = hub_client(hub, token="hf_stale")
    assert client.repo(REPO).name == REPO
    assert [(each.token, each.status) for each in hub.requests] == [("hf_stale", 401), (None, 200)]
    (warning,) = client.warnings
    assert "does not know your token" in warning
    assert "hf_stale" not in warning
    assert client.access.bearer() is None
    client.search("quince")
    assert len(hub.requests) == 3
    assert len(client.warnings) == 1


def test_a_missing_repository_and_a_stale_token_are_both_said(hub: FakeHub) -> None:
    with pytest.raises(AccessDenied) as denied:
        hub_client(hub, token="hf_stale").repo("org/mine")
    assert "no org/mine, or it is private" in str(denied.value)
    assert "does not know your token" in str(denied.value)
    assert "hf_stale" not in str(denied.value)


def test_a_token_is_in_no_error_and_no_log(
    hub: FakeHub, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.add_repo(REPO, FILES)
    texts = [repr(hub_client(hub, token="hf_good").access)]
    for fault in (Refuse(403), Refuse(500), Refuse(404), Portal(), BrokenJson(), Refuse(401)):
        hub.faults.clear()
        hub.faults.add(fault)
        with pytest.raises((HubError, NotFound)) as failed:
            hub_client(hub, token="hf_good").repo(REPO)
        chain: BaseException | None = failed.value
        while chain is not None:
            texts += [str(chain), repr(chain)]
            chain = chain.__cause__ or chain.__context__
    assert "hf_good" in {each.token for each in hub.requests}
    everything = "\n".join([*texts, caplog.text, *capfd.readouterr()])
    assert "hf_good" not in everything


# --- endpoints in order ---


def test_the_next_endpoint_is_asked_when_one_does_not_answer(hub: FakeHub) -> None:
    hub.add_repo(REPO, FILES)
    with FakeHub() as busy:
        busy.faults.add(Refuse(503))
        repo = hub_client(dead_endpoint(), busy, hub).repo(REPO)
        assert repo.endpoint == hub.endpoint
        assert busy.requests
        assert len(hub.requests) == 1


def test_a_mirror_that_has_it_not_is_not_the_last_word(hub: FakeHub) -> None:
    hub.add_repo(REPO, FILES)
    with FakeHub() as mirror:
        assert hub_client(mirror, hub).repo(REPO).endpoint == hub.endpoint
        assert hub_client(hub, mirror).repo(REPO).endpoint == hub.endpoint
        assert len(mirror.requests) == 1
        with pytest.raises(NotFound) as missing:
            hub_client(mirror, hub).repo("org/none")
        assert mirror.endpoint in str(missing.value)
        assert hub.endpoint in str(missing.value)


def test_endpoints_that_all_fail_are_all_named(hub: FakeHub) -> None:
    hub.faults.add(Portal())
    gone = dead_endpoint()
    with pytest.raises(HubError) as failed:
        hub_client(gone, hub).search("quince")
    for words in (gone, "Connection refused", hub.endpoint, "wants a login"):
        assert words in str(failed.value)
    assert failed.value.exit_code == ExitCode.FAILED


def test_a_stale_token_of_one_endpoint_does_not_keep_the_next_from_answering(hub: FakeHub) -> None:
    hub.add_repo(REPO, FILES, private=True)
    with FakeHub() as mirror:
        mirror.tokens.clear()
        client = hub_client(mirror, hub, token="hf_good")
        assert client.repo(REPO).endpoint == hub.endpoint


# --- offline ---


QUESTIONS: list[Callable[[Hub], object]] = [
    lambda hub: hub.search("quince"),
    lambda hub: hub.repo(REPO),
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_offline_no_socket_is_opened(
    hub: FakeHub, question: Callable[[Hub], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", opened)
    off = Access(endpoints=(hub.endpoint, dead_endpoint()), offline="LOCALLLM_OFFLINE")
    with pytest.raises(Offline, match=r"switched off \(LOCALLLM_OFFLINE\)"):
        question(Hub(off))
    assert hub.requests == ()
