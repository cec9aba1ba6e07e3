"""Cells in a file: they come back as they were, and nothing else is taken for them."""

import os
import random
import resource
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as check
from hypothesis import strategies as st

from localllm.core.load import KvType, LoadSettings
from localllm.engine.client import ProcessEngine
from localllm.engine.events import LoadRequest, Message, RestoreState, Role, SaveState
from localllm.engine.worker.state import ModelFiles, States
from localllm.errors import StateFailed
from tests.engine import tiny
from tests.engine.answers import ask, collect
from tests.engine.driven import Driven, Reference, _log, settings

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
STORY = "".join(random.Random(7).choices(tiny.CHARACTERS, k=120))
MORE = "".join(random.Random(8).choices(tiny.CHARACTERS, k=20))

KINDS: dict[str, tuple[Callable[[Path], Path], LoadSettings]] = {
    "plain": (tiny.plain, settings()),
    "separate": (tiny.plain, settings(kv_unified=False)),
    "windowed": (tiny.windowed, settings()),
    "windowed, full cache": (tiny.windowed, replace(settings(), swa_full=True)),
    "recurrent": (tiny.recurrent, settings()),
    "hybrid": (tiny.hybrid, settings()),
}


class Kept(Driven):
    """A driven scheduler with its states."""

    def __init__(
        self,
        path: Path,
        load: LoadSettings,
        *,
        free_bytes: int = 2**40,
        chat_template: str | None = None,
    ) -> None:
        files = ModelFiles(str(path))
        super().__init__(path, load)
        self.states = States(
            self.model,
            self.scheduler.cells,
            files=files,
            log=_log[0],
            chat_template=chat_template,
            free_bytes=lambda _: free_bytes,
        )

    def save(self, text: str, path: Path, **limits: int) -> tuple[int, int]:
        tokens = self.model.tokenize(text, special=False)
        kept = self.states.save(tokens, path, key=KEY, **limits)
        self.check()
        return kept

    def restore(self, path: Path, key: bytes = KEY) -> int:
        try:
            return self.states.restore(path, key=key)
        finally:
            self.check()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[Path, LoadSettings]:  # type: ignore[no-untyped-def]
    make, load = KINDS[request.param]
    return make(tmp_path_factory.mktemp("model") / "tiny.gguf"), load


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    return tiny.plain(tmp_path_factory.mktemp("model") / "plain.gguf")


class File(bytes):
    """The bytes of a file, too many to be shown."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def saved(plain: Path, tmp_path_factory) -> bytes:  # type: ignore[no-untyped-def]
    """The bytes of a file of STORY and its answer."""
    path = tmp_path_factory.mktemp("state") / "cells"
    with closing(Kept(plain, settings())) as engine:
        engine.save(STORY + engine.ask(STORY), path)
    return File(path.read_bytes())


@pytest.fixture(scope="module")
def reader(plain: Path) -> Iterator[Kept]:
    with closing(Kept(plain, settings())) as engine:
        yield engine


def test_a_conversation_goes_on_in_another_process_without_being_read_again(
    kind: tuple[Path, LoadSettings], place: Path
) -> None:
    path, load = kind
    with closing(Kept(path, load)) as first:
        answer = first.ask(STORY)
        tokens, size = first.save(STORY + answer + MORE, place / "cells")
    assert tokens == len(STORY + answer) - 1  # the last token's cells are never computed
    assert size == (place / "cells").stat().st_size
    prompt = STORY + answer + MORE
    with closing(Kept(path, load)) as second, closing(Reference(path, load)) as reference:
        assert second.restore(place / "cells") == tokens
        second.submit("next", prompt)
        second.run()
        assert second.end("next").cached_tokens == tokens  # type: ignore[union-attr]  # Finished
        assert reference.agrees(prompt, second.text("next"), max_tokens=20, whole=True)


def test_what_is_restored_can_be_saved_again(kind: tuple[Path, LoadSettings], place: Path) -> None:
    path, load = kind
    one, two = place / "one", place / "two"
    with closing(Kept(path, load)) as first:
        answer = first.ask(STORY)
        kept = first.save(STORY + answer, one)
    with closing(Kept(path, load)) as second:
        second.restore(one)
        assert second.save(STORY + answer, two) == kept
    assert one.read_bytes() == two.read_bytes()


def test_only_what_is_of_the_conversation_is_written(plain: Path, place: Path) -> None:
    with closing(Kept(plain, settings())) as engine:
        engine.ask(STORY + MORE)
        tokens, _ = engine.save(STORY + "another way", place / "cells")
    assert tokens == len(STORY)
    assert MORE.encode()[:8] not in (place / "cells").read_bytes()


def test_a_file_is_for_its_owner_alone(plain: Path, place: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Kept(plain, settings())) as engine:
            engine.ask(STORY)
            engine.save(STORY, place / "cells")
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "cells").stat().st_mode) == 0o600
    assert [file.name for file in place.iterdir()] == ["cells"]


def test_nothing_is_saved_of_what_the_cache_does_not_hold(plain: Path, place: Path) -> None:
    with closing(Kept(plain, settings())) as engine:
        for text in (STORY, STORY[:8]):
            engine.ask(text[:4] + "x" * 40)
            with pytest.raises(StateFailed, match="holds"):
                engine.save(text, place / "cells")
    assert not list(place.iterdir())


def test_a_conversation_that_is_being_answered_is_not_saved_half(plain: Path, place: Path) -> None:
    with closing(Kept(plain, settings(parallel=1))) as engine:
        engine.submit("running", STORY)
        engine.step()
        with pytest.raises(StateFailed, match="holds nothing"):
            engine.save(STORY, place / "cells")
        (place / "cells").write_bytes(b"")
        engine.run()


def test_restoring_waits_for_nobody_and_disturbs_nobody(
    plain: Path, saved: bytes, place: Path
) -> None:
    (place / "cells").write_bytes(saved)
    with (
        closing(Kept(plain, settings(parallel=1))) as engine,
        closing(Reference(plain, settings(parallel=1))) as reference,
    ):
        engine.submit("running", MORE)
        engine.step()
        with pytest.raises(StateFailed, match="every slot is in use"):
            engine.restore(place / "cells")
        engine.run()
        assert reference.agrees(MORE, engine.text("running"), max_tokens=20, whole=True)
        assert engine.restore(place / "cells") > len(STORY)


def test_room_is_made_among_what_idle_slots_remember(
    plain: Path, saved: bytes, place: Path
) -> None:
    (place / "cells").write_bytes(saved)
    with closing(Kept(plain, settings(parallel=2, context=192))) as engine:
        for text in (MORE * 7, MORE[::-1] * 7):
            engine.ask(text)
        assert engine.restore(place / "cells") > len(STORY)


# --- files that are not ours, not whole, or of something else ---


def test_a_file_that_is_not_there_is_said_to_be_missing(reader: Kept, place: Path) -> None:
    with pytest.raises(StateFailed, match="no file"):
        reader.restore(place / "none")
    with pytest.raises(StateFailed, match="cannot be read"):
        reader.restore(place)
    with pytest.raises(StateFailed, match="cannot be read"):
        reader.restore(Path("a\0b"))


def test_a_file_of_another_key_is_refused(reader: Kept, saved: bytes, place: Path) -> None:
    (place / "cells").write_bytes(saved)
    with pytest.raises(StateFailed, match="another key"):
        reader.restore(place / "cells", key=OTHER_KEY)
    assert reader.restore(place / "cells") > len(STORY)


@check(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_file_is_refused_before_llama_cpp_sees_it(
    reader: Kept, saved: bytes, place: Path, data: st.DataObject
) -> None:
    at = st.integers(0, len(saved) - 1) | st.integers(max(0, len(saved) - 700), len(saved) - 1)
    mutated = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 4))):
        spot = data.draw(at)
        match data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "swap"])):
            case "flip":
                mutated[spot % max(1, len(mutated))] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del mutated[spot:]
            case "insert":
                mutated[spot:spot] = data.draw(st.binary(min_size=1, max_size=9))
            case "zero":
                mutated[spot : spot + 64] = bytes(len(mutated[spot : spot + 64]))
            case "swap":
                mutated = mutated[spot:] + mutated[:spot]
        mutated = mutated or bytearray(b"\0")
    if bytes(mutated) == saved:
        return
    (place / "cells").write_bytes(mutated)
    with pytest.raises(StateFailed):
        reader.restore(place / "cells")


@check(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=400))
def test_garbage_is_refused(reader: Kept, place: Path, garbage: bytes) -> None:
    (place / "cells").write_bytes(garbage)
    with pytest.raises(StateFailed):
        reader.restore(place / "cells")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kv_type_k": KvType.F16, "kv_type_v": KvType.F16}, "kv type k"),
        ({"swa_full": True}, "swa full"),
        ({"kv_unified": False}, "streams"),
    ],
)
def test_cells_of_other_settings_are_refused(
    plain: Path, saved: bytes, place: Path, changed: dict[str, object], said: str
) -> None:
    (place / "cells").write_bytes(saved)
    load = replace(settings(), **changed)  # type: ignore[arg-type]  # by name
    with (
        closing(Kept(plain, load)) as engine,
        pytest.raises(StateFailed, match=f"another {said}"),
    ):
        engine.restore(place / "cells")


def test_cells_of_another_template_are_refused(plain: Path, saved: bytes, place: Path) -> None:
    (place / "cells").write_bytes(saved)
    with (
        closing(Kept(plain, settings(), chat_template="ab")) as engine,
        pytest.raises(StateFailed, match="another chat template"),
    ):
        engine.restore(place / "cells")


def test_cells_of_another_model_of_the_same_shape_are_refused(
    plain: Path, saved: bytes, place: Path
) -> None:
    (place / "cells").write_bytes(saved)
    other, content = place / "other.gguf", bytearray(plain.read_bytes())
    content[-8:-4] = b"\0\0\0\x3f"  # one weight
    other.write_bytes(content)
    times = plain.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    with (
        closing(Kept(other, settings())) as engine,
        pytest.raises(StateFailed, match="another sample"),
    ):
        engine.restore(place / "cells")
    os.utime(other)
    with closing(Kept(other, settings())) as engine, pytest.raises(StateFailed, match="files"):
        engine.restore(place / "cells")


def test_a_model_whose_file_was_replaced_keeps_and_restores_nothing(
    saved: bytes, place: Path
) -> None:
    model = tiny.plain(place / "model.gguf")
    (place / "cells").write_bytes(saved)
    with closing(Kept(model, settings())) as engine:
        engine.ask(STORY)
        model.unlink()
        tiny.plain(model)
        with pytest.raises(StateFailed, match="has changed since"):
            engine.save(STORY, place / "new")
        with pytest.raises(StateFailed, match="has changed since"):
            engine.restore(place / "cells")


def test_more_tokens_than_the_context_holds_are_refused(
    plain: Path, saved: bytes, place: Path
) -> None:
    (place / "cells").write_bytes(saved)
    with (
        closing(Kept(plain, settings(context=100))) as engine,
        pytest.raises(StateFailed, match=r"\d+ tokens; the context holds 100"),
    ):
        engine.restore(place / "cells")


def test_every_part_of_a_split_model_counts(place: Path) -> None:
    parts = [place / f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for i, part in enumerate(parts):
        part.write_bytes(bytes([i]) * 3_000_000)
    files = ModelFiles(str(parts[0]))
    assert len(files.stats) == 3
    before = files.sample
    content = bytearray(parts[2].read_bytes())
    content[-1] = 9
    parts[2].write_bytes(content)
    assert ModelFiles(str(parts[0])).sample != before
    with pytest.raises(StateFailed, match="has changed"):
        assert files.stats


# --- a disk that is full ---


def test_too_little_room_is_said_with_both_numbers(plain: Path, place: Path) -> None:
    with closing(Kept(plain, settings(), free_bytes=2048)) as engine:
        engine.ask(STORY)
        with pytest.raises(StateFailed, match=r"take .*, and 2\.0 KiB are free"):
            engine.save(STORY, place / "cells")
        with pytest.raises(StateFailed, match=r"at most 1\.0 KiB are kept"):
            engine.save(STORY, place / "cells", max_bytes=1024)
    assert not list(place.iterdir())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a disk that is full after so many bytes of a file (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("missing", [1, 20, 500, 100_000])
def test_a_disk_that_fills_up_meanwhile_leaves_the_old_file_and_no_other(
    plain: Path, saved: bytes, place: Path, missing: int
) -> None:
    path = place / "cells"
    path.write_bytes(b"the old one")
    with closing(Kept(plain, settings())) as engine:
        answer = engine.ask(STORY)
        with files_of_at_most(len(saved) - missing), pytest.raises(StateFailed, match="writ"):
            engine.save(STORY + answer, path)
        assert path.read_bytes() == b"the old one"
        assert list(place.iterdir()) == [path]
        assert engine.save(STORY + answer, path)[1] == len(saved)
        assert engine.restore(path) > len(STORY)


def test_a_directory_that_is_not_there_is_an_error(plain: Path, place: Path) -> None:
    with closing(Kept(plain, settings())) as engine:
        engine.ask(STORY)
        with pytest.raises(StateFailed, match="cannot be written"):
            engine.save(STORY, place / "none" / "cells")


def test_what_a_killed_writer_left_is_replaced(plain: Path, place: Path) -> None:
    (place / "cells.tmp").write_bytes(b"half")
    with closing(Kept(plain, settings())) as engine:
        engine.ask(STORY)
        engine.save(STORY, place / "cells")
    assert [file.name for file in place.iterdir()] == ["cells"]


# --- the real engine ---


async def test_an_engine_takes_up_what_another_one_has_kept(smollm2: Path, place: Path) -> None:
    load = LoadRequest(path=str(smollm2), settings=LoadSettings(context=512, parallel=2))
    question = ask("first", "Tell me about the sea. " * 10)
    key, path = KEY.hex(), str(place / "cells")
    async with loaded(load) as engine:
        text, _, _ = await collect(engine, question)
        talk = (*(question.messages or ()), Message(role=Role.ASSISTANT, content=text))
        saved = await engine.save_state(SaveState(path=path, messages=talk, key=key))
        goes_on = (*talk, Message(role=Role.USER, content="And the sky?"))
        expected = await collect(engine, replace(question, request_id="on", messages=goes_on))
    async with loaded(load) as engine:
        restored = await engine.restore_state(RestoreState(path=path, key=key))
        assert restored.tokens == saved.tokens
        again = await collect(engine, replace(question, request_id="on", messages=goes_on))
    assert again[0] == expected[0]
    assert again[1].cached_tokens == saved.tokens


async def test_what_cannot_be_kept_is_an_error_and_the_engine_lives(
    smollm2: Path, place: Path
) -> None:
    talk = ask("first", "Hello").messages or ()
    path = str(place / "cells")
    async with loaded(None) as engine:
        with pytest.raises(StateFailed, match="No model"):
            await engine.restore_state(RestoreState(path=path, key=KEY.hex()))
    load = LoadRequest(path=str(smollm2), settings=LoadSettings(context=256))
    async with loaded(load) as engine:
        for command in (
            SaveState(path=path, messages=talk, key=KEY.hex()),  # nothing was asked yet
            SaveState(path=path, messages=(), key=KEY.hex()),
            SaveState(path=path, messages=talk, key="short"),
            SaveState(path="a\0b", messages=talk, key=KEY.hex()),
            SaveState(path="\ud800", messages=talk, key=KEY.hex()),
        ):
            with pytest.raises(StateFailed):
                await engine.save_state(command)
        for key in ("", "g" * 64, KEY.hex().upper() + "0"):
            with pytest.raises(StateFailed, match="hexadecimal"):
                await engine.restore_state(RestoreState(path=path, key=key))
        _, end, _ = await collect(engine, ask("lives", "Hello"))
        assert end.completion_tokens


@asynccontextmanager
async def loaded(load: LoadRequest | None) -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine()
    try:
        async for _ in engine.load(load) if load is not None else _nothing():
            pass
        yield engine
    finally:
        await engine.close()


async def _nothing() -> AsyncIterator[None]:
    for _ in ():
        yield
