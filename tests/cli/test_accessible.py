"""The accessible mode: who gets it, what a screen reader reads, and the way to a conversation."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from localllm.cli.accessibility import accessible_because, accessible_setting
from localllm.cli.accessible.progress import SpokenProgress
from localllm.library.download.progress import Progress
from tests.cli.hub_processes import environment, renamed
from tests.cli.test_run import GREEDY, LOCALLLM, terminal
from tests.hub import FakeHub

ON_ACCESSIBLE = {"TERM": "xterm-256color", "ACCESSIBLE": "1"}


def chosen(
    environment: dict[str, str],
    *,
    setting: bool | None = None,
    platform: str = "linux",
    prints: str = "",
    looks: bool = True,
) -> tuple[bool, list[str]]:
    """Whether the mode is on, and the programs that were asked."""
    asked: list[str] = []

    def run(command: Sequence[str]) -> str:
        asked.append(command[0])
        return prints

    because = accessible_because(
        setting=setting, environment=environment, platform=platform, run=run, looks=looks
    )
    return because is not None, asked


def test_what_a_person_says_comes_before_what_is_found() -> None:
    dumb = {"TERM": "dumb"}
    assert chosen(dumb) == (True, [])
    assert chosen(dumb, setting=False) == (False, [])
    assert chosen(dumb, looks=False) == (False, [])
    assert chosen({}, setting=True) == (True, [])
    for word in ("0", "false", "No", "off", ""):
        assert chosen({**dumb, "ACCESSIBLE": word}, setting=True) == (False, [])
    for word in ("1", "true", "enabled"):
        assert chosen({"ACCESSIBLE": word}, setting=False) == (True, [])


def test_a_screen_reader_is_looked_for_where_that_can_be_relied_on() -> None:
    session = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus"}
    assert chosen(session, prints="b true\n") == (True, ["busctl"])
    assert chosen(session, prints="b false\n") == (False, ["busctl"])
    assert chosen(session, prints="") == (False, ["busctl"])
    assert chosen({}) == (False, [])
    assert chosen({**session, "SSH_CONNECTION": "::1 1 ::1 22"}, prints="b true") == (False, [])
    assert chosen({}, platform="darwin", prints="1\n") == (True, ["/usr/bin/defaults"])
    assert chosen({}, platform="darwin", prints="0\n") == (False, ["/usr/bin/defaults"])


def test_a_download_is_spoken_at_each_tenth_and_now_and_then() -> None:
    lines: list[str] = []
    now_s = [0.0]
    spoken = SpokenProgress(lines.append, clock=lambda: now_s[0])

    def at(seconds: float, percent: int, message: str | None = None) -> None:
        now_s[0] = seconds
        spoken.download(
            Progress(file="f", done_bytes=percent, total_bytes=100, rate_bytes_per_s=None,
                     remaining_s=None, message=message)
        )  # fmt: skip

    at(0.1, 0)
    at(0.5, 30)  # too soon for a line
    at(1.5, 40)
    at(2.0, 41)
    at(2.1, 42, "stalled, reconnecting")
    at(2.2, 42, "stalled, reconnecting")
    at(12.0, 43)
    at(13.5, 51)
    assert [line.partition("(")[2][:4] for line in lines] == ["40 %", "42 %", "51 %"]
    at(23.6, 52)
    assert lines[-1] == "Downloading: 52 B of 100 B (52 %)."


def test_nothing_that_a_screen_reader_reads_is_drawn_again() -> None:
    with terminal([*LOCALLLM], **ON_ACCESSIBLE) as (process, screen):
        shown = screen.until(b"or a word: ")
        assert b"starter, Q4_1" in shown
        screen.type(b"nonsense\n")
        shown += screen.until(b"Error: ")
        shown += screen.until(b"or a word: ")
        screen.type(b"1\n")
        shown += screen.until(b"You: ")
        assert b"starter is loaded after " in shown
        screen.type(b"/set max_tokens 20\n")
        shown += screen.until(b"You: ")
        screen.type(b"Hello there.\nWho are you?\n")  # pasted
        shown += screen.until(b"2 lines were pasted: they are one question.")
        shown += screen.until(b"You: ")
        screen.type(b"x" * 5000 + b"\n")  # more than a terminal takes
        shown += screen.until(b"nothing was sent.")
        shown += screen.until(b"You: ")
        screen.type(b"/set max_tokens default\n")
        shown += screen.until(b"You: ")
        screen.type(b"Tell a very long story about a dragon.\n")
        shown += screen.until(b"starter:\r\n")
        screen.type(b"\x03")
        shown += screen.until(b"Stopped. What has come is kept")
        shown += screen.until(b"You: ")
        screen.type(b"/version\n")
        shown += screen.until(b"* 1. ")
        shown += screen.until(b"You: ")
        screen.type(b"\x04")
        shown += screen.until(b"decide another time: ")
        screen.type(b"2\n")
        shown += screen.until(b"or a word: ")
        screen.type(b"chats\n")
        shown += screen.until(b"1. Hello there. (starter)")
        screen.type(b"\n")
        shown += screen.until(b"or a word: ")
        screen.type(b"q\n")
        assert process.wait(60) == 0
    text = shown.replace(b"\r\n", b"\n").decode()
    assert not [each for each in text if each < " " and each != "\n"]


def test_the_verbs_draw_nothing_either() -> None:
    command = [*LOCALLLM, "--accessible", "run", "starter", *GREEDY, "--max-tokens", "5"]
    with terminal(command, TERM="xterm-256color") as (process, screen):
        shown = screen.until(b"is loaded after")
        shown += screen.until(b"You: ")
        screen.type(b"Hello\n")
        shown += screen.until(b"You: ")
        screen.type(b"/quit\n")
        assert process.wait(60) == 0
    assert b"\x1b" not in shown
    assert b"starter:\r\n" in shown


def test_a_newcomer_gets_a_model_and_an_answer_through_a_pipe(
    hub: FakeHub, smollm2: Path, home: Path
) -> None:
    hub.add_repo("acme/Testllm-GGUF", {"Testllm-135M-Q4_1.gguf": renamed(smollm2)})
    lines = (
        "download", "acme/Testllm-GGUF", "no",
        "download", "acme/Testllm-GGUF", "yes", "yes", "yes",
        "/set max_tokens 8", '"""', "Hello.", "Who are you?", '"""', "/quit", "",
        "import", str(home / "none.gguf"), "", "suggest", "", "quit",
    )  # fmt: skip
    done = subprocess.run(
        [*LOCALLLM, "--accessible"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(hub),
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = (
        "is asked which files acme/Testllm-GGUF has.", "is downloaded, checked and in the library.",
        "Error: There is no file", "Number of the model, or Enter to go back:",
    )  # fmt: skip
    assert [word for word in words if word not in done.stdout] == []
    assert "\ntestllm-135m" in done.stdout
    assert "Error" not in done.stdout.partition("Error: There is no file")[0]


def test_without_a_network_a_file_is_imported(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "my model.gguf").write_bytes(renamed(smollm2))
    lines = (
        "download", "gemma-4-e2b", "suggest", "1", "import", f"'{tmp_path}/my model.gguf'", "yes",
        "/set max_tokens 5", "Hello",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "localllm"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"ACCESSIBLE": "1", "LOCALLLM_OFFLINE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Without a network: import takes a file") == 2
    assert "is in the library." in done.stdout
    assert "is loaded after" in done.stdout
    assert done.stdout.rstrip().endswith("Number of a model, or a word:")


@pytest.mark.parametrize("variable", [None, "0"])
def test_without_a_terminal_nobody_gets_it_unasked(variable: str | None) -> None:
    given = {} if variable is None else {"ACCESSIBLE": variable}
    done = subprocess.run(
        [*LOCALLLM],
        input=b"",
        capture_output=True,
        check=False,
        timeout=60,
        env=os.environ | {"TERM": "dumb"} | given,
    )
    assert done.returncode == 2
    assert b"`localllm --accessible` needs no terminal." in done.stderr


def test_the_setting_is_read_where_the_file_names_it(home: Path) -> None:
    file = home / "config" / "settings.toml"
    assert accessible_setting() is None
    for content, expected in (
        ("context = 512\n", None),
        ("accessible = true\n", True),
        ("# accessible = true\n", None),
    ):
        file.write_text(content)
        assert accessible_setting() is expected
