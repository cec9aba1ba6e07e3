"""The app is killed while an answer is written: the encrypted conversation comes back, and nothing
readable was ever on the disk."""

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from localllm.chat.conversation import Conversation
from localllm.chat.history.history import History, HistoryChoice
from localllm.library.encryption.key_store import KeyStore
from localllm.library.files import paths
from tests.tui.terminal.tmux import APP, ENDLESS, Terminal

pytestmark = [
    pytest.mark.terminal,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]

ROUNDS = 4
SEED = 14
PASSPHRASE = "a passphrase of several words"
KEPT_WITHIN_S = 2.0
"""What was seen so long before the kill has to come back: what is written once a second, and what
a busy machine needs to draw and to write it."""


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A round: its question, and the words of the answer that were seen in time."""

    question: str
    seen: str


def history() -> History:
    return History(
        paths.conversations_dir(), KeyStore(paths.encryption_keys_file()), choice=HistoryChoice.DISK
    )


@pytest.fixture
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    paths.settings_file().write_text('history = "disk"\n')
    kept = history()
    kept.keys.create(PASSPHRASE)
    terminal = Terminal(f"test-{tmp_path_factory.getbasetemp().name}-kill")
    yield terminal
    terminal.close()


def answer_in(seen: str) -> str:
    """Return the words of the answer that is written, without its last line, which is growing."""
    lines = [line.split("│")[0].strip() for line in seen.splitlines()[3:-5]]
    begin = max((n for n, line in enumerate(lines) if line.startswith("›")), default=len(lines))
    text = [line for line in lines[begin + 1 :] if line]
    return " ".join(" ".join(text[:-1]).split())


def ask_and_kill(terminal: Terminal, question: str, after_s: float) -> Killed:
    """Start the app, ask, and kill it so long after the first words were seen."""
    terminal.command(*APP)
    terminal.wait_for("passphrase")
    terminal.type(PASSPHRASE)
    terminal.press("Enter")
    terminal.wait_until(lambda seen: "● fits" in seen and "passphrase" not in seen)
    terminal.press("Enter")
    terminal.wait_for("Ask something")
    terminal.enter(ENDLESS)
    terminal.enter(question)
    terminal.wait_until(answer_in)
    seen = [(time.monotonic(), answer_in(terminal.text()))]
    while (now_s := time.monotonic()) < seen[0][0] + after_s:
        seen.append((now_s, answer_in(terminal.text())))
        time.sleep(0.05)
    processes = terminal.processes()
    processes[0].kill()
    killed_s = time.monotonic()
    _gone, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, "an engine outlived its app"
    terminal.command("reset")
    terminal.wait_until(lambda seen: seen.rstrip().endswith("READY>"))
    in_time = [text for at_s, text in seen if at_s < killed_s - KEPT_WITHIN_S]
    return Killed(question=question, seen=in_time[-1] if in_time else "")


def test_the_conversation_comes_back_after_a_kill(terminal: Terminal) -> None:
    chance = random.Random(SEED)
    rounds = [
        ask_and_kill(terminal, f"Tell me a story of wombat{number}", chance.uniform(0.0, 4.0))
        for number in range(ROUNDS)
    ]
    files = {
        file: file.read_bytes()
        for name in (paths.data_dir(), paths.config_dir(), paths.cache_dir())
        for file in Path(name).rglob("*")
        if file.is_file()
    }
    for word in ("wombat", PASSPHRASE, *(each.seen[:24] for each in rounds if each.seen)):
        for file, content in files.items():
            for form in (word.encode(), word.encode("utf-16-le"), word.upper().encode()):
                assert form not in content, file
    kept = history()
    kept.unlock(PASSPHRASE)
    try:
        conversations = [kept.open(each.id) for each in kept.list()]
        assert not kept.problems()
    finally:
        kept.close()
    texts = {question_of(each): answer_of(each) for each in conversations}
    for each in rounds:
        assert each.seen in texts[each.question], each
    assert any(each.seen for each in rounds)


def question_of(conversation: Conversation) -> str:
    return conversation.path()[0].text


def answer_of(conversation: Conversation) -> str:
    """Return the words of the answer."""
    return " ".join("".join(each.text for each in conversation.path()[1:]).split())
