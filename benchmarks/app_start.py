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

import psutil

ROWS, COLUMNS = 40, 120
LIMIT_S = 60.0

ASKED, ANSWER = b"\x1b]11;?", b"\x1b]11;rgb:0000/0000/0000\x1b\\\x1b[?62;22c"
"""A question that every terminal answers at once, and a dark one's answer."""

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
) -> dict[bytes, tuple[float, float]]:
    """Start a program on a terminal, and return after how many seconds each word was written, and
    the processor time until then."""
    began = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], command, environment)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    seen: dict[bytes, tuple[float, float]] = {}
    written = b""
    try:
        while len(seen) < len(words) and time.perf_counter() - began < LIMIT_S:
            if select.select([terminal], [], [], 1.0)[0]:
                came = os.read(terminal, 65536)
                if ASKED in came:
                    os.write(terminal, ANSWER)
                written += came
                now = time.perf_counter() - began
                used = psutil.Process(child).cpu_times()
                took = (now, used.user + used.system)
                seen.update({w: took for w in words if w in written and w not in seen})
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
    found: dict[str, list[tuple[float, float]]] = {word: [] for word in ("bare", *words)}
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
            for word, took in ours.items():
                found[word.decode()].append(took)
    for name, times in found.items():
        listed = " ".join(f"{seconds:.2f}" for seconds, _cpu in times)
        wall_s = statistics.median(seconds for seconds, _cpu in times)
        cpu_s = statistics.median(cpu for _seconds, cpu in times)
        print(f"{name:12} median {wall_s:.2f} s, processor {cpu_s:.2f} s   ({listed})")
    pairs = zip(found["localllm"], found["bare"], strict=True)
    differences = [(ours[0] - bare[0], ours[1] - bare[1]) for ours, bare in pairs]
    wall_s, cpu_s = (statistics.median(each) for each in zip(*differences, strict=True))
    print(f"ours - bare  median {wall_s:.2f} s, processor {cpu_s:.2f} s")


if __name__ == "__main__":
    main()
