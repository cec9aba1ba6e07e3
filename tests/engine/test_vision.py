"""Images through the whole engine: the real starter model beside a tiny image encoder."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from localllm.core.sizing.load import BufferKind, LoadSettings, Mmproj
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Image,
    Loaded,
    LoadRequest,
    Message,
    PromptProgress,
    Role,
)
from localllm.errors import BadRequest
from tests.engine import fake_vision
from tests.engine.answers import GREEDY, ask, collect

EMBEDDING = 576  # the starter model's

pytestmark = pytest.mark.asyncio(loop_scope="module")


def ask_about(request_id: str, *images: bytes, at: int = 0, max_tokens: int = 6) -> GenerateRequest:
    attached = tuple(Image(data=image, offset=at) for image in images)
    turn = Message(role=Role.USER, content="Describe what is here.", images=attached)
    return GenerateRequest(
        request_id=request_id, messages=(turn,), sampling=GREEDY, max_tokens=max_tokens
    )


async def loaded(engine: ProcessEngine, model: Path, mmproj: Path | None) -> Loaded:
    settings = LoadSettings(
        context=512,
        parallel=2,
        threads=1,
        mmproj=None if mmproj is None else Mmproj(path=str(mmproj)),
    )
    async with aclosing(engine.load(LoadRequest(path=str(model), settings=settings))) as events:
        async for event in events:
            if isinstance(event, Loaded):
                return event
    raise AssertionError("the load ended without Loaded")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vision_engine(
    smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine()
    mmproj = fake_vision.llava(
        tmp_path_factory.mktemp("vision") / "mmproj.gguf", embedding=EMBEDDING
    )
    done = await loaded(engine, smollm2, mmproj)
    assert done.vision
    assert any(part.kind is BufferKind.ENCODER for part in done.allocations)
    yield engine
    await engine.close()


async def test_other_images_are_answered_otherwise_and_the_same_one_from_the_cache(
    vision_engine: ProcessEngine,
) -> None:
    one, first, _ = await collect(vision_engine, ask_about("one", fake_vision.png(1)))
    other, _, _ = await collect(vision_engine, ask_about("other", fake_vision.png(2)))
    again, second, _ = await collect(vision_engine, ask_about("again", fake_vision.png(1)))
    assert one != other
    assert one == again
    assert second.cached_tokens == second.prompt_tokens - 1 > first.cached_tokens


async def test_an_image_stands_where_it_was_put(vision_engine: ProcessEngine) -> None:
    before, _, _ = await collect(vision_engine, ask_about("before", fake_vision.png(1)))
    _, end, _ = await collect(vision_engine, ask_about("behind", fake_vision.png(1), at=9))
    assert before
    assert end.cached_tokens < end.prompt_tokens - fake_vision.PATCHES  # not the same prompt


async def test_requests_with_and_without_images_run_together(vision_engine: ProcessEngine) -> None:
    alone, _, _ = await collect(vision_engine, ask("alone", "Name a colour.", max_tokens=6))
    described, _, _ = await collect(vision_engine, ask_about("described", fake_vision.png(3)))
    both = await asyncio.gather(
        collect(vision_engine, ask_about("image", fake_vision.png(3))),
        collect(vision_engine, ask("text", "Name a colour.", max_tokens=6)),
    )
    assert [text for text, _, _ in both] == [described, alone]


async def test_a_request_with_an_image_can_be_cancelled(vision_engine: ProcessEngine) -> None:
    async with aclosing(
        vision_engine.generate(ask_about("gone", fake_vision.png(4), max_tokens=400))
    ) as events:
        async for event in events:
            if isinstance(event, PromptProgress):
                await vision_engine.cancel("gone")
            if isinstance(event, Finished):
                assert event.reason is FinishReason.CANCELLED
    text, _, _ = await collect(vision_engine, ask_about("next", fake_vision.png(4)))
    assert text


@pytest.mark.parametrize(
    "image",
    [
        fake_vision.packed_png(40_000, 40_000, b""),
        fake_vision.packed_png(16, 16, bytes(2**26)),
        fake_vision.png(1)[:200],
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"not an image",
        b"",
    ],
    ids=["huge", "bomb", "cut off", "webp", "text", "nothing"],
)
async def test_a_bad_image_is_an_error_of_its_request_alone(
    image: bytes, vision_engine: ProcessEngine
) -> None:
    with pytest.raises(BadRequest, match="image"):
        await collect(vision_engine, ask_about("bad", image))
    text, _, _ = await collect(vision_engine, ask_about("good", fake_vision.png(1)))
    assert text


async def test_a_word_that_looks_like_the_librarys_marker_is_only_text(
    vision_engine: ProcessEngine,
) -> None:
    text, _, _ = await collect(vision_engine, ask("marker", "What is <__media__>?", max_tokens=4))
    assert text


async def test_an_encoder_for_another_model_leaves_a_model_that_answers_text(
    smollm2: Path, tmp_path: Path
) -> None:
    engine = ProcessEngine()
    done = await loaded(engine, smollm2, fake_vision.llava(tmp_path / "mmproj.gguf", embedding=64))
    assert not done.vision
    assert done.vision_unavailable is not None
    assert "mmproj" in done.vision_unavailable
    with pytest.raises(BadRequest, match="refused the image encoder"):
        await collect(engine, ask_about("unavailable", fake_vision.png(1)))
    text, _, _ = await collect(engine, ask("text", "Name a colour.", max_tokens=4))
    assert text
    await engine.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a program is a script here")
async def test_a_broken_image_starts_no_program(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    for name in ("ffprobe", "ffmpeg"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {ran}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("ffprobe") == str(tmp_path / "ffprobe")
    engine = ProcessEngine()
    await loaded(engine, smollm2, fake_vision.llava(tmp_path / "mmproj.gguf", embedding=EMBEDDING))
    with pytest.raises(BadRequest, match="JPEG image is broken"):
        await collect(engine, ask_about("broken", fake_vision.jpeg(32, 32)))
    await engine.close()
    assert not ran.exists()
