"""What a kept conversation saves: time to the first token with its cells restored, and without.

    python benchmarks/state.py [--model FILE] [--words N] [--rounds N]

Each round starts an engine for each way, in turn, and asks the same next question of the same
conversation. What counts is the ratio: both ways run on the same machine in the same minute. The
time to restore is part of the way with cells; the load is part of neither.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    GenerateRequest,
    LoadRequest,
    Message,
    RestoreState,
    Role,
    Sampling,
    SaveState,
    Token,
)
from localllm.library.store.starter import find_starter

KEY = "0" * 64
CONTEXT = 4096
STORY = "The old ship left the harbour in the morning and nobody on the shore knew its name. "


async def loaded(path: Path) -> ProcessEngine:
    engine = ProcessEngine()
    request = LoadRequest(path=str(path), settings=LoadSettings(context=CONTEXT))
    async for _ in engine.load(request):
        pass
    return engine


async def answer(
    engine: ProcessEngine, messages: tuple[Message, ...], tokens: int
) -> tuple[str, Finished]:
    request = GenerateRequest(
        request_id="ask",
        messages=messages,
        sampling=Sampling(temperature=0),
        max_tokens=tokens,
    )
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Token):
            text += event.text
        elif isinstance(event, Finished):
            return text, event
    raise AssertionError("an answer ends with Finished")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--words", type=int, default=1450)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    starter = find_starter()
    model = given.model or (starter.path if starter is not None else None)
    if model is None:
        parser.error("the starter model is not installed: name one with --model")
    story = STORY * (given.words // len(STORY.split()))
    talk: tuple[Message, ...] = (Message(role=Role.USER, content=story),)
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "cells")
        engine = await loaded(model)
        text, _ = await answer(engine, talk, 16)
        talk = (*talk, Message(role=Role.ASSISTANT, content=text))
        started = time.monotonic()
        saved = await engine.save_state(SaveState(path=file, messages=talk, key=KEY))
        save_s = time.monotonic() - started
        await engine.close()
        talk = (*talk, Message(role=Role.USER, content="Where did it go?"))
        without: list[float] = []
        restored: list[float] = []
        texts: set[str] = set()
        for _ in range(given.rounds):
            for times, keeps in ((without, False), (restored, True)):
                engine = await loaded(model)
                started = time.monotonic()
                if keeps:
                    await engine.restore_state(RestoreState(path=file, key=KEY))
                restore_s = time.monotonic() - started
                text, end = await answer(engine, talk, 8)
                assert end.cached_tokens == (saved.tokens if keeps else 0)
                assert end.timings.ttft_s is not None
                times.append(restore_s + end.timings.ttft_s)
                texts.add(text)
                await engine.close()
    slow, fast = statistics.median(without), statistics.median(restored)
    print(
        f"{saved.tokens} tokens kept in {saved.size_bytes / 2**20:.1f} MiB: "
        f"{saved.size_bytes / saved.tokens / 1024:.1f} KiB a token, {save_s:.2f} s to write"
    )
    print(
        f"time to first token: read again {slow:.2f} s, restored {fast:.3f} s (with reading the "
        f"file): {slow / fast:.0f} times as fast"
    )
    print(f"answers: {'the same' if len(texts) == 1 else 'different'}")


asyncio.run(main())
