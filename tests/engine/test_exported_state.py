"""Conversations that leave the process and come back to another one."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from localllm.core.sizing.load import KvType, LoadSettings
from localllm.engine.worker.kv_cache.exported_state import (
    ExportedStates,
    decrypted,
    encrypted,
    worth_keeping,
)
from localllm.errors import StateFailed
from localllm.runtime.model_pool.swap_places import SwapPlace, disk_place, memory_place
from tests.engine import tiny
from tests.engine.state_files import MORE, STORY, SavingScheduler
from tests.engine.stepped_scheduler import Reference, settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

KINDS: dict[str, tuple[Callable[[Path], Path], LoadSettings]] = {
    "plain": (tiny.plain, settings()),
    "one slot": (tiny.plain, settings(parallel=1)),
    "windowed": (tiny.windowed, settings()),
    "recurrent": (tiny.recurrent, settings()),
    "hybrid": (tiny.hybrid, settings()),
}
TALKS = (STORY[:60], STORY[60:], STORY[50::-1])
ROOM = 2**30


class SwappingScheduler(SavingScheduler):
    """A stepped scheduler whose conversations can be copied out and back."""

    def __init__(self, path: Path, load: LoadSettings) -> None:
        super().__init__(path, load)
        self.exports = ExportedStates(self.model, self.scheduler.kv_cache, self.states)

    def copy_out(self, index: int, place: SwapPlace, max_bytes: int = ROOM) -> int:
        key = None if place.key is None else bytes.fromhex(place.key)
        tokens, _ = self.exports.save(index, Path(place.path), key=key, max_bytes=max_bytes)
        self.check()
        place.seal()
        return tokens

    def copy_back(self, place: SwapPlace) -> int:
        key = None if place.key is None else bytes.fromhex(place.key)
        try:
            return self.exports.restore(Path(place.path), key=key)
        finally:
            self.check()

    def cached(self, prompt: str) -> tuple[int, str]:
        """Answer, and return how much of the prompt was there already."""
        name = secrets.token_hex(4)
        self.submit(name, prompt)
        self.run()
        return self.end(name).cached_tokens, self.text(name)  # type: ignore[union-attr]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Callable[[bool], SwapPlace]]:
    """Make places, in memory or on the disk."""
    made: list[SwapPlace] = []

    def make(on_disk: bool) -> SwapPlace:
        made.append(disk_place(tmp_path / "swap") if on_disk else memory_place())
        return made[-1]

    yield make
    for place in made:
        place.close()


Make = Callable[[bool], SwapPlace]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_all_conversations_go_on_in_another_process(
    kind: str, on_disk: bool, places: Make, tmp_path: Path
) -> None:
    make, load = KINDS[kind]
    path = make(tmp_path / "tiny.gguf")
    with closing(SwappingScheduler(path, load)) as first:
        talks = [talk + first.ask(talk) for talk in TALKS[: max(2, load.parallel)]]
        lengths = first.exports.listed()
        assert list(lengths) == [len(talk) - 1 for talk in reversed(talks)]  # used last first
        kept = [places(on_disk) for _ in lengths]
        assert [first.copy_out(i, place) for i, place in enumerate(kept)] == list(lengths)
    with (
        closing(SwappingScheduler(path, load)) as second,
        closing(Reference(path, load)) as reference,
    ):
        assert [second.copy_back(place) for place in reversed(kept)] == list(reversed(lengths))
        for talk in talks:
            cached, answer = second.cached(talk + MORE)
            assert cached == len(talk) - 1
            assert reference.agrees(talk + MORE, answer, max_tokens=20, whole=True)


def test_a_copy_that_is_no_copy_of_this_model_is_refused(places: Make, tmp_path: Path) -> None:
    plain = tiny.plain(tmp_path / "plain.gguf")
    kept, cut, open_ = places(True), places(False), places(False)
    with closing(SwappingScheduler(plain, settings())) as first:
        talk = STORY + first.ask(STORY)
        first.exports.listed()
        first.copy_out(0, kept)
        first.exports.save(0, Path(open_.path), key=None, max_bytes=ROOM)
        with pytest.raises(StateFailed, match="there is room for"):
            first.copy_out(0, places(False), max_bytes=1000)
        with pytest.raises(StateFailed, match="no such conversation"):
            first.copy_out(1, cut)
        with pytest.raises(StateFailed, match="cannot be copied"):
            first.copy_out(0, SwapPlace(None, str(tmp_path / "none")))
        with pytest.raises(StateFailed, match="No space left"):
            first.copy_out(0, SwapPlace(None, "/dev/full", key=secrets.token_hex(32)))
        assert first.cached(talk + MORE)[0] == len(talk) - 1  # none of it has cost the cache
    Path(cut.path).write_bytes(Path(open_.path).read_bytes()[:-1])
    cut.seal()
    other_key = SwapPlace(None, kept.path, key="00" * 32)
    with closing(SwappingScheduler(plain, settings())) as same:
        for place, reason in (
            (open_, "sealed"),  # somebody might still write to it
            (SwapPlace(None, kept.path), "sealed"),  # not memory
            (cut, "do not add up"),
            (other_key, "another key"),
        ):
            with pytest.raises(StateFailed, match=reason):
                same.copy_back(place)
        assert same.copy_back(kept) == len(talk) - 1
    changed = replace(settings(), kv_type_k=KvType.Q8_0)
    with (
        closing(SwappingScheduler(plain, changed)) as other,
        pytest.raises(StateFailed, match="another kv type k"),
    ):
        other.copy_back(kept)
    os.utime(plain)
    with (
        closing(SwappingScheduler(plain, settings())) as newer,
        pytest.raises(StateFailed, match="another files"),
    ):
        newer.copy_back(kept)


@given(
    plain=st.binary(min_size=1, max_size=100),
    repeats=st.sampled_from([1, 20_000, 30_000]),
    position=st.integers(min_value=0),
    bit=st.integers(0, 7),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_only_what_was_encrypted_is_decrypted(
    plain: bytes, repeats: int, position: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text, key = plain * repeats, secrets.token_bytes(32)
    chunks = list(encrypted(memoryview(text), key))
    sealed = b"".join(chunks)
    file = tmp_path_factory.getbasetemp() / "sealed"

    def opened(data: bytes, with_key: bytes = key) -> bytes:
        file.write_bytes(data)
        with file.open("rb") as stream:
            return decrypted(stream, with_key)[:]

    assert opened(sealed) == text
    assert len(text) < 32 or text[:32] not in sealed
    damaged = bytearray(sealed)
    damaged[position % len(sealed)] ^= 1 << bit
    for wrong in (
        bytes(damaged),
        sealed[:-1],
        sealed[: len(sealed) // 2],
        b"",
        b"".join(chunks[:-1]),
    ):
        with pytest.raises(StateFailed):
            opened(wrong)
    if len(chunks) > 1:
        with pytest.raises(StateFailed):
            opened(b"".join((chunks[1], chunks[0], *chunks[2:])))
    with pytest.raises(StateFailed):
        opened(sealed, bytes(32))


@given(st.lists(st.lists(st.integers(-1, 3), min_size=1, max_size=60), max_size=6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_kept_is_new_and_has_no_images(conversations: list[list[int]]) -> None:
    alone = worth_keeping(conversations, shares=False)
    assert alone == [each for each in conversations if len(each) >= 16 and min(each) >= 0]
    shared = worth_keeping(conversations, shares=True)
    for i, each in enumerate(shared):
        assert each in alone
        for before in shared[:i]:
            pairs = zip(each, before, strict=False)
            known = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            assert len(each) - known >= max(16, len(each) / 4)
    for each in alone:  # what is left out is mostly in another one that is kept
        if each not in shared:
            assert any(each[: len(each) // 4] == kept[: len(each) // 4] for kept in shared)
