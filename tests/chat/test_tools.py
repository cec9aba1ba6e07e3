"""The local tools, and the loop that runs the calls of answers."""

import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.conversation import ChatMessage, Conversation, Ending
from localllm.chat.request import engine_messages
from localllm.chat.tools.arithmetic import calculate
from localllm.chat.tools.loop import AgentLoop, call_result, open_calls
from localllm.chat.tools.tool import Arguments, LocalTool
from localllm.chat.tools.toolbox import chosen_tools, local_tools
from localllm.engine.messages import GenerateRequest, Role, Tool, ToolCall
from localllm.engine.messages.validation import check_generate
from localllm.errors import UsageError

NOON = datetime.datetime(2026, 11, 30, 12, 0, tzinfo=datetime.UTC)


async def search(query: str, passages: int) -> str:
    return f"{passages} passages about {query}"


TOOLS = local_tools(now=lambda: NOON, search=search)


async def yes(tool: LocalTool, arguments: Arguments) -> bool:
    return True


async def no(tool: LocalTool, arguments: Arguments) -> bool:
    return False


async def call(name: str, **arguments: object) -> str:
    return await call_result(
        ToolCall(id="1", name=name, arguments=json.dumps(arguments)), TOOLS, yes
    )


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1+2*3", "7"), ("2^64", "18446744073709551616"), ("0.1+0.2", "0.3"), ("7/2", "3.5"),
     ("sqrt(2)^2", "2"), ("17 % 5", "2"),
     ("-3 \u2212 4 \u00d7 2 =", "-11"), ("round(2.567, 1)", "2.6"), ("round(5, -10**9)", "5"),
     ("factorial(5)", "120"), ("mean(1, 2, 3)", "2"), ("min(3, 2)", "2"), ("10 // 3", "3")],
)  # fmt: skip
def test_arithmetic(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "10**10000", "factorial(10**6)", "1/0", "__import__('os')",
     "(1).real", "[1]*10**9", "'a'*9", "lambda: 1", "1e308*10", "(-1)**0.5", "log(-1)", "True+1",
     "(" * 400, "1j", "", "x", "sum(a=1)", "gcd(1.5, 2)", "1" * 1001,
     "exp(1000)", "open('/etc/passwd')", "1 if 1 else 2", "2**4096*2**4096"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_expressions_that_cannot_be_calculated_are_refused_at_once(expression: str) -> None:
    with pytest.raises(UsageError):
        calculate(expression)


@given(st.text(alphabet="0123456789+-*/%^().,e pisqrt", max_size=40))
def test_any_expression_is_a_value_or_an_error(expression: str) -> None:
    try:
        assert calculate(expression)
    except UsageError as error:
        assert str(error)


async def test_the_tools_answer_with_a_text_whatever_the_model_wrote(tmp_path: Path) -> None:
    assert await call("calculator", expression="6*7") == "42"
    assert await call("date_time") == "Monday, 2026-11-30 12:00 UTC, week 49"
    assert "24 days until" in await call("date_time", date="2026-11-30", until="2026-12-24")
    assert "Friday, 2027-01-01" in await call("date_time", date="2026-12-31", add_days=1)
    assert "3 times" in await call("count_text", text="strawberry", find="r")
    assert await call("sort_lines", text="b\na\nb", unique="true") == "a\nb"
    assert await call("search_documents", query="clouds", passages=99) == "10 passages about clouds"
    file = tmp_path / "notes.txt"
    file.write_text("one\ntwo\x1b[2J\n")
    assert await call("read_file", path=str(file), from_line=2) == "two\n"
    for wrong in (
        await call("browser"),
        await call("calculator"),
        await call("calculator", expression=["1"]),
        await call("date_time", date="tomorrow"),
        await call("date_time", add_days=10**12),
        await call("read_file", path=str(tmp_path)),
        await call("read_file", path="\0"),
        await call_result(ToolCall(id="1", name="calculator", arguments="{"), TOOLS, yes),
        await call_result(ToolCall(id="1", name="calculator", arguments="[1]"), TOOLS, yes),
        await call_result(ToolCall(id="1", name="read_file", arguments="{}"), TOOLS, no),
    ):
        assert wrong.startswith("Error: "), wrong


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
async def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # type: ignore[attr-defined,unused-ignore]  # not on Windows
    assert (await call("read_file", path=str(pipe))).startswith("Error: ")


async def test_a_long_file_is_cut_where_the_model_can_read_on(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("".join(f"{n}\n" for n in range(10_000)))
    text = await call("read_file", path=str(file))
    assert "read on with from_line" in text
    assert len(text) < 20_000


def test_every_tool_is_one_that_the_engine_accepts() -> None:
    check_generate(
        GenerateRequest(
            request_id="1",
            messages=engine_messages(question("hi")),
            tools=tuple(each.definition for each in TOOLS),
        )
    )
    assert [each.name for each in chosen_tools(("calculator", "gone"), TOOLS)] == ["calculator"]


def question(text: str) -> Conversation:
    return Conversation().with_message(ChatMessage(role=Role.USER, text=text), after=None)


@dataclass
class Model:
    """Answers with the next of `calls` each time, then with a text."""

    calls: list[tuple[ToolCall, ...]]
    ending: Ending = Ending.COMPLETE
    offered: list[tuple[Tool, ...]] = field(default_factory=list)
    grown: list[Conversation] = field(default_factory=list)

    async def answer(self, conversation: Conversation, tools: tuple[Tool, ...]) -> Conversation:
        self.offered.append(tools)
        calls = self.calls.pop(0) if self.calls and tools else ()
        message = ChatMessage(
            role=Role.ASSISTANT,
            text="" if calls else "done",
            tool_calls=calls,
            ending=self.ending,
        )
        return conversation.with_message(message, after=conversation.leaf)

    async def changed(self, conversation: Conversation) -> None:
        self.grown.append(conversation)

    def loop(self, clock: Callable[[], float] = time.time) -> AgentLoop:
        return AgentLoop(
            tools=TOOLS,
            approve=yes,
            answer=self.answer,
            changed=self.changed,
            clock=clock,
            max_rounds=3,
        )


def sum_call(number: int) -> ToolCall:
    return ToolCall(id=f"c{number}", name="calculator", arguments='{"expression": "1+1"}')


async def test_calls_are_run_and_their_results_are_part_of_the_conversation() -> None:
    model = Model(calls=[(sum_call(1), sum_call(2))])
    end = await model.loop().run(question("What is 1+1?"))
    assert [(each.role, each.text) for each in end.path()] == [
        (Role.USER, "What is 1+1?"),
        (Role.ASSISTANT, ""),
        (Role.TOOL, "2"),
        (Role.TOOL, "2"),
        (Role.ASSISTANT, "done"),
    ]
    assert [each.tool_call_id for each in engine_messages(end)][2:4] == ["c1", "c2"]
    assert len(model.grown) == 2
    assert open_calls(end) == ()


async def test_a_model_that_calls_for_ever_has_to_answer_after_its_rounds() -> None:
    model = Model(calls=[(sum_call(n),) for n in range(100)])
    end = await model.loop().run(question("?"))
    assert end.path()[-1].text == "done"
    assert [bool(tools) for tools in model.offered] == [True, True, True, False]


async def test_only_so_many_calls_of_an_answer_are_run() -> None:
    model = Model(calls=[tuple(sum_call(n) for n in range(40))])
    end = await model.loop().run(question("?"))
    results = [each.text for each in end.path() if each.role is Role.TOOL]
    assert results.count("2") == 16
    assert len(results) == 40


async def test_a_stopped_answer_runs_no_call() -> None:
    model = Model(calls=[(sum_call(1),)], ending=Ending.STOPPED)
    end = await model.loop().run(question("?"))
    assert end.path()[-1].tool_calls == (sum_call(1),)
    assert model.grown == []
