"""The ledger: nothing that leaves is missing, nothing secret is kept, the file stays small."""

import json
import sys
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import Offline
from localllm.library.download.downloader import download
from localllm.library.http import connection_file
from localllm.library.http.client import Access, OfflineSwitch, open_client, repository_in
from localllm.library.http.connection_file import Connection, Purpose
from localllm.library.http.ledger import SAME_CONNECTION_S, NetworkLedger
from localllm.library.hub.hub import Hub
from tests.hub.server import FakeHub
from tests.library.downloads import FAST_OPTIONS, REPO, content, site_in

HOST = "huggingface.co"

connections = st.builds(
    Connection,
    id=st.sampled_from("abcdefgh"),
    host=st.just(HOST),
    purpose=st.sampled_from(Purpose),
    name=st.none() | st.just("a/b"),
    proxy=st.none(),
    started_at=st.just(0.0),
    ended_at=st.floats(0, 100),
)


class Time:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ledger_in(directory: Path, clock: Time | None = None) -> NetworkLedger:
    clock = clock or Time()
    return NetworkLedger(lambda: directory / "connections.json", clock=clock, monotonic=clock)


@given(st.lists(connections, max_size=12), st.lists(connections, max_size=12), st.integers(1, 5))
def test_the_newest_are_kept_once_each(
    stored: list[Connection], new: list[Connection], limit: int
) -> None:
    kept = connection_file.merged(stored, new, limit=limit)
    assert len(kept) == min(limit, len({each.id for each in (*stored, *new)}))
    times = [each.ended_at for each in kept]
    assert times == sorted(times, reverse=True)
    newest_of_id = {each.id: each for each in (*stored, *new)}
    assert all(newest_of_id[each.id] == each for each in kept)
    assert connection_file.merged(kept, new, limit=limit)[:1] == kept[:1]


def test_a_download_is_one_connection_with_its_name_and_bytes(hub: FakeHub, tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    site = site_in(hub, tmp_path / "models", content())
    access = Access(endpoints=(hub.endpoint,), token="hf_secret", ledger=ledger)
    Hub(access).search("private words")
    Hub(access).repo(REPO)
    changes: list[str | None] = []
    with ledger.listening(lambda: changes.append(ledger.activity().host)):
        download([site.target], access, connections=3, options=FAST_OPTIONS)
    by_purpose = {(each.purpose, each.name): each for each in ledger.connections()}
    # The CDN is another origin and learns no name: it has a connection of its own.
    assert set(by_purpose) == {
        (Purpose.SEARCH, None),
        (Purpose.METADATA, REPO),
        (Purpose.DOWNLOAD, REPO),
        (Purpose.DOWNLOAD, None),
    }
    file = by_purpose[Purpose.DOWNLOAD, None]
    assert len(content()) < file.bytes_in < len(content()) + 1000 * file.requests
    assert 0 < file.bytes_out < 500 * file.requests
    assert {each.failures for each in ledger.connections()} == {0}
    assert changes[0] == "127.0.0.1"
    assert ledger.activity().host is None
    assert "private" not in repr(ledger.connections())
    # Nothing left this machine: nothing was sent, and nothing is kept.
    assert (ledger.activity().sent_bytes, ledger.activity().received_bytes) == (0, 0)
    ledger.flush()
    assert not (tmp_path / "connections.json").exists()


def test_connections_of_several_processes_are_found_again(tmp_path: Path) -> None:
    clock = Time()
    first, second = ledger_in(tmp_path, clock), ledger_in(tmp_path, clock)
    exchange = first.begin(HOST, Purpose.DOWNLOAD, name="org/repo\x1b[2J")
    (at_once,) = ledger_in(tmp_path).history()  # a kill -9 from here on leaves a trace
    assert (at_once.host, at_once.name, at_once.bytes_in) == (HOST, "org/repo", 0)
    exchange.sent(100)
    exchange.received(5000)
    clock.now += 3
    exchange.end()
    first.flush()
    second.begin(HOST, Purpose.SEARCH).end(failed=True)
    searched, loaded = ledger_in(tmp_path).history()
    assert (searched.purpose, searched.requests) == (Purpose.SEARCH, 1)
    assert (loaded.bytes_out, loaded.bytes_in, loaded.ended_at) == (100, 5000, 1003.0)
    if sys.platform != "win32":
        assert (tmp_path / "connections.json").stat().st_mode & 0o777 == 0o600
    clock.now += SAME_CONNECTION_S + 1
    first.begin(HOST, Purpose.DOWNLOAD, name="org/repo\x1b[2J")
    assert len(first.connections()) == 2
    first.erase()
    assert ledger_in(tmp_path).history() == ()
    exchange.received(7)  # of what was erased only the sum is known
    assert first.connections() == ()
    assert first.activity().received_bytes == 5007


def test_the_file_holds_a_bounded_number_and_survives_damage(tmp_path: Path) -> None:
    ledger, file = ledger_in(tmp_path), tmp_path / "connections.json"
    damaged = (b"{", b"\xff", b"[" * 100_000, b'{"schema":1,"connections":[{"id":3}]}')
    for number, damage in enumerate(damaged):
        file.write_bytes(damage)
        ledger.begin(HOST, Purpose.SEARCH, name=f"a/{number}")
        assert len(ledger_in(tmp_path).history()) == 1
    many = [
        Connection(
            id=str(number), host=HOST, purpose=Purpose.METADATA, name=None, proxy=None,
            started_at=0.0, ended_at=float(number),
        )
        for number in range(connection_file.MAX_CONNECTIONS + 50)
    ]  # fmt: skip
    connection_file.add(file, many)
    assert len(json.loads(file.read_bytes())["connections"]) == connection_file.MAX_CONNECTIONS
    assert file.stat().st_size < connection_file.MAX_FILE_BYTES


def test_a_request_goes_on_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = NetworkLedger(lambda: tmp_path / "file" / "connections.json")
    ledger.begin(HOST, Purpose.DOWNLOAD).end()
    assert ledger.problem is not None
    assert len(ledger.connections()) == 1


def test_an_attempt_without_a_connection_sent_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hf_secret@127.0.0.1:9")  # nobody listens there
    ledger = ledger_in(tmp_path)
    with open_client(Access(ledger=ledger)) as client, pytest.raises(httpx2.TransportError):
        client.get(f"https://{HOST}/api/models?search=words")
    (attempt,) = ledger_in(tmp_path).history()
    assert (attempt.host, attempt.proxy, attempt.purpose) == (HOST, "127.0.0.1", Purpose.SEARCH)
    assert (attempt.failures, attempt.bytes_out, attempt.bytes_in) == (1, 0, 0)
    assert ledger.activity().sent_bytes == 0
    kept = (tmp_path / "connections.json").read_bytes()
    assert b"words" not in kept
    assert b"secret" not in kept


def test_switching_off_ends_what_runs(hub: FakeHub, tmp_path: Path) -> None:
    site, switch = site_in(hub, tmp_path / "models", content()), OfflineSwitch()
    ledger = ledger_in(tmp_path)
    access = Access(endpoints=(hub.endpoint,), ledger=ledger, switch=switch)
    file = f"{hub.endpoint}/{REPO}/resolve/{site.commit}/{site.target.name}"
    with open_client(access, follow_redirects=True) as client, client.stream("GET", file) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        switch.reason = "switched off in the app"
        with pytest.raises(Offline, match="switched off in the app"):
            next(pieces)
        with pytest.raises(Offline):
            client.get(f"{hub.endpoint}/api/models")
    with pytest.raises(Offline):
        open_client(access)
    assert ledger.activity().host is None
    assert sum(each.bytes_in for each in ledger.connections()) < len(content())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/models", None),
        ("/api/models/org/repo", "org/repo"),
        ("/mirror/api/models/org/repo/revision/main", "org/repo"),
        ("/org/repo/resolve/abc/model.gguf", "org/repo"),
        ("/", None),
    ],
)
def test_the_name_that_goes_out_is_found_in_a_path(path: str, name: str | None) -> None:
    assert repository_in(path) == name
