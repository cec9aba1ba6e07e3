"""What a conversation costs after its model gave way to another one: time to the first token of the
next answer, with warm swap, without, and of llama.cpp's own server.

    python benchmarks/warm_swap.py [--words N] [--rounds N] [--model FILE]

Each server has room for one model, and they are asked in turns: a long question, then another
model, which takes the place, then the next question of the first conversation. The load of the
model is part of the time, as its user waits for it. Two names of one file stand for two models.
llama.cpp's server (the wheel xllamacpp, if it is installed; peer_server.py) holds one model, so it
is ended and started with the other one, as programs that swap servers do.
"""

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.library.store.starter import find_starter

STORY = "The old ship left the harbour in the morning and nobody on the shore knew its name. "
START_S = 120
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
REQUEST_S = 600


@dataclass
class Measured:
    """What one server took: `away` to the first token of the other model, `back` to that of the
    conversation after it; `cached` tokens of its prompt were there."""

    name: str
    server: "Server"
    away: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)


class Server:
    """A server that swaps models by itself."""

    def __init__(self, port: int) -> None:
        self.port = port

    def use(self, model: str) -> None:
        """Make it ready for requests to this model."""


class Restarted(Server):
    """llama.cpp's server, started again for each model."""

    def __init__(self, models: Path) -> None:
        super().__init__(0)
        self._models = models
        self._process: subprocess.Popen[str] | None = None
        self._model = ""

    def use(self, model: str) -> None:
        if model == self._model:
            return
        self.close()
        program = [sys.executable, str(Path(__file__).with_name("peer_server.py"))]
        program += [str(self._models / f"{model}.gguf"), "4096", "1", str(THREADS)]
        self._process = subprocess.Popen(
            program, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        while not line.startswith("http"):
            assert line, "the server did not start"
            line = self._process.stdout.readline()
        self.port, self._model = int(line.strip().rpartition(":")[2]), model

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def ask(
    server: Server, model: str, messages: list[dict[str, str]], tokens: int
) -> dict[str, object]:
    """Answer over a stream: `text`, `first_s`, and the prompt's `tokens` and `cached` ones."""
    body = {
        "model": model,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first_s, text = time.monotonic(), None, ""
    usage: dict[str, Any] = {}
    server.use(model)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=REQUEST_S)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        for choice in event.get("choices") or ():
            if piece := choice.get("delta", {}).get("content"):
                first_s = first_s or time.monotonic() - started
                text += piece
        usage = event.get("usage") or usage
    connection.close()
    details = usage.get("prompt_tokens_details") or {}
    return {
        "text": text,
        "first_s": first_s,
        "tokens": usage.get("prompt_tokens", 0),
        "cached": details.get("cached_tokens", 0),
    }


@contextlib.contextmanager
def running(program: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(program, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for(log: Path, pattern: str) -> int:
    """Return the port that a server writes to its log."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if found := re.search(pattern, log.read_text("utf-8", "replace")):
            return int(found[1])
        time.sleep(0.1)
    raise SystemExit(f"The server did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}")


def localllm(
    directory: Path, models: list[Path], ram: str, memory: str
) -> tuple[list[str], dict[str, str]]:
    """Make a library of these models, settings, and the command of a server."""
    environment = {
        **os.environ,
        **{f"LOCALLLM_{kind}_DIR": str(directory / kind) for kind in ("DATA", "CONFIG", "CACHE")},
    }
    (directory / "CONFIG").mkdir(parents=True)
    (directory / "CONFIG" / "settings.toml").write_text(
        f'[serve]\nwarm_swap_ram = "{ram}"\n', "utf-8"
    )
    program = [sys.executable, "-m", "localllm"]
    for model in models:
        subprocess.run([*program, "import", str(model)], env=environment, check=True, stdout=-3)
    options = ["--no-auth", "--port", "0", "--max-memory", memory, "--ctx", "4096"]
    options += ["--threads", str(THREADS)]
    return [*program, "serve", *options, "--parallel", "1"], environment


def measure(servers: list[Measured], words: int, rounds: int) -> None:
    for number in range(rounds):
        for server in servers:
            story = f"Chapter {number}. " + STORY * (words // len(STORY.split()))
            talk = [{"role": "user", "content": story}]
            answer = ask(server.server, "talk", talk, 16)
            talk.append({"role": "assistant", "content": str(answer["text"])})
            other = ask(server.server, "other", [{"role": "user", "content": "Hello"}], 1)
            talk.append({"role": "user", "content": "Where did it go?"})
            back = ask(server.server, "talk", talk, 8)
            server.away.append(float(str(other["first_s"])))
            server.back.append(float(str(back["first_s"])))
            server.cached.append(int(str(back["cached"])))
            server.prompts.append(int(str(back["tokens"])))
            print(
                f"{number} {server.name}: {server.back[-1]:.2f} s, {server.cached[-1]} of "
                f"{server.prompts[-1]} tokens cached; to the other model {server.away[-1]:.2f} s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--words", type=int, default=1450)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-memory", default="350MiB", help="room for one of the models")
    given = parser.parse_args()
    starter = find_starter()
    model = given.model or (starter.path if starter is not None else None)
    if model is None:
        parser.error("the starter model is not installed: name one with --model")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        (directory / "models").mkdir()
        models = [directory / "models" / f"{each}.gguf" for each in ("talk", "other")]
        for path in models:
            shutil.copy(model, path)
        servers = []
        for label, ram in (("with warm swap", "1GiB"), ("without", "0")):
            own = directory / label
            program, environment = localllm(own, models, ram, given.max_memory)
            stack.enter_context(running(program, environment, own / "log"))
            servers.append(
                Measured(label, Server(wait_for(own / "log", r"http://127\.0\.0\.1:(\d+)")))
            )
        if importlib.util.find_spec("xllamacpp") is not None:
            native = Restarted(directory / "models")
            stack.callback(native.close)
            servers.append(Measured("llama.cpp's server", native))
        measure(servers, given.words, given.rounds)
    ours = statistics.median(servers[0].back)
    for server in servers:
        back = statistics.median(server.back)
        print(
            f"{server.name}: first token after {back:.2f} s (median of {given.rounds}; "
            f"{back / ours:.1f} times ours), {statistics.median(server.cached):.0f} of "
            f"{statistics.median(server.prompts):.0f} tokens cached; the other model's after "
            f"{statistics.median(server.away):.2f} s"
        )


main()
