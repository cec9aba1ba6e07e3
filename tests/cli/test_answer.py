"""The reasoning of a model is no part of its answer on the command line."""

from collections.abc import AsyncGenerator

import pytest

from localllm.chat.request import AnswerBuilder
from localllm.cli.chat.answer import AnswerWriter, read_answer
from localllm.engine.fake import FakeEngine, Script
from localllm.engine.messages import GenerateEvent
from tests.engine.answers import ask


def thoughtful() -> AsyncGenerator[GenerateEvent, None]:
    script = Script(tokens=("Yes", "."), reasoning=("Rain", "?"))
    return FakeEngine(script).generate(ask("a", "Is it raining?"))


def builder() -> AnswerBuilder:
    return AnswerBuilder(model="m", created_s=0.0)


async def test_reasoning_is_kept_apart_and_not_printed_into_a_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = await read_answer(thoughtful(), AnswerWriter(), builder())
    assert (answer.text, answer.reasoning) == ("Yes.", "Rain?")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("Yes.\n", "")


async def test_reasoning_is_dimmed_talk_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    await read_answer(thoughtful(), AnswerWriter(), builder())
    printed = capsys.readouterr()
    assert printed.out == "Yes.\n"
    assert printed.err.replace("\x1b[2m", "").replace("\x1b[0m", "") == "Rain?\n"
