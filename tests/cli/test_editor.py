"""The line editor of `run` on a terminal: several lines, paste, completion, history, Ctrl+C."""

import json
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from localllm.chat.commands.completion import CompletionSources
from localllm.chat.commands.table import COMMANDS
from localllm.cli.chat.editor import ChatCompleter
from tests.cli.test_run import GREEDY, LOCALLLM, terminal

PASTE = b"\x1b[200~%b\x1b[201~"
UP = b"\x1b[A"
READY = b"\x1b[?2004h"
"""The editor asks the terminal to mark what is pasted."""


def test_what_is_typed_and_pasted_is_one_question_and_stays_in_memory(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    command = [*LOCALLLM, "run", "starter", *GREEDY, "--max-tokens", "4", "--stats"]
    drawn = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    with terminal([*command, "--session", str(file)], **drawn) as (process, screen):
        screen.until(READY)
        screen.type(PASTE % b"pasted one\rpasted /two")
        screen.type(b"\\\r")  # a backslash goes on in the next line
        screen.type(b"three\nfour\r")  # as Ctrl+J does
        screen.until(b"decode")
        screen.until(READY)
        screen.until(b"\x1b[?25h")  # it is drawn, and the history is there
        screen.type(UP + b" five\r")  # the question again
        screen.until(b"decode")
        screen.until(READY)
        screen.type(b"Tell a story.\r")
        screen.until(b"decode")
        screen.until(READY)
        screen.type(b"not asked\x03\x03")  # cleared, and left
        screen.until(b"kept ")
        assert process.wait(60) == 0
    asked = [each["content"] for each in json.loads(file.read_bytes())["messages"]][::2]
    assert asked == [
        "pasted one\npasted /two\nthree\nfour", "pasted one\npasted /two\nthree\nfour five",
        "Tell a story.",
    ]  # fmt: skip
    left = [path for path in home.rglob("*") if path.is_file() and b"pasted" in path.read_bytes()]
    assert left == []


def test_commands_and_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "my notes.md").write_text("x")
    completer = ChatCompleter(lambda: COMMANDS, CompletionSources(models=lambda: ["starter"]))

    def offered(text: str) -> list[tuple[str, int]]:
        found = completer.get_completions(Document(text), CompleteEvent())
        return [(each.text, each.start_position) for each in found]

    assert ("/version", -4) in offered("/ver")
    assert offered("/model st") == [("starter", -2)]
    assert offered(f"/file {tmp_path}/my") == [(f"{tmp_path}/my notes.md", -len(f"{tmp_path}/my"))]
    question = f"Look at\n@{tmp_path}/my"
    assert offered(question) == [(f'@"{tmp_path}/my notes.md"', -len(f"@{tmp_path}/my"))]
    assert offered("What is @ home") == []
