"""`run --session`: a conversation goes on where it was, and its cells with it."""

import json
import os
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from localllm.chat.conversation import Attachment, ChatMessage, Conversation
from localllm.chat.request import engine_messages
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.session import open_session
from localllm.cli.chat.session_file import left_out_of, read_session, write_session
from localllm.engine.messages import Role
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
            screen.until(b"You: ")
            screen.type(b"My name is Ada. I live by the sea. Who are you?\n")
            screen.until(b"decode")
            screen.until(b"You: ")
            screen.type(b"\x04")
            screen.until(b"kept ")
            assert process.wait(60) == 0
    assert len(json.loads(Path(file).read_bytes())["messages"]) == 4
    with terminal(command) as (process, screen):
        screen.until(b"4 messages")
        screen.until(b"You: ")
        screen.type(b"/new\n")
        screen.until(b"You: ")
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
        (b'{"localllm_session": 3, "messages": []}', b"another version"),
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
    with open_session(file, settings_given=ChatSettings(), cached=True):
        done = run("starter", "Hello", *KEPT, "--session", str(file))
    assert done.returncode == 1
    assert b"is open in another localllm" in done.stderr


# --- without an engine ---


def message(role: Role, text: str, **more: Any) -> ChatMessage:
    return ChatMessage(role=role, text=text, **more)


def talk(*texts: str) -> Conversation:
    """Questions and answers in turn."""
    conversation = Conversation(settings=ChatSettings(system="s"))
    for index, text in enumerate(texts):
        role = Role.ASSISTANT if index % 2 else Role.USER
        conversation = conversation.with_message(message(role, text), after=conversation.leaf)
    return conversation


def texts(conversation: Conversation) -> list[str]:
    return [each.text for each in conversation.path()]


def test_a_plain_conversation_is_written_as_older_programs_read_it(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    written = talk('"\n\x00é\u2028', "ja", "b", "c", "never answered")
    last = replace(written.path()[3], left_out=1, reasoning="hm")
    write_session(file, written.with_changed(last))
    document = json.loads(file.read_bytes())
    assert document["localllm_session"] == 1
    assert document["left_out"] == 2
    assert [each["content"] for each in document["messages"]] == ['"\n\x00é\u2028', "ja", "b", "c"]
    read = read_session(file)
    assert texts(read) == ['"\n\x00é\u2028', "ja", "b", "c"]
    assert read.settings.system == "s"
    assert (read.path()[3].reasoning, left_out_of(read)) == ("hm", 1)
    assert [each.content for each in engine_messages(read, left_out=1)] == ["s", "b", "c"]


def test_what_a_list_cannot_hold_is_written_as_a_tree_and_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    versions = talk("a", "b").with_message(message(Role.ASSISTANT, "c"), after=talk().leaf)
    with_file = talk("a", "b").with_message(
        message(
            Role.USER,
            "see",
            attachments=(Attachment(name="x.png", media_type="image/png", data=b"\x89\xff"),),
        ),
        after=None,
    )
    for conversation in (versions, with_file, replace(talk("a", "b"), title="On a")):
        write_session(file, conversation)
        assert json.loads(file.read_bytes())["localllm_session"] == 2
        assert read_session(file) == conversation


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.update(leaf="nobody"),
        lambda tree: tree["messages"][0].update(parent=tree["messages"][1]["id"]),
        lambda tree: tree["messages"].append(tree["messages"][0]),
        lambda tree: tree["messages"][0].update(role="judge"),
        lambda tree: tree.pop("messages"),
    ],
)
def test_a_tree_that_was_changed_by_hand_is_refused_and_stays(
    damage: Callable[[Any], object], tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    write_session(file, replace(talk("a", "b"), title="t"))
    document = json.loads(file.read_bytes())
    damage(document["conversation"])
    file.write_text(json.dumps(document))
    before = file.read_bytes()
    with pytest.raises(UsageError, match="stays as it is"):
        read_session(file)
    assert file.read_bytes() == before


def test_the_system_prompt_of_the_command_line_comes_before_the_files(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    write_session(file, talk("a", "b"))
    for given, expected in (("", "s"), ("another", "another")):
        settings = ChatSettings(system=given, max_tokens=5)
        with open_session(file, settings_given=settings, cached=False) as session:
            assert session.conversation.settings.system == expected
            assert session.conversation.settings.max_tokens == 5
            session.save()
    assert json.loads(file.read_bytes())["system"] == "another"


def test_a_session_that_cannot_be_written_is_an_error_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    file = tmp_path / "place" / "chat.json"
    with open_session(file, settings_given=ChatSettings(), cached=False) as session:
        os.rmdir(tmp_path / "place")  # noqa: PTH106
        session.conversation = talk("a", "b")
        with pytest.raises(StoreError, match="cannot be written"):
            session.save()
        assert texts(session.conversation) == ["a", "b"]


def test_a_named_pipe_is_no_session(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a session"):
        read_session(tmp_path / "pipe")
