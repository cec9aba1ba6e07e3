"""localllm on file systems as companies have them: no locks, false locks, no sync, late results."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.hub_processes import environment, localllm, renamed
from tests.hub import FakeHub
from tests.library import tiny

REPO = "acme/Testllm-GGUF"
FILE = "Testllm-135M-Q4_1.gguf"
_START = "\nfrom localllm.cli.main import main\nmain()"

NO_FLOCK = """
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
"""
FALSE_FLOCK = """
import fcntl
fcntl.flock = lambda *_: None
"""
NO_DIRECTORY_SYNC = """
import errno, os, stat
really = os.fsync
def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    really(descriptor)
os.fsync = fsync
"""
REPEATED_RENAME = """
import os
really = os.replace
def replace(source, target):
    really(source, target)
    really(source, target)
os.replace = replace
"""
LATE_NAMES = """
import os
replace, stat, left = os.replace, os.stat, {}
def late_replace(source, target):
    replace(source, target)
    left[os.fspath(target)] = 3
def late_stat(path, **more):
    if left.get(os.fspath(path), 0) if not isinstance(path, int) else False:
        left[os.fspath(path)] -= 1
        raise FileNotFoundError(2, "No such file or directory", path)
    return stat(path, **more)
os.replace, os.stat = late_replace, late_stat
"""


def on_a_file_system(faults: str, hub: FakeHub, *arguments: str | Path) -> "subprocess.Popen[str]":
    """Start localllm where the system's calls behave so."""
    return subprocess.Popen(
        [sys.executable, "-c", faults + _START, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(hub),
    )


def finished(process: "subprocess.Popen[str]") -> str:
    with process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    return stdout


@pytest.fixture
def stocked(hub: FakeHub, smollm2: Path) -> FakeHub:
    hub.add_repo(REPO, {FILE: renamed(smollm2)})
    return hub


@pytest.mark.skipif(sys.platform == "win32", reason="the faults are those of POSIX calls")
@pytest.mark.parametrize(
    "faults", [NO_FLOCK, FALSE_FLOCK, NO_DIRECTORY_SYNC, REPEATED_RENAME, LATE_NAMES]
)
def test_import_and_pull_work(stocked: FakeHub, tmp_path: Path, home: Path, faults: str) -> None:
    file = tiny.write(tmp_path / "alpha.gguf", name="Alpha")
    finished(on_a_file_system(faults, stocked, "import", file))
    finished(on_a_file_system(faults, stocked, "pull", REPO, "--quiet"))
    listed = localllm(stocked, "ls").stdout
    assert "alpha" in listed
    assert "testllm" in listed
    assert localllm(stocked, "verify", "--all").returncode == 0
    assert not list((home / "data").rglob("*.held*"))
    assert not list((home / "data").rglob("*.part*"))


@pytest.mark.skipif(sys.platform == "win32", reason="the faults are those of POSIX calls")
@pytest.mark.parametrize("faults", [NO_FLOCK, FALSE_FLOCK])
def test_pulls_at_once_fetch_the_file_once_and_all_succeed(stocked: FakeHub, faults: str) -> None:
    assert localllm(stocked, "pull", REPO, "--dry-run").returncode == 0  # the header is cached
    before = stocked.bytes_sent
    size = stocked.repos[REPO].commits[stocked.repos[REPO].head][FILE].size
    running = [on_a_file_system(faults, stocked, "pull", REPO) for _ in range(3)]
    for process in running:
        finished(process)
    assert stocked.bytes_sent - before < 2 * size
    assert localllm(stocked, "verify", "--all").returncode == 0
