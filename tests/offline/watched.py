"""localllm in processes that are watched: whoever of them tries to leave this machine is seen."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GUARD = Path(__file__).parent / "guard"
WAIT_S = 300
NETWORK_VARIABLES = (
    *("LOCALLLM_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "HF_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the guard wrote down: `started` are command lines, `imported` packages."""

    started: tuple[str, ...]
    attempts: tuple[str, ...]
    imported: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A process that ended, and all that it and its children were seen to do."""

    code: int
    out: str
    err: str
    seen: Seen


@dataclass(frozen=True, slots=True)
class Guard:
    """Watches processes; its log is empty at first."""

    log: Path

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """What a watched process is started with: nothing of the network's settings of whoever
        runs the tests."""
        kept = {name: value for name, value in os.environ.items() if name not in NETWORK_VARIABLES}
        return kept | {
            "PYTHONPATH": os.pathsep.join([str(GUARD), os.environ.get("PYTHONPATH", "")]),
            "LOCALLLM_TEST_GUARD": str(self.log),
            **extra,
        }

    def run(
        self,
        command: Sequence[str],
        *,
        text: str = "",
        before: Sequence[str] = (),
        **extra: str,
    ) -> Ended:
        """Run a program of Python to its end; `before` is a program that starts it."""
        done = subprocess.run(
            [*before, sys.executable, *command],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(extra),
            timeout=WAIT_S,
        )
        return Ended(code=done.returncode, out=done.stdout, err=done.stderr, seen=self.seen())

    def localllm(
        self, *arguments: str, text: str = "", before: Sequence[str] = (), **extra: str
    ) -> Ended:
        return self.run(["-m", "localllm", *arguments], text=text, before=before, **extra)

    def seen(self) -> Seen:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        events = [json.loads(line) for line in lines]

        def of(event: str) -> tuple[str, ...]:
            return tuple(each["what"] for each in events if each["event"] == event)

        return Seen(started=of("start"), attempts=of("attempt"), imported=frozenset(of("import")))
