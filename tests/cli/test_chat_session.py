"""`run --session`: a conversation goes on where it was, and its cells with it."""

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from localllm.cli.answer import Answer
from localllm.cli.chat_session import ChatSession, Conversation, open_session
from localllm.engine.messages import Finished, FinishReason, Message, Role, Timings
from localllm.errors import StoreError, UsageError
from tests.cli.test_run import GREEDY, LOCALLLM, run, terminal

KEPT = ["--max-tokens", "12", *GREEDY]


class RunTurn(Protocol):
    def __call__(
        self, session: Path, question: str, *more: str
    ) -> subprocess.CompletedProcess[bytes]: ...


@pytest.fixture
def run_turn(shallow_smollm2: Path) -> RunTurn:
    """One turn of a session, in a process of its own."""

    def turn(session: Path, question: str, *more: str) -> subprocess.CompletedProcess[bytes]:
        given = (*KEPT, "--stats", "--session", str(session), *more)
        return run(str(shallow_smollm2), question, *given)

    return turn


def cells(home: Path) -> list[Path]:
    return sorted((home / "cache" / "states").glob("*.cells"))


def test_a_conversation_goes_on_in_another_process(
    run_turn: RunTurn, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    story = "My name is Ada and I live in a house by the sea. " * 4
    first = run_turn(file, story + "Say hello.")
    assert first.returncode == 0, first.stderr
    assert b"restored" not in first.stderr
    assert b"kept " in first.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (stored_state,) = cells(home)
    second = run_turn(file, "What is my name?", "--json")
    document = json.loads(second.stdout)
    restored = document["session"]["restored_tokens"]
    assert restored > 50
    assert f"restored {restored:,} tokens".encode() in second.stderr
    assert document["usage"]["cached_tokens"] == restored
    assert json.loads(file.read_bytes())["messages"][2]["content"] == "What is my name?"
    stored_state.unlink()
    without = run_turn(file, "And where do I live?")
    assert b"nothing restored" in without.stderr
    assert without.returncode == 0


def test_the_answer_is_the_same_with_and_without_the_cells(
    run_turn: RunTurn, home: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert run_turn(one, "Tell me about the sea.").returncode == 0
    two.write_bytes(one.read_bytes())
    with_cells = run_turn(one, "And the sky?")
    off = run_turn(two, "And the sky?", "--no-session-cache")
    assert b"restored" in with_cells.stderr
    assert b"the session cache is off" in off.stderr
    assert with_cells.stdout == off.stdout
    assert one.read_bytes() == two.read_bytes()
    assert len(cells(home)) == 1


def test_damaged_cells_are_no_obstacle(run_turn: RunTurn, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    run_turn(file, "Tell me about the sea.")
    (stored_state,) = cells(home)
    content = bytearray(stored_state.read_bytes())
    content[len(content) // 2] ^= 1
    stored_state.write_bytes(content)
    done = run_turn(file, "And the sky?")
    assert done.returncode == 0
    assert b"nothing restored: The file of cells is damaged" in done.stderr
    assert b"kept" in done.stderr


def test_the_cache_can_be_switched_off_in_the_settings(
    run_turn: RunTurn, home: Path, tmp_path: Path
) -> None:
    (home / "config" / "settings.toml").write_text("session_cache_bytes = 0\n")
    assert run_turn(tmp_path / "chat.json", "Hello.").returncode == 0
    assert not (home / "cache" / "states").exists()


def test_more_than_the_cache_may_hold_is_not_kept(
    run_turn: RunTurn, home: Path, tmp_path: Path
) -> None:
    (home / "config" / "settings.toml").write_text("session_cache_bytes = 1000\n")
    done = run_turn(tmp_path / "chat.json", "Hello.")
    assert done.returncode == 0
    assert b"at most 1000 B are kept" in done.stderr
    assert cells(home) == []


def test_a_conversation_on_a_terminal_is_gone_on_with(
    shallow_smollm2: Path, home: Path, tmp_path: Path
) -> None:
    file = str(tmp_path / "chat.json")
    command = [*LOCALLLM, "run", str(shallow_smollm2), *KEPT, "--stats", "--session", file]
    for greeting in (b"Ctrl+D leaves", b"Going on with"):
        with terminal(command) as (process, screen):
            screen.until(greeting)
            screen.until(b"> ")
            screen.type(b"My name is Ada. I live by the sea. Who are you?\n")
            screen.until(b"decode")
            screen.until(b"> ")
            screen.type(b"\x04")
            screen.until(b"kept ")
            assert process.wait(60) == 0
    assert len(json.loads(Path(file).read_bytes())["messages"]) == 4
    with terminal(command) as (process, screen):
        screen.until(b"4 messages")
        screen.until(b"> ")
        screen.type(b"/new\n")
        screen.until(b"> ")
        screen.type(b"\x04")
        assert process.wait(60) == 0
    assert json.loads(Path(file).read_bytes())["messages"] == []


def test_a_session_outgrows_the_context_and_says_so(run_turn: RunTurn, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    long = "The cat sat on the mat and looked at the moon. " * 12
    outputs = [run_turn(file, f"{i}: {long}", "--system", "You are brief.") for i in range(5)]
    assert [done.returncode for done in outputs] == [0] * 5
    assert any(b"left out: the context has no more room" in done.stderr for done in outputs)
    stored_state = json.loads(file.read_bytes())
    assert len(stored_state["messages"]) == 10
    assert 0 < stored_state["left_out"] < 10
    assert stored_state["system"] == "You are brief."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", b"not a session"),
        (b"# my notes\n", b"not a session"),
        (b'{"localllm_session": 1}', b"not a session"),
        (b'{"localllm_session": 2, "messages": []}', b"another version"),
        (b'{"localllm_session": 1, "messages": [], "left_out": 4}', b"another version"),
        (b'{"localllm_session": 1, "messages": [{"role": "x", "content": ""}]}', b"not a session"),
        (b"[" * 100_000, b"not a session"),
        (b"\xff\xfe", b"not a session"),
    ],
)
def test_a_file_that_is_no_session_is_refused_and_stays(
    tmp_path: Path, content: bytes, message: bytes
) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    done = run("starter", "Hello", *KEPT, "--session", str(file))
    assert done.returncode == 2
    assert message in done.stderr
    assert b"Traceback" not in done.stderr
    assert file.read_bytes() == content


def test_a_session_in_no_directory_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    done = run("starter", "Hello", "--session", str(tmp_path / "none" / "chat.json"))
    assert done.returncode == 2
    assert b"no directory" in done.stderr
    done = run("starter", "Hello", "--session", str(tmp_path))
    assert done.returncode == 1
    assert b"cannot be read" in done.stderr


def test_a_session_that_is_open_elsewhere_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    with open_session(file, system=None, cached=True):
        done = run("starter", "Hello", *KEPT, "--session", str(file))
    assert done.returncode == 1
    assert b"is open in another localllm" in done.stderr


# --- without an engine ---


def answer(text: str, dropped: int = 0, warnings: tuple[str, ...] = ()) -> Answer:
    timings = Timings(queue_s=0, ttft_s=None, total_s=0, prefill_tps=None, decode_tps=None)
    return Answer(
        text=text,
        finished=Finished(
            request_id="a",
            reason=FinishReason.STOP,
            prompt_tokens=1,
            completion_tokens=1,
            cached_tokens=0,
            timings=timings,
            dropped_messages=dropped,
            warnings=warnings,
        ),
    )


def user(text: str) -> Message:
    return Message(role=Role.USER, content=text)


def test_what_was_left_out_once_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    session = ChatSession(Conversation(system="brief"))
    for number in range(4):
        session.add_turn(user(str(number)), answer("yes", dropped=4 if number == 3 else 0))
    sent = session.conversation.sent_messages()
    assert [message.content for message in sent] == ["2", "yes", "3", "yes"]
    assert len(session.conversation.messages) == 8
    assert "2 earlier turns were left out" in capsys.readouterr().err


def test_a_warning_that_comes_with_every_turn_is_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = ChatSession(Conversation(system="brief"))
    for warnings in (("joined",), ("joined",), ("joined", "moved")):
        session.add_turn(user("q"), answer("yes", warnings=warnings))
    assert capsys.readouterr().err.splitlines() == ["joined", "moved"]


def test_a_question_without_an_answer_is_not_part_of_it() -> None:
    session = ChatSession(Conversation())
    session.add_turn(user("one"), answer(""))
    session.add_turn(user("two"), Answer(text="", finished=None))
    session.add_turn(user("three"), Answer(text="so f", finished=None))
    assert [message.content for message in session.conversation.messages] == ["three", "so f"]


def test_a_session_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    with open_session(file, system="s", cached=False) as session:
        session.add_turn(user('"\n\x00é\u2028'), answer("ja"))
        written = session.conversation
    with open_session(file, system=None, cached=False) as session:
        assert session.conversation == written
    with open_session(file, system="another", cached=False) as session:
        assert session.conversation.system == "another"
        session.save()
    assert json.loads(file.read_bytes())["system"] == "another"


def test_a_session_that_cannot_be_written_is_an_error_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    with open_session(tmp_path / "place" / "chat.json", system=None, cached=False) as session:
        os.rmdir(tmp_path / "place")  # noqa: PTH106
        with pytest.raises(StoreError, match="cannot be written"):
            session.add_turn(user("a"), answer("b"))
        assert len(session.conversation.messages) == 2


def test_a_named_pipe_is_no_session(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(UsageError, match="not a session"),
        open_session(tmp_path / "pipe", system=None, cached=False),
    ):
        pass
