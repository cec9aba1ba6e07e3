"""`localllm import --scan`, as a person and a program run it."""

import json
import sys
from pathlib import Path

import pytest

from localllm.errors import ExitCode
from tests.cli.test_library_verbs import failed, localllm, rows
from tests.library import caches
from tests.library.caches import HuggingFace, Ollama, gguf

SERVICES = [Path("/usr/share/ollama"), Path("/var/lib/ollama")]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="HOME moves the home on POSIX"),
    pytest.mark.skipif(
        any(each.exists() for each in SERVICES), reason="this machine has Ollama as a service"
    ),
]


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, without any variable that leads elsewhere."""
    directory = tmp_path / "user"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    variables = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    for name in (*variables, "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return directory


def fill(user: Path) -> None:
    hub = HuggingFace(user / ".cache" / "huggingface" / "hub")
    hub.add("x.gguf", gguf(name="From Hub"))
    hub.add("broken.gguf", b"\x1b]0;owned\x07" * 9)
    Ollama(user / ".ollama" / "models").add("qwen3", "8b", gguf(name="From Ollama"))
    caches.llama_cpp(user / ".cache" / "llama.cpp", "org/repo", "y.gguf", gguf(name="From Cpp"))


def test_a_scan_reports_what_it_adopted_knew_and_skipped(user: Path) -> None:
    fill(user)
    would = json.loads(localllm("import", "--scan", "--dry-run", "--json").stdout)
    assert [row["name"] for row in rows(localllm("ls", "--json"))] == ["starter"]
    first = json.loads(localllm("import", "--scan", "--json").stdout)
    assert would == first | {"dry_run": True}
    assert [row["name"] for row in first["models"]] == ["from-hub", "qwen3-8b", "from-cpp"]
    assert [row["runner"] for row in first["models"]] == ["Hugging Face", "Ollama", "llama.cpp"]
    assert [place["runner"] for place in first["places"]] == ["Hugging Face", "Ollama", "llama.cpp"]
    assert first["known"] == []
    (skipped,) = first["skipped"]
    assert skipped["path"].endswith("broken.gguf")
    assert "is not usable" in skipped["reason"]
    again = json.loads(localllm("import", "--scan", "--json").stdout)
    assert again["models"] == []
    assert [row["name"] for row in again["known"]] == ["from-hub", "qwen3-8b", "from-cpp"]


def test_a_scan_is_readable_too(user: Path) -> None:
    fill(user)
    done = localllm("import", "--scan")
    assert done.returncode == 0
    assert "qwen3-8b" in done.stdout
    assert "3 adopted, none copied; 0 there already; 1 skipped." in done.stderr
    assert "broken.gguf" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert (
        "0 adopted, none copied; 3 there already; 1 skipped." in localllm("import", "--scan").stderr
    )
    assert "Looked at" not in localllm("import", "--scan", "--quiet").stderr


def test_a_scan_where_nothing_is_says_so() -> None:
    done = localllm("import", "--scan")
    assert (done.returncode, done.stdout) == (0, "")
    assert "has a folder here" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--scan", "x.gguf"), ("--scan", "--name", "x"), ("--scan", "--hash")]
)
def test_a_scan_takes_no_file(arguments: tuple[str, ...]) -> None:
    assert "finds the files itself" in failed(localllm("import", *arguments), ExitCode.USAGE)


def test_a_dry_run_is_one_of_a_scan() -> None:
    assert "needs --scan" in failed(localllm("import", "x.gguf", "--dry-run"), ExitCode.USAGE)
