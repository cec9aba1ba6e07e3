"""What conversations cost the engine, counted and not timed: it is the same on any machine.

Conversations with a common beginning of 165 tokens ask questions of 30 to 39 tokens, in random
order over some slots, and get answers of 48; a tiny model with random weights computes them.
Printed per turn, as means of six seeds: tokens of the prompts, those found in the cache, tokens
that were computed, streams copied, batches, and passes of llama.cpp. A batch takes as many
passes as `llama_batch_allocr::split_equal` cuts it into: slots that follow each other, as
many tokens of each as the shortest has. `--part 0.5`: a random half
of the conversations asks in each turn. `--without-tier`: without host memory behind the slots.

Usage: python -m benchmarks.slot_counts [--shape 8:8] [--part 1] [--turns 4] [--without-tier]
"""

import argparse
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from localllm.engine.worker.kv_cache.host_cache import MIN_LOST_TOKENS, HostCache
from localllm.engine.worker.llama.model import BatchToken
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings

COMMON, QUESTION, ANSWER = 165, (30, 39), 48
SEEDS = 6
COLUMNS = ("prompt", "cached", "computed", "copies", "batches", "passes")


def passes(batch: Sequence[BatchToken]) -> int:
    """Return how many passes llama.cpp computes a batch in, whose tokens are sorted by slot."""
    left = Counter(each.slot for each in batch)
    count = 0
    while left:
        together: list[int] = []
        for slot in left:
            if not together or slot == together[-1] + 1:
                together.append(slot)
        left -= Counter(dict.fromkeys(together, min(left[slot] for slot in together)))
        count += 1
    return count


class Host(HostCache):
    """Host memory without an end, in which a state is worth its copy by tokens and not by time."""

    def __init__(self) -> None:
        super().__init__(lambda _held_bytes: 2**30)

    def is_worth(self, lost: int, size_bytes: int, *, most_tokens: int | None = None) -> bool:
        return lost >= MIN_LOST_TOKENS


class Counts:
    """A scheduler whose batches and copies are counted."""

    def __init__(self, path: Path, slots: int, *, tier: bool) -> None:
        load = replace(settings(parallel=slots, context=1024), batch=2048, ubatch=512)
        self.stepped = SteppedScheduler(path, load, host=Host() if tier else None)
        self.batches: list[list[BatchToken]] = []
        self.copies = 0
        model = self.stepped.model
        self._decode, self._copy_stream = model.decode, model.copy_stream
        model.decode, model.copy_stream = self.decode, self.copy_stream  # type: ignore[method-assign]

    def decode(self, tokens: Sequence[BatchToken]) -> None:
        self.batches.append(list(tokens))
        self._decode(tokens)

    def copy_stream(self, source: int, slot: int) -> None:
        self.copies += 1
        self._copy_stream(source, slot)

    def take(self) -> tuple[int, int, int, int]:
        """Return what was counted since: tokens computed, copies, batches, passes."""
        batches, copies = self.batches, self.copies
        self.batches, self.copies = [], 0
        return sum(map(len, batches)), copies, len(batches), sum(map(passes, batches))


def run(
    path: Path, count: int, slots: int, options: argparse.Namespace, seed: int
) -> list[list[int]]:
    """Return the columns of each turn."""
    dice = random.Random(seed)

    def text(length: int) -> str:
        return "".join(dice.choices(tiny.CHARACTERS, k=length))

    counts, common = Counts(path, slots, tier=not options.without_tier), text(COMMON)
    stepped, conversations, rows = counts.stepped, [common] * count, []
    for turn in range(options.turns):
        asking = dice.sample(range(count), max(1, round(options.part * count)))
        for i in asking:
            conversations[i] += text(dice.randint(*QUESTION))
            stepped.submit(f"{turn}:{i}", conversations[i], max_tokens=ANSWER)
            stepped.step()
        stepped.run()
        ends = [stepped.finished(f"{turn}:{i}") for i in asking]
        prompt = sum(len(conversations[i]) for i in asking)
        rows.append([prompt, sum(end.cached_tokens for end in ends), *counts.take()])
        for i in asking:
            conversations[i] += stepped.text(f"{turn}:{i}")
    stepped.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", default="8:8", help="conversations:slots")
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--without-tier", action="store_true")
    options = parser.parse_args()
    count, slots = map(int, options.shape.split(":"))
    with tempfile.TemporaryDirectory() as folder:
        path = tiny.plain(Path(folder) / "tiny.gguf")
        runs = [run(path, count, slots, options, seed) for seed in range(SEEDS)]
    print("| turn | " + " | ".join(COLUMNS) + " |\n| --- |" + " --- |" * len(COLUMNS))
    for turn in range(options.turns):
        means = [statistics.mean(each[turn][i] for each in runs) for i in range(len(COLUMNS))]
        print(f"| {turn + 1} | " + " | ".join(f"{mean:.4g}" for mean in means) + " |")


if __name__ == "__main__":
    main()
