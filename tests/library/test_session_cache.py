"""Saved KV caches of sessions: where they are, and which are evicted."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import StoreError
from localllm.library.files.session_cache import SavedCache, SessionCache, to_evict

files = st.lists(
    st.builds(
        SavedCache,
        path=st.integers(0, 10**6).map(lambda n: Path(f"{n}.cells")),
        size_bytes=st.integers(0, 1000),
        used_ns=st.integers(0, 50),
    ),
    max_size=20,
    unique_by=lambda saved: saved.path,
)


@given(files, st.integers(0, 5000))
def test_what_stays_fits_and_was_used_last(saved: list[SavedCache], limit: int) -> None:
    going = set(to_evict(saved, limit))
    stays = [each for each in saved if each.path not in going]
    assert sum(each.size_bytes for each in stays) <= limit
    gone = [each for each in saved if each.path in going]
    if gone and stays:
        assert max(each.used_ns for each in gone) <= min(each.used_ns for each in stays)
    if gone:  # the one used last of them had no room any more
        last = max(gone, key=lambda each: (each.used_ns, each.path))
        assert sum(each.size_bytes for each in stays) + last.size_bytes > limit


@given(files)
def test_nothing_goes_while_there_is_room(saved: list[SavedCache]) -> None:
    assert to_evict(saved, sum(each.size_bytes for each in saved)) == ()


def test_a_session_has_a_file_for_each_model_and_no_name_leaves_the_directory(
    tmp_path: Path,
) -> None:
    cache = SessionCache(tmp_path / "states", limit_bytes=100)
    names = ["a.json", "../../etc/passwd", "a\nb", "x" * 300, "\udcff"]
    found = {cache.file(Path(n), Path(m)) for n in names for m in ("/m/1.gguf", "/m/2.gguf")}
    assert len(found) == 2 * len(names)
    assert {path.parent for path in found} == {tmp_path / "states"}
    assert cache.file(Path("a.json"), Path("/m")) == cache.file(Path("a.json"), Path("/m"))


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    cache = SessionCache(tmp_path / "cache" / "states", limit_bytes=100)
    key = cache.key()
    assert len(bytes.fromhex(key)) == 32
    assert SessionCache(tmp_path / "cache" / "states", limit_bytes=1).key() == key
    assert stat.S_IMODE((tmp_path / "cache" / "states").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "cache" / "states" / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"z" * 64, b"\xff" * 64, b"A" * 64, b"a" * 65])
def test_something_that_is_no_key_is_replaced_by_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    cache = SessionCache(tmp_path, limit_bytes=100)
    assert cache.key() == cache.key() != content.decode("latin-1")


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = SessionCache(tmp_path / "file" / "states", limit_bytes=100)
    with pytest.raises(StoreError, match="Nothing can be kept"):
        cache.key()
    with pytest.raises(StoreError, match="--no-session-cache"), cache.locked(Path("a")):
        pass


def test_a_session_is_open_once(tmp_path: Path) -> None:
    cache, first = SessionCache(tmp_path, limit_bytes=100), Path("a.json")
    refused = pytest.raises(StoreError, match=r"a\.json is open in another")
    with cache.locked(first), cache.locked(Path("b.json")), refused, cache.locked(first):
        pass
    with cache.locked(first):
        pass


def test_the_files_used_least_recently_go_and_the_key_stays(tmp_path: Path) -> None:
    place = tmp_path / "states"
    cache = SessionCache(place, limit_bytes=250)
    cache.key()
    for age, name in enumerate(["new.cells", "killed.cells.tmp", "old.cells", "older.cells"]):
        (place / name).write_bytes(bytes(100))
        os.utime(place / name, (1000 - age, 1000 - age))
    (place / "other.txt").write_bytes(bytes(1000))
    cache.touch(place / "older.cells")
    left = {path.name for path in place.iterdir()}
    assert left == {"new.cells", "older.cells", "other.txt", "key", "key.lock"}
