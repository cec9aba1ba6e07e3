"""Cells in a file: they come back as they were, for whoever goes on with them."""

import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.core.sizing.load import LoadSettings, Lora
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import LoadRequest, Message, RestoreState, Role, SaveState
from localllm.errors import StateFailed
from tests.engine import forged_lora, tiny
from tests.engine.answers import ask, collect
from tests.engine.state_files import KEY, MORE, STORY, SavingScheduler
from tests.engine.state_files import directory as directory
from tests.engine.state_files import plain as plain
from tests.engine.state_files import saved as saved
from tests.engine.state_files import saved_by_one as saved_by_one
from tests.engine.stepped_scheduler import Reference, settings

KINDS: dict[str, tuple[Callable[[Path], Path], LoadSettings]] = {
    "plain": (tiny.plain, settings()),
    "pooled": (tiny.plain, settings(kv_unified=True)),
    "windowed": (tiny.windowed, settings()),
    "windowed, full cache": (tiny.windowed, replace(settings(), swa_full=True)),
    "recurrent": (tiny.recurrent, settings()),
    "hybrid": (tiny.hybrid, settings()),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[Path, LoadSettings]:  # type: ignore[no-untyped-def]
    make, load = KINDS[request.param]
    return make(tmp_path_factory.mktemp("model") / "tiny.gguf"), load


def test_a_conversation_goes_on_in_another_process_without_being_read_again(
    kind: tuple[Path, LoadSettings], directory: Path
) -> None:
    path, load = kind
    with closing(SavingScheduler(path, load)) as first:
        answer = first.ask(STORY)
        tokens, size = first.save(STORY + answer + MORE, directory / "cells")
    assert tokens == len(STORY + answer) - 1  # the last token's cells are never computed
    assert size == (directory / "cells").stat().st_size
    prompt = STORY + answer + MORE
    with (
        closing(SavingScheduler(path, load)) as second,
        closing(Reference(path, load)) as reference,
    ):
        assert second.restore(directory / "cells") == tokens
        second.submit("next", prompt)
        second.run()
        assert second.end("next").cached_tokens == tokens  # type: ignore[union-attr]  # Finished
        assert reference.agrees(prompt, second.text("next"), max_tokens=20, whole=True)


def test_what_is_restored_can_be_saved_again(
    kind: tuple[Path, LoadSettings], directory: Path
) -> None:
    path, load = kind
    one, two = directory / "one", directory / "two"
    with closing(SavingScheduler(path, load)) as first:
        answer = first.ask(STORY)
        kept = first.save(STORY + answer, one)
    with closing(SavingScheduler(path, load)) as second:
        second.restore(one)
        assert second.save(STORY + answer, two) == kept
    assert one.read_bytes() == two.read_bytes()


def test_only_what_is_of_the_conversation_is_written(plain: Path, directory: Path) -> None:
    with closing(SavingScheduler(plain, settings())) as engine:
        engine.ask(STORY + MORE)
        tokens, _ = engine.save(STORY + "another way", directory / "cells")
    assert tokens == len(STORY)
    assert MORE.encode()[:8] not in (directory / "cells").read_bytes()


def test_a_file_is_for_its_owner_alone(plain: Path, directory: Path) -> None:
    before = os.umask(0)
    try:
        with closing(SavingScheduler(plain, settings())) as engine:
            engine.ask(STORY)
            engine.save(STORY, directory / "cells")
    finally:
        os.umask(before)
    assert stat.S_IMODE((directory / "cells").stat().st_mode) == 0o600
    assert [file.name for file in directory.iterdir()] == ["cells"]


def test_nothing_is_saved_of_what_the_cache_does_not_hold(plain: Path, directory: Path) -> None:
    with closing(SavingScheduler(plain, settings())) as engine:
        for text in (STORY, STORY[:8]):
            engine.ask(text[:4] + "x" * 40)
            with pytest.raises(StateFailed, match="holds"):
                engine.save(text, directory / "cells")
    assert not list(directory.iterdir())


def test_a_conversation_that_is_being_answered_is_not_saved_half(
    plain: Path, directory: Path
) -> None:
    with closing(SavingScheduler(plain, settings(parallel=1))) as engine:
        engine.submit("running", STORY)
        engine.step()
        with pytest.raises(StateFailed, match="holds nothing"):
            engine.save(STORY, directory / "cells")
        (directory / "cells").write_bytes(b"")
        engine.run()


def test_restoring_waits_for_nobody_and_disturbs_nobody(
    plain: Path, saved_by_one: bytes, directory: Path
) -> None:
    (directory / "cells").write_bytes(saved_by_one)
    with (
        closing(SavingScheduler(plain, settings(parallel=1))) as engine,
        closing(Reference(plain, settings(parallel=1))) as reference,
    ):
        engine.submit("running", MORE)
        engine.step()
        with pytest.raises(StateFailed, match="every slot is in use"):
            engine.restore(directory / "cells")
        engine.run()
        assert reference.agrees(MORE, engine.text("running"), max_tokens=20, whole=True)
        assert engine.restore(directory / "cells") > len(STORY)


def test_room_is_made_among_what_idle_slots_remember(
    plain: Path, saved_by_one: bytes, directory: Path
) -> None:
    (directory / "cells").write_bytes(saved_by_one)
    pool = settings(parallel=2, context=192, kv_unified=True)
    with closing(SavingScheduler(plain, pool)) as engine:
        for text in (MORE * 7, MORE[::-1] * 7):
            engine.ask(text)
        assert engine.restore(directory / "cells") > len(STORY)


def test_cells_are_kept_with_the_adapters_that_computed_them(plain: Path, directory: Path) -> None:
    adapter = str(forged_lora.forge(directory / "adapter.gguf", plain, size=0.5))
    half = replace(settings(), loras=(Lora(path=adapter, scale=0.5),))
    whole = replace(settings(), loras=(Lora(path=adapter),))
    with closing(SavingScheduler(plain, half)) as engine:
        tokens, _ = engine.save(STORY + engine.ask(STORY), directory / "cells")
    with closing(SavingScheduler(plain, half)) as engine:
        assert engine.restore(directory / "cells") == tokens
        engine.submit("next", STORY)
        engine.run()
        assert engine.end("next").cached_tokens == len(STORY) - 1  # type: ignore[union-attr]
    with (
        closing(SavingScheduler(plain, whole)) as engine,
        pytest.raises(StateFailed, match="adapters"),
    ):
        engine.restore(directory / "cells")
    with (
        closing(SavingScheduler(plain, settings())) as engine,
        pytest.raises(StateFailed, match="files"),
    ):
        engine.restore(directory / "cells")


# --- the real engine ---


async def test_an_engine_takes_up_what_another_one_has_kept(
    shallow_smollm2: Path, directory: Path
) -> None:
    load = LoadRequest(path=str(shallow_smollm2), settings=LoadSettings(context=512, parallel=2))
    question = ask("first", "Tell me about the sea. " * 10)
    key, path = KEY.hex(), str(directory / "cells")
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
    shallow_smollm2: Path, directory: Path
) -> None:
    talk = ask("first", "Hello").messages or ()
    path = str(directory / "cells")
    async with loaded(None) as engine:
        with pytest.raises(StateFailed, match="No model"):
            await engine.restore_state(RestoreState(path=path, key=KEY.hex()))
    load = LoadRequest(path=str(shallow_smollm2), settings=LoadSettings(context=256))
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
