"""The time until the app's first picture, beside that of the smallest Textual app, in turns.

Both run on a terminal of their own (a pseudo-terminal of 120x40 cells), with a library that is
empty. The time is from the start of the process until the first picture has come whole: its last
word for the small app, the name in the header for ours. `--later WORD` also measures when a word
is on the screen that follows later, such as "GiB".

Usage: python -m benchmarks.app_start [--rounds 7] [--later WORD]     (Linux and macOS)
"""

import argparse
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

ROWS, COLUMNS = 40, 120
LIMIT_S = 60.0

BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("bare-app")
Bare().run()
"""


def first_seen(
    command: list[str], environment: dict[str, str], words: list[bytes]
) -> dict[bytes, float]:
    """Start a program on a terminal, and return after how many seconds each word was written."""
    began = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], command, environment)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    seen: dict[bytes, float] = {}
    written = b""
    try:
        while len(seen) < len(words) and time.perf_counter() - began < LIMIT_S:
            if select.select([terminal], [], [], 1.0)[0]:
                written += os.read(terminal, 65536)
                now = time.perf_counter() - began
                seen.update({w: now for w in words if w in written and w not in seen})
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    missing = [word.decode() for word in words if word not in seen]
    if missing:
        raise SystemExit(f"{missing} did not come in {LIMIT_S:.0f} s: {written[-2000:]!r}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--later", metavar="WORD", action="append", default=[])
    arguments = parser.parse_args()
    words = ["localllm", *arguments.later]
    found: dict[str, list[float]] = {word: [] for word in ("bare", *words)}
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {
            "TERM": "xterm-256color",
            "LOCALLLM_DATA_DIR": str(Path(directory) / "data"),
            "LOCALLLM_CONFIG_DIR": str(Path(directory) / "config"),
            "LOCALLLM_CACHE_DIR": str(Path(directory) / "cache"),
        }
        for number in range(arguments.rounds):
            bare = first_seen([sys.executable, "-c", BARE], environment, [b"bare-app"])
            ours = first_seen(
                [sys.executable, "-m", "localllm"], environment, [w.encode() for w in words]
            )
            if number == 0:  # files come from the disk, and the caches are empty
                continue
            found["bare"] += bare.values()
            for word, seconds in ours.items():
                found[word.decode()].append(seconds)
    for name, times in found.items():
        listed = " ".join(f"{each:.2f}" for each in times)
        print(f"{name:12} median {statistics.median(times):.2f} s   ({listed})")
    pairs = zip(found["localllm"], found["bare"], strict=True)
    print(f"ours - bare  median {statistics.median(a - b for a, b in pairs):.2f} s")


if __name__ == "__main__":
    main()
