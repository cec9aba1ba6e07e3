"""The app as a person starts it: the program in a terminal of its own, by tmux."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

WAIT_S = 60.0
APP = (sys.executable, "-m", "localllm")
ENDLESS = "/set logit_bias 2=-100"
"""SmolLM2's token that ends a turn is never chosen: an answer ends when it is stopped."""
_SHELL_PROMPT = "READY>"


class Terminal:
    """One terminal of tmux with a shell in it; `name` is that of tmux's socket."""

    def __init__(self, name: str, *, size: tuple[int, int] = (120, 40)) -> None:
        self._tmux = ("tmux", "-L", name, "-f", os.devnull)
        columns, rows = size
        shell = f"PS1='{_SHELL_PROMPT} ' exec bash --norc --noprofile -i"
        # Exported, as some people have it: the app has to ask the terminal for its size.
        shell = f"export COLUMNS LINES; {shell}"
        self._run("new-session", "-d", "-x", str(columns), "-y", str(rows), shell)
        self.wait_for(_SHELL_PROMPT)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            (*self._tmux, *arguments), check=True, capture_output=True, text=True, timeout=WAIT_S
        )
        return done.stdout

    def text(self) -> str:
        """Return what is seen now."""
        return self._run("capture-pane", "-p")

    def value(self, variable: str) -> str:
        """Return what tmux knows of its pane, such as alternate_on."""
        return self._run("display-message", "-p", f"#{{{variable}}}").strip()

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names for them: Enter, Escape, C-q, F6."""
        self._run("send-keys", *keys)

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def enter(self, text: str) -> None:
        self.type(text)
        self.press("Enter")

    def command(self, *words: str) -> None:
        """Enter a command into the shell."""
        self.enter(shlex.join(words))

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def wait_until(self, holds: Callable[[str], object]) -> str:
        """Wait for what is seen to be so, and return it; a minute is a failure."""
        deadline = time.monotonic() + WAIT_S
        while not holds(text := self.text()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited for a minute in front of:\n{text}")
            time.sleep(0.05)  # tmux tells nobody
        return text

    def wait_for(self, text: str) -> str:
        return self.wait_until(lambda seen: text in seen)

    def processes(self) -> list[psutil.Process]:
        """Return what runs in this terminal beside its shell: the app first, then its engines."""
        return psutil.Process(int(self.value("pane_pid"))).children(recursive=True)

    def app(self) -> psutil.Process:
        return self.processes()[0]

    def engine(self) -> psutil.Process:
        """Return the process that has the model."""
        return max(self.app().children(recursive=True), key=lambda each: each.memory_info().rss)

    def close(self) -> None:
        processes = self.processes()
        self._run("kill-server")
        psutil.wait_procs(processes, timeout=WAIT_S)
