"""The conversation of `run` on a terminal and of the accessible mode, with a scripted engine."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localllm.chat.commands.table import COMMANDS
from localllm.chat.conversation import Conversation, Ending
from localllm.chat.history.history import History, HistoryChoice
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.cli.chat.plain_chat import PlainChat
from localllm.cli.chat.session import ChatSession
from localllm.cli.chat.session_file import read_session
from localllm.engine.fake import Script
from localllm.engine.messages import Role, ToolCall
from localllm.errors import GenerationFailed
from localllm.library.encryption.key_store import KeyStore
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime
from tests.runtime.fake_machine import FakeMachine


class Typed(io.StringIO):
    """The lines of a person."""

    def __init__(self, lines: tuple[str | Callable[[], str], ...]) -> None:
        super().__init__()
        self._lines = iter(lines)

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # of bytes, there
        line = next(self._lines, None)
        if line is None:
            return ""
        return f"{line if isinstance(line, str) else line()}\n"


class Chat:
    """A chat whose person types the given lines; `screen` is all that was written."""

    def __init__(self, runtime: Runtime, runner: asyncio.Runner, script: Script) -> None:
        self.runtime, self.runner, self.script = runtime, runner, script
        self.loads: list[LoadChoice] = []
        self.history = History.in_memory()
        self.session = ChatSession(Conversation(settings=ChatSettings()), store=self.history)

    async def load(self, model: InstalledModel, choice: LoadChoice) -> ResidentModel:
        self.loads.append(choice)
        plan = await self.runtime.plan(model, choice)
        events = [event async for event in self.runtime.load(plan, force=True)]
        assert isinstance(events[-1], ResidentModel)
        return events[-1]

    def type(self, *lines: str | Callable[[], str]) -> str:
        """Hold a conversation of these lines, and return what was written. A function is called
        when its line is read."""
        screen, typed = io.StringIO(), Typed(lines)
        terminal = LineTerminal(source=typed, answers=screen)
        resident = self.runner.run(self.load(self.runtime.resolve("starter"), CHAT))
        client = ChatClient(self.runner, self.runtime, resident, self.session, notify=terminal.show)
        PlainChat(client, terminal, history=self.history, choice=CHAT, load=self.load).converse()
        return screen.getvalue()

    @property
    def branch(self) -> list[str]:
        return [each.text for each in self.session.conversation.path()]


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    script = Script()
    machine = FakeMachine(data_dir=tmp_path / "data", script=lambda: script)
    runtime = machine.runtime()
    with asyncio.Runner() as runner:
        yield Chat(runtime, runner, script)
        runner.run(runtime.close())


def test_again_and_edit_make_versions_and_nothing_is_lost(chat: Chat) -> None:
    screen = chat.type(
        "One?", "/again", "/edit Two?", "/version", "/version 1", "Three?", "/version 9"
    )
    assert "starter:\nHello, world." in screen
    assert "* 3. Hello, world." in screen
    assert "You: One?" in screen  # what /version 1 shows
    assert "Error: There are versions 1 to 1 of this answer." in screen
    assert chat.branch == ["One?", "Hello, world.", "Three?", "Hello, world."]
    assert len(chat.session.conversation.messages) == 7
    sent = chat.script.requests[-1].messages
    assert sent is not None
    assert [each.content for each in sent] == ["One?", "Hello, world.", "Three?"]


def test_settings_of_the_conversation_reach_the_model(chat: Chat) -> None:
    screen = chat.type(
        "/system Be brief.", "/set temp 0.2", "/think off", "/set temp 99", "/set context 1024",
        "Why?", "/title On why", "/info",
    )  # fmt: skip
    request = chat.script.requests[-1]
    assert request.messages is not None
    assert request.messages[0].content == "Be brief."
    assert (request.sampling.temperature, request.thinking.enabled) == (0.2, False)
    assert [each.context for each in chat.loads] == [None, 1024]
    assert "Error: temperature is '99'" in screen
    assert "of 1024 tokens of context are used." in screen
    assert chat.session.conversation.title == "On why"


def test_an_engine_that_ends_in_an_answer_costs_no_conversation(chat: Chat) -> None:
    chat.script.crash_after = 2
    screen = chat.type("One?")
    assert screen.count("Error: ") == 1
    _question, answer = chat.session.conversation.path()
    assert (answer.text, answer.ending) == ("Hello, ", Ending.BROKEN)
    chat.script.crash_after = None
    chat.script.generate_error = GenerationFailed("No room.")
    assert "Error: No room." in chat.type("/again")
    assert chat.branch == ["One?", "Hello, "]  # what was there is shown again
    chat.script.generate_error = None
    chat.type("/again")
    assert chat.branch == ["One?", "Hello, world."]


def test_files_go_with_the_next_question_and_are_cut(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "my notes.md").write_text("pear " * 30)
    (tmp_path / "long.txt").write_text("word " * 9000)
    screen = chat.type(
        f"/file {tmp_path}/my\\ notes.md",
        f"What about @{tmp_path}/long.txt? And @nobody.",
        "/file /no/such/file",
        "/image",
    )
    question = chat.session.conversation.path()[0]
    assert question.role is Role.USER
    assert [each.name for each in question.attachments] == ["my notes.md", "long.txt"]
    assert question.attachments[1].cut_tokens > 1000
    assert "my notes.md: " in screen
    assert "do not fit and are left out." in screen
    assert "Error: There is no file /no/such/file." in screen
    assert "Error: /image needs more behind it: /image PATH" in screen


def test_conversations_are_found_again_and_saved_where_one_says(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    (tmp_path / "taken").write_text("x")
    screen = chat.type(
        "First?", "/new", "Second?", "/chats", "/chats fir", "/chats 1", "/find hello",
        f"/save {tmp_path}/taken", f"/save {file}", "Third?", f"/export {tmp_path}/a.md",
        f"/export {tmp_path}/a.md", f"/export {tmp_path}/a.xyz",
    )  # fmt: skip
    assert "Third?" in (tmp_path / "a.md").read_text()
    assert screen.count("Written to ") == 1
    assert screen.count("1. First?") == 2
    assert "answer 1: Hello, world." in screen
    assert f"Error: There is a file {tmp_path}/taken already." in screen
    assert chat.branch == ["First?", "Hello, world.", "Third?", "Hello, world."]
    assert [each.text for each in read_session(file).path()] == chat.branch


def test_another_model_answers_from_the_next_question_on(chat: Chat, shallow_smollm2: Path) -> None:
    other = chat.runner.run(chat.runtime.adopt(shallow_smollm2)).name
    screen = chat.type("/model", f"/model {other}", "Who?", "/model nobody")
    assert "* starter" in screen
    assert f"{other} answers from here on." in screen
    assert f"{other}:\nHello, world." in screen
    assert chat.session.conversation.path()[-1].model == other
    assert [each.model.name for each in chat.runtime.resident()] == [other]
    assert "Error: No installed model is called 'nobody'." in screen


def test_a_model_calls_tools_and_a_person_allows_what_reads_files(
    chat: Chat, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("pear")
    script = chat.script
    script.calls = (
        ToolCall(id="a", name="calculator", arguments='{"expression": "6*7"}'),
        ToolCall(id="b", name="read_file", arguments=json.dumps({"path": f"{tmp_path}/notes.txt"})),
    )

    def allow() -> str:
        script.calls = ()
        return "yes"

    screen = chat.type("/tools calculator read_file", "What?", allow, "/again")
    assert "Tool calculator: 42" in screen
    assert "The model wants read_file(" in screen
    assert "Tool read_file: pear" in screen
    roles = [each.role.value for each in chat.session.conversation.path()]
    assert roles == ["user", "assistant"]  # /again needed no tool any more
    offered = [len(each.tools) for each in script.requests]
    assert offered == [2, 2, 2]


def test_prompts_are_filled_in_and_put_where_they_can_be_changed(chat: Chat) -> None:
    screen = chat.type("/prompt", "/prompt explain", "rain", "", "")
    assert "explain" in screen
    assert "reader: (Enter: a curious beginner)" in screen
    assert chat.branch[0] == "Explain rain to a curious beginner, with one example."


def test_conversations_are_kept_where_the_person_has_chosen(chat: Chat, tmp_path: Path) -> None:
    def history() -> History:
        return History(tmp_path / "chats", KeyStore(tmp_path / "keys"), choice=HistoryChoice.DISK)

    first = history()
    first.choose(HistoryChoice.DISK, "correct horse")
    chat.history = chat.session.store = first
    assert "It is kept encrypted on this disk" in chat.type("My pear?", "/save")
    assert first.close()
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"pear" not in left
    chat.history = second = history()
    chat.session = ChatSession(Conversation(), store=second)
    screen = chat.type("/info", "/chats", "correct horse", "/chats 1", "And now?")
    assert "until a passphrase opens what you keep" in screen
    assert "1. My pear?" in screen
    assert chat.branch == ["My pear?", "Hello, world.", "And now?", "Hello, world."]
    assert second.close()


def test_help_lists_what_works_here_and_a_slash_is_no_question(chat: Chat) -> None:
    screen = chat.type("/help", "/nosuch", "//etc", "/quit", "never read")
    for command in COMMANDS:
        works = hasattr(PlainChat, command.method) and command.name != "copy"
        assert (f"/{command.name} " in screen) is works
    assert "There is no command /nosuch." in screen
    assert chat.branch == ["/etc", "Hello, world."]
