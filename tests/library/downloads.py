"""Helpers of the downloader's tests: a file on the loopback Hub, and quick retries.

As a program (`python -m tests.library.downloads JSON`) it downloads one file in a process of its
own, says what came of it as JSON, and ends with the exit code that localllm would.
"""

import hashlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localllm.errors import DownloadStopped, LocalLLMError
from localllm.library.download.downloader import download
from localllm.library.download.progress import Progress
from localllm.library.download.target import (
    DownloadedFile,
    DownloadOptions,
    DownloadTarget,
    journal_path,
    lock_path,
    part_path,
)
from localllm.library.http.client import Access
from localllm.library.http.retry_policy import RetryPolicy
from tests.hub import FakeHub, Stall

REPO, NAME = "org/model-GGUF", "model-Q4_K_M.gguf"
SIZE = 3_000_001
"""Eleven whole chunks of 256 KiB and a bit."""
FAST_OPTIONS = DownloadOptions(
    retry=RetryPolicy(backoff_s=(0.0,) * 5, max_unreached_retries=3),
    stall_s=20.0,
    tick_s=0.002,
    piece_bytes=200_000,
)
"""Retries at once; stalls are not waited for where a test does not stall."""


def content(size: int = SIZE, seed: int = 0) -> bytes:
    """Bytes that look like a model's: not twice the same."""
    return random.Random(seed).randbytes(size)


@dataclass
class Site:
    """A file that a Hub has, and the directory that it is to come to."""

    hub: FakeHub
    directory: Path
    data: bytes
    commit: str = ""
    shown: list[Progress] = field(default_factory=list)
    watch: Callable[[Progress], None] = lambda _: None

    def __post_init__(self) -> None:
        self.commit = self.commit or self.hub.add_repo(REPO, {NAME: self.data})

    @property
    def path(self) -> Path:
        return self.directory / NAME

    @property
    def part(self) -> Path:
        return part_path(self.path)

    @property
    def access(self) -> Access:
        return Access(endpoints=(self.hub.endpoint,))

    @property
    def target(self) -> DownloadTarget:
        return DownloadTarget(
            repo=REPO,
            commit=self.commit,
            name=NAME,
            size_bytes=len(self.data),
            sha256=hashlib.sha256(self.data).hexdigest(),
            path=self.path,
        )

    @property
    def messages(self) -> list[str]:
        """The messages that were shown, each once."""
        return list(dict.fromkeys(each.message for each in self.shown if each.message))

    def fetch(
        self,
        *,
        connections: int = 1,
        options: DownloadOptions = FAST_OPTIONS,
        access: Access | None = None,
        stop_at: int | None = None,
    ) -> DownloadedFile:
        """Download it; with `stop_at` stop as soon as so many bytes are here."""
        stop = threading.Event()

        def show(progress: Progress) -> None:
            self.shown.append(progress)
            self.watch(progress)
            if stop_at is not None and progress.done_bytes >= stop_at:
                stop.set()

        (done,) = download(
            [self.target],
            access or self.access,
            connections=connections,
            options=options,
            on_progress=show,
            stop=stop,
        )
        return done

    def assert_complete(self) -> None:
        """The file is right, and nothing else is left of the download."""
        assert self.path.read_bytes() == self.data
        assert sorted(self.directory.iterdir()) == [self.path]

    def assert_only_kept(self) -> None:
        """The file is not there under its name; what is there belongs to the download."""
        ours = {part_path(self.path), journal_path(self.path), lock_path(self.path)}
        found = {each for each in self.directory.iterdir() if each.suffix != ".tmp"}
        assert (
            found <= ours
        )  # a journal's temporary file that a kill leaves goes with the next save

    def child(self, *, connections: int = 1, max_file_bytes: int | None = None) -> "Child":
        """Start downloading it in another process; `max_file_bytes` limits its files."""
        order = {
            "endpoint": self.hub.endpoint,
            "commit": self.commit,
            "size": len(self.data),
            "sha256": self.target.sha256,
            "path": str(self.path),
            "connections": connections,
            "most_bytes": max_file_bytes,
        }
        command = [sys.executable, "-m", "tests.library.downloads", json.dumps(order)]
        return Child(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


@dataclass
class Child:
    """A process that downloads."""

    process: "subprocess.Popen[str]"

    def kill(self) -> None:
        """End it as a power switch would."""
        self.process.kill()
        self.process.communicate()

    def result(self) -> dict[str, object]:
        """Wait for its end and return its result."""
        out, _ = self.process.communicate(timeout=120)
        result = json.loads(out)
        assert isinstance(result, dict)
        return {**result, "exit": self.process.returncode}


def stopped(site: Site, at: int, *, connections: int = 1) -> None:
    """Leave a download that stopped when `at` bytes were there."""
    until = threading.Event()
    site.hub.faults.add(Stall(at, until))
    with pytest.raises(DownloadStopped):
        site.fetch(connections=connections, stop_at=at)
    until.set()
    site.hub.faults.clear()


def site_in(hub: FakeHub, directory: Path, data: bytes) -> "Site":
    """A Hub's file and an empty directory for it."""
    directory.mkdir()
    return Site(hub, directory, data)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process is about to do."""
    never = threading.Event()
    for _ in range(60_000):
        if condition():
            return
        never.wait(0.001)
    raise AssertionError("it never came to it")


def _main() -> int:
    order = json.loads(sys.argv[1])
    if order["most_bytes"] is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["most_bytes"], order["most_bytes"]))
    target = DownloadTarget(
        repo=REPO,
        commit=order["commit"],
        name=NAME,
        size_bytes=order["size"],
        sha256=order["sha256"],
        path=Path(order["path"]),
    )
    messages: dict[str, None] = {}
    result: dict[str, object] = {}
    code = 0
    try:
        (done,) = download(
            [target],
            Access(endpoints=(order["endpoint"],)),
            connections=order["connections"],
            options=FAST_OPTIONS,
            on_progress=lambda each: messages.update({each.message: None} if each.message else {}),
        )
        result = {"resumed_from": done.resumed_from, "transferred_bytes": done.transferred_bytes}
    except LocalLLMError as error:
        result = {"error": str(error), "code": error.code}
        code = int(error.exit_code)
    sys.stdout.write(json.dumps({**result, "messages": list(messages)}))
    return code


if __name__ == "__main__":
    sys.exit(_main())
