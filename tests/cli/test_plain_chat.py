"""The conversation of `run` on a terminal and of the accessible mode, with a scripted engine."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.chat.commands.table import COMMANDS
from localllm.chat.conversation import Conversation, Ending
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.client import ChatClient
from localllm.cli.chat.line_terminal import LineTerminal
from localllm.cli.chat.plain_chat import PlainChat
from localllm.cli.chat.session import ChatSession
from localllm.cli.chat.session_file import read_session
from localllm.engine.fake import Script
from localllm.engine.messages import Role
from localllm.errors import GenerationFailed
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime
from tests.runtime.fake_machine import FakeMachine


class Chat:
    """A chat whose person types the given lines; `screen` is all that was written."""

    def __init__(self, runtime: Runtime, runner: asyncio.Runner, script: Script) -> None:
        self.runtime, self.runner, self.script = runtime, runner, script
        self.loads: list[LoadChoice] = []
        self.session = ChatSession(Conversation(settings=ChatSettings()))

    async def load(self, model: InstalledModel, choice: LoadChoice) -> ResidentModel:
        self.loads.append(choice)
        plan = await self.runtime.plan(model, choice)
        events = [event async for event in self.runtime.load(plan, force=True)]
        assert isinstance(events[-1], ResidentModel)
        return events[-1]

    def type(self, *lines: str) -> str:
        """Hold a conversation of these lines, and return what was written."""
        screen = io.StringIO()
        terminal = LineTerminal(
            source=io.StringIO("".join(f"{e}\n" for e in lines)), answers=screen
        )
        resident = self.runner.run(self.load(self.runtime.resolve("starter"), CHAT))
        client = ChatClient(self.runner, self.runtime, resident, self.session, notify=terminal.show)
        PlainChat(client, terminal, choice=CHAT, load=self.load).converse()
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
        f"/save {tmp_path}/taken", f"/save {file}", "Third?",
    )  # fmt: skip
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


def test_help_lists_what_works_here_and_a_slash_is_no_question(chat: Chat) -> None:
    screen = chat.type("/help", "/nosuch", "//etc", "/quit", "never read")
    for command in COMMANDS:
        assert (f"/{command.name} " in screen) is hasattr(PlainChat, command.method)
    assert "There is no command /nosuch." in screen
    assert chat.branch == ["/etc", "Hello, world."]
