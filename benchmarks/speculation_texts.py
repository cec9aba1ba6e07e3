"""Whether guessing ahead changes an answer at temperature 0.

    python benchmarks/speculation_texts.py MODEL.gguf [--threads 1,2] [--tokens 128]

Engines that guess and engines that do not answer the same prompts, one after the other, in two
rounds: in the second one the cache holds what was asked before. Printed is how many texts of a
round are the same in two engines, and how many the engine without guesses writes the same in both
of its own rounds: where it differs from itself, there is no text to be the same as.
"""

import argparse
import asyncio
from contextlib import aclosing

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, LoadRequest, Sampling, Token

PROMPTS = (
    "The history of lighthouses begins",
    "Dear Sir, I am writing to you because",
    "There are several reasons why the sky looks blue:",
    "The cat sat on the mat.\n" * 6,
    "1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2,",
)
ROUNDS = 2

Texts = list[list[str]]


async def main() -> None:
    """Print a line for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    for threads in map(int, arguments.threads.split(",")):
        off, _ = await answers(arguments, threads, Speculate.OFF)
        print(f"{threads} threads, {len(PROMPTS)} texts:")
        print(f"  off, round 1 and round 2: {_same(off[0], off[1])} the same")
        for mode in Speculate:
            texts, drafted = await answers(arguments, threads, mode)
            counts = ", ".join(
                f"round {number}: {_same(*both)} the same"
                for number, both in enumerate(zip(off, texts, strict=True), 1)
            )
            print(f"  off and {mode}: {counts} ({drafted} guesses)")


async def answers(
    arguments: argparse.Namespace, threads: int, mode: Speculate
) -> tuple[Texts, int]:
    """Every round's texts of a new engine, and how many tokens it guessed."""
    engine, drafted = ProcessEngine(), 0
    settings = LoadSettings(context=1024, threads=threads, speculate=mode)
    async for _ in engine.load(LoadRequest(path=arguments.model, settings=settings)):
        pass
    rounds: Texts = []
    for number in range(ROUNDS):
        texts = []
        for i, prompt in enumerate(PROMPTS):
            request = GenerateRequest(
                request_id=f"{number}-{i}",
                prompt=prompt,
                sampling=Sampling(temperature=0.0),
                max_tokens=arguments.tokens,
                ignore_eos=True,
            )
            pieces = []
            async with aclosing(engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Token):
                        pieces.append(event.text)
                    elif isinstance(event, Finished):
                        drafted += event.timings.drafted or 0
            texts.append("".join(pieces))
        rounds.append(texts)
    await engine.close()
    return rounds, drafted


def _same(one: list[str], other: list[str]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    asyncio.run(main())
