"""The library on a disk that is mounted read-only: what reads works, what changes says so once."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.errors import ExitCode
from localllm.library.files.checksum import sha256_of
from localllm.library.store.store import Store
from tests.cli.test_library_verbs import failed, rows
from tests.library import tiny
from tests.library.caches import HuggingFace, gguf

Run = Callable[..., subprocess.CompletedProcess[str]]
_MOUNT = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Run the program where the library, with a model that was hashed and one that was not, is
    mounted read-only. The mount is seen by that process alone and goes with it."""
    store = Store(home / "data")
    store.adopt(tiny.write(tmp_path / "hashed.gguf", name="Hashed"), digest=sha256_of)
    store.adopt(tiny.write(tmp_path / "new.gguf", name="New"), link=True)

    def unshared(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", _MOUNT, "sh", *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    if shutil.which("unshare") is None or unshared(home / "data", "true").returncode != 0:
        pytest.skip("no mount of our own is allowed here")
    assert unshared(home / "data", "touch", home / "data" / "x").returncode != 0
    return lambda *arguments: unshared(home / "data", sys.executable, "-m", "localllm", *arguments)


def test_ls_and_show_work(run: Run) -> None:
    assert [row["name"] for row in rows(run("ls", "--json"))] == ["hashed", "new", "starter"]
    (row,) = rows(run("show", "hashed", "--json"))
    assert row["state"] == "ok"
    assert "Warning" not in run("ls").stderr


def test_verify_compares_and_says_that_nothing_was_recorded(run: Run) -> None:
    done = run("verify", "hashed", "new", "--json")
    assert [row["ok"] for row in rows(done)] == [True, True]
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert len(warnings) == 1
    assert "was not recorded" in warnings[0]
    assert "Read-only file system" in warnings[0]


@pytest.mark.parametrize(
    "arguments", [("rm", "hashed", "--yes"), ("rm", "new", "--yes"), ("import", "{}/other.gguf")]
)
def test_what_changes_the_library_says_why_it_cannot(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    tiny.write(tmp_path / "other.gguf", name="Other")
    done = run(*(each.format(tmp_path) for each in arguments))
    message = failed(done, ExitCode.FAILED)
    assert message.count("Read-only file system") == 1
    assert "cannot be changed" in message
    assert [row["name"] for row in rows(run("ls", "--json"))] == ["hashed", "new", "starter"]


def test_a_scan_says_it_once_and_a_dry_run_works(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = HuggingFace(tmp_path / "hub")
    hub.add("x.gguf", gguf(name="X"))
    hub.add("y.gguf", gguf(name="Y"))
    assert failed(run("import", "--scan"), ExitCode.FAILED).count("Read-only file system") == 1
    assert "would be adopted" in run("import", "--scan", "--dry-run").stdout
