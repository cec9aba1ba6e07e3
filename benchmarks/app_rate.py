"""The rate at which a model writes in the terminal app, beside `localllm run` on a terminal.

    python -m benchmarks.app_rate [--rounds N] [--tokens N] [--turns 0 40 200] [--sizes 80x24 ...]

Both get the same prompt behind the same conversation of so many turns, in turns, each in a terminal
of its own (tmux). The rate is the engine's own, of the same kind of request; the app's processor
time is that of its process while it streams, all threads. Printed are the medians, the ratio of
the app's rate to that of `run` in the same round, the app's share of a core, and what a token costs
it. On a machine that does something else only the processor time of the app means anything.
"""

import argparse
import asyncio
import inspect
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from textual import work

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.session_file import write_session
from localllm.engine.messages import Role, Sampling
from localllm.tui.app import LocalLLMApp
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.services import AppServices

PROMPT = (
    "Explain step by step, with headings, lists, a table and Python code, how a bicycle works and "
    "how one would simulate it."
)
MODEL = "starter"
CONTEXT = 8192
WAIT_S = 600.0
_SESSIONS = itertools.count()
_DECODE = re.compile(r"decode ([0-9.]+) tok/s")


@dataclass(frozen=True, kw_only=True)
class AppRun:
    """What one run of the app measured. `share` is of one core; `rate` in tokens/s."""

    rate: float
    tokens: int
    share: float
    us_per_token: float
    draws: int


def conversation_of(turns: int, tokens: int) -> Conversation:
    """Make a conversation of short turns, for both to go on with."""
    settings = ChatSettings(sampling=Sampling(temperature=0.0), max_tokens=tokens, context=CONTEXT)
    conversation = Conversation(model=MODEL, settings=settings)
    for number in range(turns):
        for role, text in (
            (Role.USER, f"Say {number}"),
            (Role.ASSISTANT, f"**{number}**, as you wish."),
        ):
            message = ChatMessage(role=role, text=text, created_s=time.time())
            conversation = conversation.with_message(message, after=conversation.leaf)
    return conversation


# --- inside the app's terminal ---


class MeasuredApp(LocalLLMApp):
    """The app; it asks one question by itself, writes what it measured, and ends."""

    CSS_PATH = inspect.getfile(LocalLLMApp).replace(".py", ".tcss")
    turns = 0
    tokens = 0
    target = Path()

    def on_mount(self) -> None:
        super().on_mount()
        self.measure()

    @work(exit_on_error=True)
    async def measure(self) -> None:
        services = await asyncio.to_thread(lambda: self.services)
        model = services.runtime.resolve(MODEL)
        self.open_chat(model, conversation_of(self.turns, self.tokens))
        chat = self.screen_stack[0]
        assert isinstance(chat, ChatScreen)
        await until(lambda: chat.resident is not None and chat.is_current)
        await asyncio.sleep(5)  # the machine is looked at, old turns are laid out
        # The question that comes once, after the first answer of all, is no part of an answer.
        services.conversations.on_first_answer = lambda: None
        process = psutil.Process()
        chat.send(PROMPT)
        await until(lambda: chat.transcript.writing)
        before, began_s, draws = process.cpu_times(), time.monotonic(), chat.transcript.draws
        await until(lambda: not chat.answering)
        after, wall_s = process.cpu_times(), time.monotonic() - began_s
        stats = chat.conversation.path()[-1].stats
        assert stats is not None
        cpu_s = after.user + after.system - before.user - before.system
        measured = AppRun(
            rate=stats.decode_tps or 0.0,
            tokens=stats.completion_tokens,
            share=cpu_s / wall_s,
            us_per_token=1e6 * cpu_s / stats.completion_tokens,
            draws=chat.transcript.draws - draws,
        )
        self.target.write_text(json.dumps(asdict(measured)))
        self.exit()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, looking seldom enough to cost nothing."""
    while not holds():  # noqa: ASYNC110  # the app tells nobody
        await asyncio.sleep(0.1)


# --- outside ---


def in_terminal(size: str, command: Sequence[str], until: Path) -> str:
    """Run a command in a terminal of its own until it has written `until`; returns the screen."""
    width, height = size.split("x")
    session = f"app-rate-{os.getpid()}-{next(_SESSIONS)}"  # the last server may be ending still
    line = " ".join(f"'{part}'" for part in command) + f"; touch '{until}.done'; sleep 60"
    tmux = ["tmux", "-L", session]
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", width, "-y", height, line], check=True, env=os.environ
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while not Path(f"{until}.done").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(" ".join(command))
            time.sleep(0.5)
        shown = subprocess.run(
            [*tmux, "capture-pane", "-p", "-S", "-2000"], check=True, capture_output=True, text=True
        )
        return shown.stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def run_rate(size: str, turns: int, tokens: int) -> float:
    """Return the rate of `localllm run`."""
    with tempfile.TemporaryDirectory() as folder:
        session = Path(folder) / "session.json"
        write_session(session, conversation_of(turns, tokens))
        screen = in_terminal(
            size,
            [sys.executable, "-m", "localllm", "run", MODEL, PROMPT, "--session", str(session),
             "--no-session-cache", "--ctx", str(CONTEXT), "--max-tokens", str(tokens),
             "--temperature", "0", "--stats"],
            Path(folder) / "run",
        )  # fmt: skip
    found = _DECODE.search(screen.replace("\n", ""))  # a narrow terminal breaks the line
    if found is None:
        raise SystemExit(f"run did not tell its rate:\n{screen}")
    return float(found[1])


def app_run(size: str, turns: int, tokens: int) -> AppRun:
    """Return what the app measured."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "app"
        screen = in_terminal(
            size,
            [sys.executable, "-m", "benchmarks.app_rate", "--inside", str(target),
             "--turns", str(turns), "--tokens", str(tokens)],
            target,
        )  # fmt: skip
        if not target.exists():
            raise SystemExit(f"the app ended:\n{screen}")
        return AppRun(**json.loads(target.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--turns", type=int, nargs="+", default=[0, 40, 200])
    parser.add_argument("--sizes", nargs="+", default=["80x24", "120x40", "200x60"])
    parser.add_argument("--app-only", action="store_true", help="only the app's processor time")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        MeasuredApp.turns, MeasuredApp.tokens = given.turns[0], given.tokens
        MeasuredApp.target = Path(given.inside)
        MeasuredApp(AppServices.of_this_machine).run()
        return
    heads = f"{'run':>7} {'app':>7} {'ratio':>6} {'core':>6} {'us/token':>9} {'ms/draw':>8}"
    print(f"{'size':>8} {'turns':>5} {heads}", flush=True)
    for size in given.sizes:
        for turns in given.turns:
            runs, apps = [], []
            for _ in range(given.rounds):
                if not given.app_only:
                    runs.append(run_rate(size, turns, given.tokens))
                apps.append(app_run(size, turns, given.tokens))
            rate = statistics.median(each.rate for each in apps)
            run = statistics.median(runs) if runs else float("nan")
            ratio = statistics.median(
                [app.rate / one for app, one in zip(apps, runs, strict=False)] or [float("nan")]
            )
            share = statistics.median(each.share for each in apps)
            us = statistics.median(each.us_per_token for each in apps)
            ms = statistics.median(
                each.us_per_token * each.tokens / 1000 / max(1, each.draws) for each in apps
            )
            numbers = f"{run:>7.1f} {rate:>7.1f} {ratio:>6.2f} {share:>6.1%} {us:>9.0f} {ms:>8.1f}"
            print(f"{size:>8} {turns:>5} {numbers}", flush=True)


if __name__ == "__main__":
    main()
