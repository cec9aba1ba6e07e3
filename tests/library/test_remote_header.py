"""Headers of models on the Hub, and how little is transferred for them."""

import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from localllm.errors import AccessDenied, GgufError, HubError, NotFound, Offline
from localllm.library.files import paths
from localllm.library.http.client import Access
from localllm.library.hub.hub import Hub, HubRepo
from localllm.library.hub.remote_header import HEADER_OPTIONS, MAX_TRANSFER_BYTES
from localllm.library.store.inspect import inspect_model
from tests.hub import (
    Drop,
    FakeHub,
    Flip,
    Gzip,
    NoRanges,
    Portal,
    Refuse,
    SparseFile,
    Stall,
    Truncate,
    WrongLength,
)
from tests.hub.certificate import loopback_certificate
from tests.hub.faults import Fault
from tests.library import tiny

REPO = "org/quince-GGUF"
LARGE = 40 * 10**9
MB = 10**6


def head_of(model: Path) -> bytes:
    """All that comes before the weights."""
    with model.open("rb") as stream:
        return stream.read(inspect_model(model).spec.data_offset)


@dataclass
class Reader:
    """A client that reads headers of one repository, with a cache of its own."""

    hub: FakeHub
    cache: Path
    token: str | None = None
    backoff_s: list[float] = field(default_factory=list)

    def publish(self, files: dict[str, bytes | SparseFile], **how: str) -> HubRepo:
        self.hub.add_repo(REPO, files, **how)  # type: ignore[arg-type]  # what `how` may be
        return self.repo()

    def repo(self) -> HubRepo:
        return self.reading().repo(REPO)

    def reading(self, *, offline: str | None = None) -> Hub:
        """A Hub that never really waits."""

        def wait(closed: threading.Event, seconds: float) -> bool:
            self.backoff_s.append(seconds)
            return closed.is_set()

        return Hub(
            Access(endpoints=(self.hub.endpoint,), token=self.token, offline=offline),
            cache_dir=self.cache,
            options=replace(HEADER_OPTIONS, wait=wait),
        )

    @property
    def moved_bytes(self) -> int:
        return sum(each.sent for each in self.hub.cdn_requests)


@pytest.fixture
def reader(hub: FakeHub, tmp_path: Path) -> Reader:
    return Reader(hub, tmp_path / "cache")


@pytest.fixture
def gemma_head(gemma3: Path) -> bytes:
    """The longest header there is: 262,144 tokens."""
    return head_of(gemma3)


# --- how much is moved ---


def test_the_header_of_40_gb_moves_under_16_mb_and_is_the_files_own(
    reader: Reader, gemma3: Path, gemma_head: bytes
) -> None:
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, LARGE)})
    spec = reader.reading().header(repo, "big.gguf")
    local = inspect_model(gemma3).spec
    assert spec.file_bytes == LARGE
    assert replace(spec, file_bytes=local.file_bytes) == local
    assert len(gemma_head) <= reader.moved_bytes < 16 * MB
    assert reader.moved_bytes < 2 * len(gemma_head) + MB


def test_few_requests_are_needed_and_they_never_overlap(reader: Reader, gemma_head: bytes) -> None:
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, LARGE)})
    reader.reading().header(repo, "big.gguf")
    reached = 0
    for request in reader.hub.cdn_requests:
        first, _, last = (request.range or "").removeprefix("bytes=").partition("-")
        assert int(first) == reached
        reached = int(last) + 1
    assert len(reader.hub.cdn_requests) <= 3 + math.log2(len(gemma_head))
    assert len(reader.hub.requests) == 2  # the list, and where the file is


def test_a_small_header_takes_one_small_range(reader: Reader, smollm2: Path) -> None:
    repo = reader.publish({"m.gguf": SparseFile(tiny.header(tiny.MODEL), LARGE)})
    reader.reading().header(repo, "m.gguf")
    (request,) = reader.hub.cdn_requests
    assert request.range == f"bytes=0-{256 * 1024 - 1}"


def test_a_file_shorter_than_the_first_range_is_asked_for_as_it_is(reader: Reader) -> None:
    raw = tiny.header(tiny.MODEL)
    spec = reader.reading().header(reader.publish({"m.gguf": raw}), "m.gguf")
    assert spec.file_bytes == len(raw) == reader.moved_bytes


# --- the cache ---


def test_the_second_time_nothing_is_moved_also_offline(reader: Reader, gemma_head: bytes) -> None:
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, LARGE)})
    first = reader.reading().header(repo, "big.gguf")
    before, moved = len(reader.hub.requests), reader.moved_bytes
    assert reader.reading().header(repo, "big.gguf") == first
    assert reader.reading(offline="--offline").header(repo, "big.gguf") == first
    assert (len(reader.hub.requests), reader.moved_bytes) == (before, moved)


def test_another_commit_is_read_again(reader: Reader) -> None:
    old = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    reader.hub.change(REPO, {"m.gguf": tiny.header(tiny.MODEL, tensors=2)})
    new = reader.repo()
    assert len(reader.reading().header(old, "m.gguf").tensors) == 1
    assert len(reader.reading().header(new, "m.gguf").tensors) == 2
    assert len(reader.reading().header(old, "m.gguf").tensors) == 1
    assert len(reader.hub.cdn_requests) == 2


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 5000])
def test_a_damaged_cache_is_read_again(reader: Reader, damage: bytes) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    first = reader.reading().header(repo, "m.gguf")
    (cached,) = paths.hub_headers_dir(reader.cache).glob("*.gguf-header")
    cached.write_bytes(damage)
    assert reader.reading().header(repo, "m.gguf") == first
    assert len(reader.hub.cdn_requests) == 2
    assert reader.reading().header(repo, "m.gguf") == first
    assert len(reader.hub.cdn_requests) == 2


def test_a_cache_that_cannot_be_written_is_no_failure(reader: Reader) -> None:
    reader.cache.write_text("a file where the directory should be")
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    for _ in range(2):
        assert reader.reading().header(repo, "m.gguf").architecture == "llama"
    assert len(reader.hub.cdn_requests) == 2


def test_nothing_of_a_broken_header_is_kept(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": b"GGUF" + bytes(100)})
    for _ in range(2):
        with pytest.raises(GgufError, match=f"{REPO}: m.gguf is not usable"):
            reader.reading().header(repo, "m.gguf")
    assert len(reader.hub.cdn_requests) == 2


def test_many_readers_at_once_all_have_it(reader: Reader, gemma_head: bytes) -> None:
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, LARGE)})
    read: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: read.append(len(reader.reading().header(repo, "big.gguf").tensors))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(read) == 4
    assert len(set(read)) == 1


# --- split models ---


def split(directory: Path, count: int) -> dict[str, bytes | SparseFile]:
    return {each.name: each.read_bytes() for each in tiny.write_split(directory, "m", count)}


@pytest.mark.parametrize("number", [1, 3])
def test_all_parts_are_read_as_one(reader: Reader, tmp_path: Path, number: int) -> None:
    files = split(tmp_path, 3)
    spec = reader.reading().header(reader.publish(files), f"m-{number:05d}-of-00003.gguf")
    assert spec == inspect_model(tmp_path / "m-00001-of-00003.gguf").spec
    assert len(reader.hub.cdn_requests) == 3
    again = reader.reading().header(reader.repo(), "m-00002-of-00003.gguf")
    assert again == spec
    assert len(reader.hub.cdn_requests) == 3


def test_a_part_that_is_missing_is_named_before_anything_is_moved(
    reader: Reader, tmp_path: Path
) -> None:
    files = split(tmp_path, 3)
    del files["m-00002-of-00003.gguf"]
    with pytest.raises(NotFound, match=r"m-00002-of-00003\.gguf"):
        reader.reading().header(reader.publish(files), "m-00001-of-00003.gguf")
    assert reader.hub.cdn_requests == ()


def test_the_parts_together_stay_below_what_one_may_move(reader: Reader, gemma_head: bytes) -> None:
    """Eight megabytes each: the third would be too much."""
    name = "m-{:05d}-of-00003.gguf"
    files = {name.format(each): SparseFile(gemma_head, LARGE) for each in (1, 2, 3)}
    repo = reader.publish(dict(files))
    with pytest.raises(HubError, match="does not end within 15 MiB"):
        reader.reading().header(repo, name.format(1))
    assert reader.moved_bytes < 16 * MB


# --- what goes wrong ---


@pytest.mark.parametrize("fault", [Drop(70_000), Truncate(70_000), WrongLength(7)])
def test_a_transfer_that_breaks_goes_on_where_it_was(
    reader: Reader, gemma_head: bytes, fault: Fault
) -> None:
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, LARGE)})
    reader.hub.faults.add(fault, times=2, on="cdn")
    spec = reader.reading().header(repo, "big.gguf")
    assert spec.file_bytes == LARGE
    assert reader.moved_bytes < 16 * MB


def test_a_login_page_is_known_as_one(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    for port in ("hub", "cdn"):
        reader.hub.faults.clear()
        reader.hub.faults.add(Portal(), on=port)
        with pytest.raises(HubError, match="wants a login first"):
            reader.reading().header(repo, "m.gguf")


def test_addresses_that_expire_meanwhile_are_renewed(reader: Reader, gemma_head: bytes) -> None:
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, LARGE)})
    stall = Stall(0, threading.Event())
    reader.hub.faults.add(stall, times=1)
    reading = threading.Thread(target=lambda: reader.reading().header(repo, "big.gguf"))
    reading.start()
    assert stall.reached.wait(30)
    reader.hub.expire_links()
    stall.until.set()
    reading.join(60)
    assert 403 in {each.status for each in reader.hub.cdn_requests}
    assert list(paths.hub_headers_dir(reader.cache).glob("*.gguf-header"))


@pytest.mark.parametrize("size", [LARGE, 100 * MB])
def test_a_server_that_gives_no_parts_is_left_in_time(
    reader: Reader, gemma_head: bytes, size: int
) -> None:
    reader.hub.faults.add(NoRanges())
    repo = reader.publish({"big.gguf": SparseFile(gemma_head, size)})
    with pytest.raises(HubError, match="does not give parts of a file"):
        reader.reading().header(repo, "big.gguf")
    assert reader.moved_bytes < 2 * MAX_TRANSFER_BYTES  # what lay in buffers when it was left


def test_a_small_file_is_read_from_a_server_that_gives_no_parts(
    reader: Reader, smollm2: Path
) -> None:
    reader.hub.faults.add(NoRanges())
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL, tensors=20)})
    assert len(reader.reading().header(repo, "m.gguf").tensors) == 20


def test_a_hub_that_wants_to_be_left_alone_for_a_day_is(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    reader.hub.faults.add(Refuse(429, "86400"))
    with pytest.raises(HubError, match="left alone for"):
        reader.reading().header(repo, "m.gguf")
    assert reader.backoff_s == []


def test_a_wait_that_is_asked_for_is_kept(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    reader.hub.faults.add(Refuse(503, "17"), times=1)
    assert reader.reading().header(repo, "m.gguf").architecture == "llama"
    assert reader.backoff_s == [17.0]


def test_a_compressed_header_is_no_header(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    reader.hub.faults.add(Gzip())
    with pytest.raises((GgufError, HubError)):
        reader.reading().header(repo, "m.gguf")


@pytest.mark.parametrize("offset", [0, 4, 8, 16, 24, 40])
def test_a_flipped_byte_is_an_error_or_another_model_but_no_crash(
    reader: Reader, offset: int
) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    reader.hub.faults.add(Flip(offset))
    with pytest.raises(GgufError, match=r"m\.gguf is not usable"):
        reader.reading().header(repo, "m.gguf")


# --- who may ---


@pytest.mark.parametrize("token", [None, "hf_good"])
def test_a_gated_model_says_which_page_to_open(reader: Reader, token: str | None) -> None:
    reader.token = token
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)}, gated="manual")
    with pytest.raises(AccessDenied) as denied:
        reader.reading().header(repo, "m.gguf")
    assert f"{reader.hub.endpoint}/{REPO}" in str(denied.value)
    assert "token" in str(denied.value)
    assert "hf_good" not in str(denied.value)
    assert reader.hub.cdn_requests == ()


def test_a_member_reads_a_gated_model_and_the_cdn_sees_no_token(reader: Reader) -> None:
    reader.token = "hf_member"
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)}, gated="manual")
    assert reader.reading().header(repo, "m.gguf").architecture == "llama"
    assert {each.token for each in reader.hub.requests} == {"hf_member"}
    assert all("authorization" not in each.headers for each in reader.hub.cdn_requests)


def test_a_stale_token_does_not_hide_what_is_public(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    reader.token = "hf_stale"
    assert reader.reading().header(repo, "m.gguf").architecture == "llama"


def test_a_header_comes_over_tls_from_both_ports(tmp_path: Path) -> None:
    with FakeHub(tls=True) as hub:
        hub.add_repo(REPO, {"m.gguf": tiny.header(tiny.MODEL)})
        trusting = Access(endpoints=(hub.endpoint,), ca_file=loopback_certificate())
        reading = Hub(trusting, cache_dir=tmp_path)
        assert reading.header(reading.repo(REPO), "m.gguf").architecture == "llama"
        assert hub.cdn_requests


def test_offline_an_unknown_header_is_not_asked_for(reader: Reader) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    before = len(reader.hub.requests)
    with pytest.raises(Offline, match="switched off"):
        reader.reading(offline="--offline").header(repo, "m.gguf")
    assert len(reader.hub.requests) == before


def test_the_endpoint_that_listed_it_is_asked_first_and_the_next_one_then(
    reader: Reader, hub: FakeHub
) -> None:
    repo = reader.publish({"m.gguf": tiny.header(tiny.MODEL)})
    with FakeHub() as mirror:
        both = Access(endpoints=(mirror.endpoint, hub.endpoint))
        Hub(both, cache_dir=reader.cache).header(repo, "m.gguf")
        assert mirror.requests == ()
        other = replace(repo, endpoint=mirror.endpoint, commit=repo.commit)
        spec = Hub(both, cache_dir=reader.cache / "other").header(other, "m.gguf")
        assert spec.architecture == "llama"
        assert len(mirror.requests) == 1
