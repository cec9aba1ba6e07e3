"""The conversation: streamed answers, the meter, stopping, starting over."""

import asyncio
from functools import partial

import pytest
from textual.widgets import Digits, Markdown

from localllm.engine.messages import Message, Overflow, Role
from localllm.errors import ContextOverflow, GenerationFailed
from localllm.tui.conversation import Ending
from localllm.tui.messages import QuestionSent
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.home import HomeScreen
from localllm.tui.widgets.labels import Bar
from localllm.tui.widgets.prompt import Prompt
from localllm.tui.widgets.transcript import TurnView
from tests.tui.acts import (
    ask,
    ask_and_hear,
    begin_answer,
    chat,
    open_chat,
    reaches,
    sees,
    shown,
    until,
    wrote,
)
from tests.tui.made_up import MIB, Stage


def answer(screen: ChatScreen) -> str:
    return screen.query(Markdown).last().source


async def test_the_answer_comes_as_it_is_written(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        gate = await begin_answer(stage, pilot, "hi there")
        assert "world" not in shown(app)
        for _ in range(3):
            gate.release()
        await until(pilot, lambda: not chat(app).answering)
        assert answer(chat(app)) == "Hello, world."
        assert "hi there" in shown(app)


async def test_the_model_is_told_the_whole_conversation(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        for question in ("one", "two"):
            await ask_and_hear(pilot, question)
    assert stage.script.requests[1].messages == (
        Message(role=Role.USER, content="one"),
        Message(role=Role.ASSISTANT, content="Hello, world."),
        Message(role=Role.USER, content="two"),
    )


async def test_what_a_model_thinks_is_shown_small_until_it_answers(stage: Stage) -> None:
    stage.script.reasoning = ("Is it [/red]", " rain\x1b[2J?")
    app = stage.app()
    gate = stage.script.gate = asyncio.Semaphore(0)
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask(pilot, "hi")
        await sees(pilot, "thinking… Is it [/red] rain")
        for _ in range(4):
            gate.release()
        await until(pilot, lambda: not chat(app).answering)
        assert answer(chat(app)) == "Hello, world."
        assert "thinking" not in shown(app)
        assert "rain" not in shown(app)


async def test_escape_stops_the_answer_and_its_text_stays(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin_answer(stage, pilot, "hi")
        await pilot.press("escape")
        await until(pilot, lambda: not chat(app).answering)
        await sees(pilot, "stopped")
        assert stage.script.cancelled == [stage.script.requests[0].request_id]
        assert answer(chat(app)).startswith("Hello")
        assert chat(app).conversation.turns[0].ending is Ending.STOPPED
        assert app.runtime.resident() != ()


async def test_a_second_question_waits_in_the_prompt_until_the_answer_is_there(
    stage: Stage,
) -> None:
    gate = stage.script.gate = asyncio.Semaphore(0)
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask(pilot, "one")
        await until(pilot, lambda: bool(stage.script.requests))
        await ask(pilot, "two")
        await until(pilot, lambda: chat(app).query_one(Prompt).text == "two")
        assert len(stage.script.requests) == 1
        for _ in stage.script.tokens:
            gate.release()
        await until(pilot, lambda: not chat(app).answering)


async def test_an_answer_without_a_letter_ends_like_any_other(stage: Stage) -> None:
    stage.script.tokens = ("", "\x1b", "")
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask_and_hear(pilot, "hi")
        assert not chat(app).answering
        await ask_and_hear(pilot, "again")


async def test_ctrl_j_adds_a_line_and_enter_sends_them_all(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        one = chat(app).query_one(Prompt).size.height
        await pilot.press("a", "ctrl+j", "b", "shift+enter", "c")
        await pilot.pause()
        assert chat(app).query_one(Prompt).size.height == one + 2
        await pilot.press("enter")
        await until(pilot, lambda: bool(stage.script.requests))
        messages = stage.script.requests[0].messages
        assert messages is not None
        assert messages[-1].content == "a\nb\nc"
        assert chat(app).query_one(Prompt).text == ""


async def test_an_empty_question_is_not_sent(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("space", "enter", "enter")
        await pilot.pause()
        assert stage.script.requests == []


async def test_a_new_chat_forgets_and_stops_what_is_being_written(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin_answer(stage, pilot, "hi")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not chat(app).query(TurnView))
        await until(pilot, lambda: not chat(app).answering)
        assert chat(app).conversation.turns == ()
        assert "Ask something." in shown(app)
        assert stage.script.closed.get_nowait() == stage.script.requests[0].request_id


async def test_the_conversation_is_there_again_after_a_look_at_the_models(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask_and_hear(pilot, "remember me")
        await pilot.press("ctrl+o")
        await reaches(pilot, HomeScreen)
        await open_chat(pilot)
        await until(pilot, lambda: "remember me" in shown(app) and "Hello, world." in shown(app))


async def test_leaving_while_it_answers_keeps_what_was_written(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin_answer(stage, pilot, "hi")
        await pilot.press("ctrl+o")
        await reaches(pilot, HomeScreen)
        await open_chat(pilot)
        await until(pilot, lambda: "Hello" in shown(app) and "stopped" in shown(app))


async def test_ask_again_replaces_the_last_answer(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask_and_hear(pilot, "hi")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(stage.script.requests) == 2)
        await until(pilot, lambda: not chat(app).answering)
        assert len(chat(app).query(TurnView)) == 1
        assert len(chat(app).conversation.turns) == 1
        assert stage.script.requests[0].messages == stage.script.requests[1].messages


async def test_ask_again_twice_asks_once(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask_and_hear(pilot, "hi")
        await until(pilot, lambda: not chat(app).answering)
        await asyncio.gather(chat(app).action_again(), chat(app).action_again())
        await until(pilot, lambda: len(chat(app).conversation.turns) == 1)
        assert len(stage.script.requests) == 2


async def test_two_questions_in_the_same_moment_are_one_answer(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        chat(app).post_message(QuestionSent("one"))
        chat(app).post_message(QuestionSent("two"))
        await until(pilot, lambda: len(chat(app).conversation.turns) == 1)
        assert chat(app).query_one(Prompt).text == "two"


async def test_a_new_chat_in_the_moment_of_asking_leaves_nothing_behind(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        chat(app).post_message(QuestionSent("one"))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not chat(app).answering and not chat(app).query(TurnView))
        await ask_and_hear(pilot, "two")
        assert chat(app).conversation.turns[0].question == "two"


@pytest.mark.parametrize(
    "error",
    [ContextOverflow("5000 tokens do not fit 4096 [/INST]"), GenerationFailed("no [bold] slot")],
)
async def test_a_failed_request_is_said_plainly_and_the_question_comes_back(
    stage: Stage, error: GenerationFailed
) -> None:
    stage.script.generate_error = error
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask(pilot, "a long question")
        await sees(pilot, str(error))
        assert chat(app).query_one(Prompt).text == "a long question"
        stage.script.generate_error = None
        await pilot.press("enter")
        await sees(pilot, "Hello, world.")
        assert len(chat(app).query(TurnView)) == 1  # the failed one made room


async def test_the_meter_shows_the_rate_of_now_and_then_what_the_engine_measured(
    stage: Stage,
) -> None:
    gate = stage.script.gate = asyncio.Semaphore(0)
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask(pilot, "hi")
        for token in stage.script.tokens[:3]:
            stage.clock.now_s += 0.125
            gate.release()
            await until(pilot, partial(wrote, chat(app), token))
        await until(pilot, lambda: chat(app).query_one("#rate", Digits).value == "8.0")
        assert "average 8.0 tok/s · first 125 ms" in shown(app)
        gate.release()
        await until(pilot, lambda: not chat(app).answering)
        await until(pilot, lambda: chat(app).query_one("#rate", Digits).value == "40.0")
        assert "average 40.0 tok/s · first 250 ms" in shown(app)


async def test_the_meter_shows_the_context_and_the_memory_of_the_engine(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask(pilot, "three words here")
        await sees(pilot, "7 of 4096 tokens")
        assert "engine 210 MiB" in shown(app)
        assert chat(app).query_one("#context-bar", Bar).fraction == pytest.approx(7 / 4096)


async def test_estimate_and_reality_are_side_by_side(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("f2")
        await sees(pilot, "Memory of starter")
        row = next(line for line in shown(app).splitlines() if "KV cache" in line)
        assert row.split("KV cache")[1].split()[2:4] == ["90.0", "MiB"]
        assert "dry run" not in shown(app)  # it fits so well that nobody was asked
        await sees(pilot, "cache and computing: estimated")
        await pilot.press("f2")
        await reaches(pilot, ChatScreen)


async def test_the_dry_run_stands_between_them_where_llama_cpp_was_asked(stage: Stage) -> None:
    stage.available_bytes = 300 * MIB  # near enough to what it needs to ask
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        assert len(stage.script.probes) == 1
        await pilot.press("f2")
        await sees(pilot, "dry run")
        row = next(line for line in shown(app).splitlines() if "KV cache" in line)
        numbers = row.split("KV cache")[-1].split()
        assert numbers[1:6:2] == ["MiB"] * 3
        weights = next(line for line in shown(app).splitlines() if "weights" in line)
        assert weights.split("weights")[-1].split()[2] == "-"  # a dry run allocates none


async def test_links_in_an_answer_are_shown_and_not_opened(stage: Stage) -> None:
    opened: list[str] = []
    stage.script.tokens = ("[click](http://127.0.0.1/[/x])",)
    app = stage.app()
    app.open_url = lambda url, *, new_tab=True: opened.append(url)  # type: ignore[method-assign]
    async with app.run_test(notifications=True) as pilot:
        await open_chat(pilot)
        await ask_and_hear(pilot, "hi")
        markdown = chat(app).query(Markdown).last()
        markdown.post_message(Markdown.LinkClicked(markdown, "http://127.0.0.1/[/x]"))
        await sees(pilot, "Links are not opened")
        assert "http://127.0.0.1/[/x]" in shown(app)
    assert opened == []


async def test_quitting_while_it_answers_ends_the_engine(stage: Stage) -> None:
    stage.script.gate = asyncio.Semaphore(0)
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask(pilot, "hi")
        await until(pilot, lambda: bool(stage.script.requests))
        assert stage.engine.alive
        await pilot.press("ctrl+q")
    assert app.return_code == 0
    assert all(not engine.alive for engine in stage.engines)


async def test_what_was_left_out_of_a_long_conversation_is_said_under_the_answer(
    stage: Stage,
) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await ask_and_hear(pilot, "one")
        assert stage.script.requests[0].overflow is Overflow.ROLL
        stage.script.dropped_messages = 4
        await ask_and_hear(pilot, "two")
        await sees(pilot, "2 earlier turns were left out")
        assert chat(app).conversation.turns[1].left_out == 2
        assert len(chat(app).conversation.turns) == 2
