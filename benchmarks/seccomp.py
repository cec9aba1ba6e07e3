"""The price of the worker's seccomp filter: rates with and without it, in turns.

    python benchmarks/seccomp.py MODEL.gguf [--rounds 5] [--tokens 128] [--clients 1,8]

Two workers hold the model, one of them without its filter; they answer in turns, so that noise of
the machine meets both. Prints the median ratio of their rates (1.00: the filter costs nothing).
"""

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Finished, GenerateRequest, LoadRequest, Sampling

WITHOUT_FILTER = (
    "from localllm.engine.worker import seccomp; seccomp.restrict = lambda: None; "
    "from localllm.engine.worker.__main__ import run; run()"
)
PROMPT = "The history of the Roman Empire began with a small town on the Tiber. " * 8


async def start(model: Path, *, filtered: bool) -> ProcessEngine:
    engine = (
        ProcessEngine()
        if filtered
        else ProcessEngine(program=(sys.executable, "-P", "-c", WITHOUT_FILTER))
    )
    settings = LoadSettings(context=1024, parallel=8)
    async for _ in engine.load(LoadRequest(path=str(model), settings=settings)):
        pass
    network = (await engine.describe()).network
    if network is None or network.blocked is not filtered:
        sys.exit(f"The filter is not as it should be: {network}")
    return engine


async def rate(engine: ProcessEngine, clients: int, tokens: int, seed: int) -> float:
    """Generate with so many clients at once. Returns tokens per second of all together."""

    async def answer(number: int) -> int:
        request = GenerateRequest(
            request_id=f"{seed}-{number}",
            prompt=f"{seed} {number} {PROMPT}",
            sampling=Sampling(temperature=0),
            max_tokens=tokens,
            ignore_eos=True,
        )
        async for event in engine.generate(request):
            if isinstance(event, Finished):
                return event.completion_tokens
        return 0

    begin = time.perf_counter()
    counts = await asyncio.gather(*(answer(number) for number in range(clients)))
    return sum(counts) / (time.perf_counter() - begin)


async def measure(model: Path, rounds: int, tokens: int, clients: list[int]) -> None:
    filtered, plain = await start(model, filtered=True), await start(model, filtered=False)
    try:
        await rate(filtered, 1, 8, 0)
        await rate(plain, 1, 8, 0)
        print("| clients | with the filter / without, median | lowest to highest |")
        print("| --- | --- | --- |")
        for count in clients:
            ratios = []
            for seed in range(1, rounds + 1):
                # Who is first changes from round to round.
                first, second = (filtered, plain) if seed % 2 else (plain, filtered)
                rates = {
                    id(engine): await rate(engine, count, tokens, seed)
                    for engine in (first, second)
                }
                ratios.append(rates[id(filtered)] / rates[id(plain)])
            median, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"| {count} | {median:.3f} | {low:.3f} to {high:.3f} |")
    finally:
        await filtered.close()
        await plain.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--clients", default="1,8")
    options = parser.parse_args()
    clients = [int(each) for each in options.clients.split(",")]
    asyncio.run(measure(options.model, options.rounds, options.tokens, clients))


if __name__ == "__main__":
    main()
