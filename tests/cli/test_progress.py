"""The progress of a download: plain lines, a bar on a terminal, and Ctrl+C."""

import os
import pty
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from localllm.cli.progress import (
    LINE_EVERY_S,
    Interrupted,
    ProgressLines,
    interruptible,
    progress_line,
)
from localllm.errors import DownloadFailed
from localllm.library.download.progress import Progress
from tests.cli.hub_processes import LOCALLLM, environment, renamed
from tests.hub import FakeHub

GIB = 2**30


def at(done_bytes: int, message: str | None = None) -> Progress:
    return Progress(
        file="m.gguf", done_bytes=done_bytes, total_bytes=4 * GIB,
        rate_bytes_per_s=85e6, remaining_s=41.0, message=message,
    )  # fmt: skip


def test_a_line_says_bytes_rate_and_time_left() -> None:
    assert progress_line(at(GIB)) == "1.0 GiB of 4.0 GiB (25 %), 85.0 MB/s, 41.0 s left"
    unknown = Progress(
        file="m.gguf", done_bytes=0, total_bytes=0, rate_bytes_per_s=None, remaining_s=None,
        message="checking what is here",
    )  # fmt: skip
    assert progress_line(unknown) == "0 B of 0 B (0 %), checking what is here"


def test_lines_come_now_and_then_and_each_note_at_once() -> None:
    written: list[str] = []
    now_s = 0.0
    lines = ProgressLines(written.append, clock=lambda: now_s)
    for step in range(25):
        now_s = float(step)
        lines.show(at(step, message="stalled, reconnecting" if step in (3, 4) else None))
    assert len(written) == 1 + 1 + int((24 - 3) // LINE_EVERY_S)
    assert sum("stalled" in each for each in written) == 1


def test_what_the_work_gives_or_raises_comes_out() -> None:
    assert interruptible(lambda stop: not stop.is_set())

    def fails(_: threading.Event) -> None:
        raise DownloadFailed("the disk is full")

    with pytest.raises(DownloadFailed, match="full"):
        interruptible(fails)


def test_ctrl_c_waits_until_the_work_has_ended() -> None:
    ended = threading.Event()

    def work(stop: threading.Event) -> None:
        signal.raise_signal(signal.SIGINT)
        assert stop.wait(60)
        ended.set()
        raise DownloadFailed("stopped")

    with pytest.raises(Interrupted):
        interruptible(work)
    assert ended.is_set()


def test_work_that_was_done_when_ctrl_c_came_counts() -> None:
    def work(stop: threading.Event) -> str:
        signal.raise_signal(signal.SIGINT)
        assert stop.wait(60)
        return "done"

    assert interruptible(work) == "done"


def test_a_terminal_gets_a_bar_that_goes_away(hub: FakeHub, smollm2: Path) -> None:
    hub.add_repo("acme/T-GGUF", {"T-Q4_1.gguf": renamed(smollm2)})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LOCALLLM, "pull", "acme/T-GGUF"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(hub, TERM="xterm", COLUMNS="100"),
    )
    os.close(theirs)
    seen = _read_all(ours)
    assert process.wait(60) == 0
    assert "/ 93.8 MiB" in seen
    assert "%" in seen
    assert "\x1b[2K" in seen  # the bar's line is cleared


def _read_all(terminal: int) -> str:
    """What was written until the other side is closed, which Linux tells as an error."""
    pieces = []
    try:
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    except OSError:
        pass
    finally:
        os.close(terminal)
    return b"".join(pieces).decode("utf-8", "replace")
