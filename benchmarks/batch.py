"""`localllm batch` against the same requests one by one, in turns.

The batch: `localllm batch IN OUT` with `--parallel` answers at the same time and twice as many
requests in flight; its time is that of the whole command, its start and the load of the model
included. One by one: a client that sends a request of the same file to `localllm serve
--parallel 1`, waits for its answer and sends the next; its time is that of the requests alone.
Prompts are new in each round and begin differently; each answer has exactly `--tokens` tokens. The
two take turns, and each round the other one begins.

Usage: python -m benchmarks.batch [--rounds 3] [--requests 48] [--tokens 64] [--parallel 8]
                                  [--model FILE] [--threads N] [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from benchmarks.engine import CONTEXT, prompts, starter
from benchmarks.serve import Child

PATH = "/v1/chat/completions"
MODEL = "benchmark"
"""The model's name in the library of the measurement."""


def write_batch(file: Path, requests: int, tokens: int, seed: int) -> None:
    lines = (
        {
            "custom_id": str(number),
            "method": "POST",
            "url": PATH,
            "body": {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": tokens,
                "ignore_eos": True,
                "temperature": 0,
            },
        }
        for number, prompt in enumerate(prompts(seed, requests, 30))
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_batch(file: Path, options: argparse.Namespace) -> tuple[int, float]:
    """Return the completion tokens and the seconds of one run of the command."""
    out = file.with_suffix(".out.jsonl")
    command = [sys.executable, "-m", "localllm", "batch", str(file), str(out), "--quiet", "--json"]
    command += ["--parallel", str(options.parallel), "--ctx", str(CONTEXT), "--model", MODEL]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--threads", str(options.threads)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"localllm batch ended with status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)["tokens"], seconds


def run_one_by_one(file: Path, url: str) -> tuple[int, float]:
    """Return the completion tokens and the seconds of the same requests, one after the other."""
    bodies = [json.loads(line)["body"] for line in file.read_text().splitlines()]
    tokens, started = 0, time.perf_counter()
    with httpx2.Client(timeout=600, trust_env=False) as client:
        for body in bodies:
            answer = client.post(url + PATH, json=body)
            answer.raise_for_status()
            tokens += answer.json()["usage"]["completion_tokens"]
    return tokens, time.perf_counter() - started


def start_server(threads: int) -> tuple[Child, str]:
    command = [sys.executable, "-m", "localllm", "serve", MODEL, "--port", "0", "--json"]
    command += ["--no-auth", "--parallel", "1", "--ctx", str(CONTEXT), "--quiet"]
    child = Child([*command, "--threads", str(threads)], threads)
    return child, json.loads(child.line())["url"]


def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LOCALLLM_DATA_DIR"] = scratch  # a library with this model alone
        model = options.model or starter()
        command = [sys.executable, "-m", "localllm", "import", str(model), "--name", MODEL]
        subprocess.run([*command, "--quiet"], check=True)
        server, url = start_server(options.threads)
        try:
            rates = measured_rates(Path(scratch), url, options)
        finally:
            server.close()
    report(rates)


def measured_rates(scratch: Path, url: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the tokens a second of each round of both."""
    rates: dict[str, list[float]] = {"batch": [], "one by one": []}
    file = scratch / "warm-up.jsonl"
    write_batch(file, 1, 16, seed=0)
    run_one_by_one(file, url)
    print(f"Load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors.")
    for number in range(options.rounds):
        file = scratch / f"{number}.jsonl"
        write_batch(file, options.requests, options.tokens, 1000 * (number + 1))
        for turn in sorted(rates, reverse=bool(number % 2)):
            if turn == "batch":
                tokens, seconds = run_batch(file, options)
            else:
                tokens, seconds = run_one_by_one(file, url)
            if tokens != options.requests * options.tokens:
                raise SystemExit(f"{turn}: {tokens} tokens")
            rates[turn].append(tokens / seconds)
    return rates


def report(rates: dict[str, list[float]]) -> None:
    ratios = [a / b for a, b in zip(rates["batch"], rates["one by one"], strict=True)]
    print("\n| how | tokens/s, each round | median |\n| --- | --- | --- |")
    for name, each in rates.items():
        rounds = ", ".join(f"{rate:.1f}" for rate in each)
        print(f"| {name} | {rounds} | {statistics.median(each):.1f} |")
    print(
        f"\nThe batch is {statistics.median(ratios):.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--parallel", type=int, default=8, help="answers at once in the batch")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="1 round, 16 requests, 16 tokens")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests, options.tokens = 1, 16, 16
    measure(options)


if __name__ == "__main__":
    main()
