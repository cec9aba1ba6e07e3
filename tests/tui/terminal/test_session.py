"""One session with the real app, the real engine and the starter model, in a real terminal: from
the first key to the shell's prompt."""

import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tui.terminal.tmux import APP, ENDLESS, Terminal

pytestmark = [
    pytest.mark.terminal,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

LONG = "Tell me a story about a fox, a crow and a river."


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(f"test-{tmp_path_factory.getbasetemp().name}-session")
    yield terminal
    terminal.close()


def tokens_of_context(seen: str) -> int:
    """Return how many tokens the meter says are in the context."""
    found = re.search(r"([\d,]+) of 4,096", seen)
    return int(found[1].replace(",", "")) if found else 0


def wait_for_writing(terminal: Terminal) -> None:
    """Wait until an answer is seen to grow."""
    seen = terminal.wait_for("tok/s now")
    tokens = tokens_of_context(seen)
    terminal.wait_until(lambda seen: "tok/s now" in seen and tokens_of_context(seen) > tokens)


def modes(terminal: Terminal) -> dict[str, str]:
    """Return what programs switch on in a terminal, and must switch off."""
    names = ("alternate_on", "mouse_any_flag", "cursor_flag", "keypad_flag", "wrap_flag")
    return {name: terminal.value(name) for name in names}


def answer_a_newcomer(terminal: Terminal) -> None:
    """From the home place to an answer: two keys beside the question's own."""
    terminal.wait_for("● fits")
    terminal.press("Enter")
    terminal.wait_for("Ask something")
    terminal.enter("/set max_tokens 16")
    terminal.enter("hi")
    terminal.wait_for("Shall your conversations be kept?")
    terminal.press("Escape")
    terminal.wait_until(lambda seen: "Shall your" not in seen)


def stop_and_answer_again(terminal: Terminal) -> None:
    """Stop an answer, and begin a version of it."""
    terminal.enter("/set max_tokens none")
    terminal.enter(ENDLESS)
    terminal.enter(LONG)
    wait_for_writing(terminal)
    terminal.press("Escape")
    terminal.wait_for("stopped")
    terminal.press("C-r")
    wait_for_writing(terminal)


def look_elsewhere(terminal: Terminal) -> None:
    """See other places and other sizes, while it is written."""
    for key, shown in (
        ("F6", "licence"),
        ("F7", "not serving"),
        ("F8", "measured"),
        ("F9", "General"),
    ):
        terminal.press(key)
        terminal.wait_for(shown)
    terminal.press("F5")
    wait_for_writing(terminal)
    for columns, rows, shown in ((50, 40, "small"), (200, 60, "1 chat"), (20, 5, "small")):
        terminal.resize(columns, rows)
        terminal.wait_for(shown)
    terminal.resize(120, 40)
    wait_for_writing(terminal)


def kill_the_engine(terminal: Terminal) -> None:
    """Kill the engine; the text stays, and the chat goes on."""
    terminal.engine().kill()
    terminal.wait_for("The engine has ended")
    terminal.press("Enter")
    # What the new engine took is known; the status line may still be that of the old one.
    terminal.wait_until(lambda seen: re.search(r"all of it +\d+ MiB +\d", seen))
    terminal.wait_for("the engine stopped here")
    terminal.wait_for("‹2/2›")
    terminal.enter("And the crow?")
    wait_for_writing(terminal)


def suspend(terminal: Terminal, modes_before: dict[str, str]) -> None:
    """Go to the shell and back, while it is written."""
    terminal.app().send_signal(signal.SIGTSTP)
    terminal.wait_for("Stopped")
    assert modes(terminal) == modes_before
    terminal.command("fg")
    wait_for_writing(terminal)


def quit_app(terminal: Terminal) -> None:
    """Quit; it asks, because nothing is kept, and ends every process."""
    processes = terminal.processes()
    terminal.press("C-q")
    terminal.wait_for("Quit localllm?")
    terminal.press("Tab", "Enter")
    terminal.wait_for("READY>")
    _gone, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def test_a_session_from_the_first_key_to_the_shell(
    terminal: Terminal, smollm2: Path, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    modes_before = modes(terminal)
    terminal.enter(f"stty -a > {before}; {shlex.join(APP)}")
    answer_a_newcomer(terminal)
    stop_and_answer_again(terminal)
    look_elsewhere(terminal)
    kill_the_engine(terminal)
    suspend(terminal, modes_before)
    quit_app(terminal)
    terminal.enter(f"echo status $?; stty -a > {after}; echo stty $?")
    assert "status 0" in terminal.wait_for("stty 0")
    assert modes(terminal) == modes_before
    assert before.read_text() == after.read_text()
