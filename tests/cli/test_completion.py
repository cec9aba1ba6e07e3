"""Words for shells: in bash itself, and in the form that PowerShell's script reads."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.cli.completion import SHELLS
from localllm.cli.main import VERBS
from localllm.errors import ExitCode
from tests.cli.test_library_verbs import failed, localllm
from tests.library import tiny


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `localllm` that shells find."""
    program = tmp_path / "bin" / "localllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m localllm "$@"\n', "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


BASH = """
eval "$(localllm completions bash)"
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_localllm_completion localllm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def in_bash(words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH.format(words=words)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash completes in bash")
@pytest.mark.usefixtures("on_path")
def test_bash_completes_verbs_options_and_models(tmp_path: Path) -> None:
    localllm("import", tiny.write(tmp_path / "my.gguf", name="My Model"))
    assert in_bash("localllm s") == [verb for verb in VERBS if verb.startswith("s")]
    assert in_bash("localllm run ''") == ["my-model", "starter"]
    assert in_bash("localllm show st") == ["starter"]
    assert in_bash("localllm run --kv") == ["--kv-type"]
    assert in_bash("localllm completions po") == ["powershell"]
    assert in_bash("localllm nonsense x") == []


def powershell(monkeypatch: pytest.MonkeyPatch, word: str, *before: str) -> list[str]:
    monkeypatch.setenv("_LOCALLLM_COMPLETE", "powershell_complete")
    monkeypatch.setenv("COMP_WORDS", "\n".join(("localllm", *before)))
    monkeypatch.setenv("COMP_WORD", word)
    done = localllm()
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


def test_powershell_gets_a_word_and_its_help_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert powershell(monkeypatch, "comp") == [f"completions\t{VERBS['completions'][1]}"]
    assert powershell(monkeypatch, "'sta", "run") == ["starter"]
    assert powershell(monkeypatch, "./x", "run") == []  # its own completion of files
    assert powershell(monkeypatch, "zzz") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_that_asks_localllm(shell: str) -> None:
    script = localllm("completions", shell).stdout
    assert "_LOCALLLM_COMPLETE" in script
    assert f"{shell}_complete" in script


def test_an_unknown_shell_lists_those_there_are() -> None:
    message = failed(localllm("completions", "csh"), ExitCode.USAGE)
    assert all(shell in message for shell in SHELLS)


def test_an_unknown_instruction_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LOCALLLM_COMPLETE", "csh_complete")
    done = localllm()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_library_that_cannot_be_read_completes_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no directory", "utf-8")
    monkeypatch.setenv("LOCALLLM_DATA_DIR", str(tmp_path / "file"))
    assert "my-model" not in powershell(monkeypatch, "", "show")
