"""A short question while a long document is read: localllm's server beside llama.cpp's own.

For each system, with nothing in its cache of these texts:

- `alone`: seconds to the first token of a short question on an idle server (median).
- `beside`: the same, median and worst, of three questions that are sent at a quarter, a half and
  three quarters of the time that a document takes alone; one that finds it read does not count.
  `ratio` is beside / alone.
- `document`: seconds to the document's first token alone, and with these questions beside it.
  `delay` is how much later that is.
- `longest gap`: between two pieces of an answer that streams while a document is read; in another
  pass. `comments`: lines of a waiting stream that mean nothing, so that no client gives up.

The systems take turns within a round; figures are medians over the rounds, with lowest and highest.

Usage: python -m benchmarks.long_prompt [--words 2600] [--rounds 3] [--model FILE] [--threads N]
           [--context 6144] [--llama-server FILE] [--without-xllamacpp]
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.conversations import WORDS, start_all
from benchmarks.serve import SELF, Child, System, chat_request

SLOTS, QUESTIONS, TOKENS, STREAMED_TOKENS = 4, 3, 8, 400


@dataclass(frozen=True, slots=True)
class Stream:
    """One streamed answer: seconds from the request to its first text, the longest time between two
    pieces that came after it, lines that mean nothing."""

    first_s: float
    gap_s: float
    comments: int


@dataclass(frozen=True, slots=True)
class Round:
    """All times of one system in one round, in seconds."""

    alone_s: float
    beside_s: float
    worst_s: float
    document_s: float
    delayed_s: float
    gap_s: float
    comments: int


async def ask(system: System, text: str, tokens: int) -> Stream:
    """Stream the answer to one question."""
    address = urlsplit(system.url)
    messages = [{"role": "user", "content": text}]
    request = chat_request(system.url, system.model, messages, tokens)
    started, first, latest, gap, comments = time.perf_counter(), 0.0, 0.0, 0.0, 0
    latest_line = b""
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    while line := await reader.readline():
        comments += line.startswith(b":")
        latest_line = line.strip() or latest_line
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if not any(each["delta"].get("content") for each in chunk.get("choices", ())):
            continue
        now = time.perf_counter()
        if first:
            gap = max(gap, now - latest)
        first, latest = first or now, now
    writer.close()
    if not first:
        raise SystemExit(f"{system.name}: no text came; its last line is {latest_line!r}")
    return Stream(first - started, gap, comments)


async def measure_round(system: System, words: int, seed: int) -> Round:
    dice = random.Random(seed)

    def text(count: int) -> str:
        return " ".join(dice.choices(" ".join(WORDS).split(), k=count)) + "?"

    alone = [(await ask(system, text(8), TOKENS)).first_s for _ in range(QUESTIONS)]
    alone_s = statistics.median(alone)
    document_s = (await ask(system, text(words), TOKENS)).first_s
    started = time.perf_counter()
    document = asyncio.create_task(ask(system, text(words), TOKENS))
    questions: list[tuple[float, asyncio.Task[Stream]]] = []
    for _ in range(QUESTIONS):  # at fixed moments: one after the other, most would find it read
        await asyncio.sleep(document_s / (QUESTIONS + 1))
        sent_s = time.perf_counter() - started
        questions.append((sent_s, asyncio.create_task(ask(system, text(8), TOKENS))))
    delayed = await document
    answers = [(sent_s, await question) for sent_s, question in questions]
    beside = [each.first_s for sent_s, each in answers if sent_s < delayed.first_s]
    if not beside:
        raise SystemExit(f"{system.name}: the document was read before a question was sent")
    streaming = asyncio.create_task(ask(system, text(8), STREAMED_TOKENS))
    await asyncio.sleep(5 * alone_s)
    await ask(system, text(words), TOKENS)
    return Round(
        alone_s=alone_s,
        beside_s=statistics.median(beside),
        worst_s=max(beside),
        document_s=document_s,
        delayed_s=delayed.first_s,
        gap_s=(await streaming).gap_s,
        comments=delayed.comments,
    )


HEADER = """
| system | question alone | beside | worst | ratio | document alone | beside | delay | longest gap \
| comments |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def spread(values: list[float], digits: int = 2) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def row(name: str, rounds: list[Round]) -> str:
    columns = [
        spread([each.alone_s for each in rounds]) + " s",
        spread([each.beside_s for each in rounds]) + " s",
        spread([each.worst_s for each in rounds]) + " s",
        spread([each.beside_s / each.alone_s for each in rounds], 1),
        spread([each.document_s for each in rounds], 1) + " s",
        spread([each.delayed_s for each in rounds], 1) + " s",
        spread([100 * (each.delayed_s / each.document_s - 1) for each in rounds], 0) + " %",
        spread([each.gap_s for each in rounds]) + " s",
        spread([float(each.comments) for each in rounds], 0),
    ]
    return f"| {name} | " + " | ".join(columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--words", type=int, default=2600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--context", type=int, default=6144)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--without-xllamacpp", action="store_true")
    options = parser.parse_args()
    client = Child([*SELF, "--client-child"])
    systems: list[System] = []
    try:
        print(f"Load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.")
        systems += start_all(options, SLOTS, client)
        found: dict[str, list[Round]] = {system.name: [] for system in systems}
        for number in range(options.rounds):
            first = number % len(systems)
            for system in systems[first:] + systems[:first]:
                measured = asyncio.run(measure_round(system, options.words, 1 + number))
                found[system.name].append(measured)
        print(HEADER)
        for name, rounds in found.items():
            print(row(name, rounds), flush=True)
    finally:
        for system in systems:
            system.child.close()
        client.close()


if __name__ == "__main__":
    main()
