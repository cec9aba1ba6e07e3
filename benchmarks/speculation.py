"""Tokens per second with guessing ahead and without, on text that repeats itself and on text that
does not.

    python benchmarks/speculation.py MODEL.gguf [--draft MODEL.gguf] [--rounds 3] [--tokens 128]

Both engines are loaded at once and asked in turns, so that whatever else the machine does is in
both figures. Printed are medians of each round's decode rate, their ratio, and how many of the
guesses were right. `auto` must not lose more than noise where nothing repeats.
"""

import argparse
import asyncio
import statistics
import sys
from contextlib import aclosing
from dataclasses import dataclass

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, LoadRequest, Sampling, Timings

CODE = """def area(width, height):
    return width * height


def volume(width, height, depth):
    return width * height * depth


def surface(width, height, depth):
    return 2 * (width * height + width * depth + height * depth)
"""
REPEATING = (
    f"The code:\n\n{CODE}\nThe same code again, unchanged:\n\n{CODE[:60]}",
    "The cat sat on the mat.\n" * 6,
    "1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2,",
)
FREE = (
    "The history of lighthouses begins",
    "Dear Sir, I am writing to you because",
    "There are several reasons why the sky looks blue:",
)


@dataclass(frozen=True, slots=True)
class System:
    name: str
    engine: ProcessEngine


async def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--draft")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    systems = [
        await _load("off", arguments.model, LoadSettings(context=1024)),
        await _load(
            "auto",
            arguments.model,
            LoadSettings(context=1024, speculate=Speculate.AUTO, draft=arguments.draft),
        ),
    ]
    try:
        for name, prompts in (("repeating", REPEATING), ("free", FREE)):
            await _compare(name, prompts, systems, arguments.rounds, arguments.tokens)
    finally:
        for system in systems:
            await system.engine.close()
    return 0


async def _compare(
    name: str, prompts: tuple[str, ...], systems: list[System], rounds: int, tokens: int
) -> None:
    rates: dict[str, list[float]] = {system.name: [] for system in systems}
    drafted = accepted = 0
    texts: dict[str, set[str]] = {}
    for _ in range(rounds):
        for prompt in prompts:
            for system in systems:
                text, timings = await _ask(system.engine, prompt, tokens)
                rates[system.name].append(timings.decode_tps or 0.0)
                texts.setdefault(prompt, set()).add(text)
                drafted, accepted = drafted + timings.drafted, accepted + timings.accepted
    plain, guessing = (statistics.median(rates[system.name]) for system in systems)
    same = sum(len(each) == 1 for each in texts.values())
    share = f"{accepted / drafted:.0%}" if drafted else "-"
    sys.stdout.write(
        f"{name:10} off {plain:6.1f} tok/s  auto {guessing:6.1f} tok/s  ratio "
        f"{guessing / plain:.2f}  guesses {drafted}, right {share}, same texts {same} of "
        f"{len(texts)}\n"
    )


async def _load(name: str, path: str, settings: LoadSettings) -> System:
    engine = ProcessEngine()
    async for _ in engine.load(LoadRequest(path=path, settings=settings)):
        pass
    return System(name, engine)


async def _ask(engine: ProcessEngine, prompt: str, tokens: int) -> tuple[str, Timings]:
    request = GenerateRequest(
        request_id="benchmark",
        prompt=prompt,
        sampling=Sampling(temperature=0),
        max_tokens=tokens,
        ignore_eos=True,
    )
    text = ""
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return text, event.timings
            text += getattr(event, "text", "")
    raise RuntimeError("the stream ended without Finished")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
