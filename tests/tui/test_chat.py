"""The conversation: streamed answers, the meter, stopping, starting over."""

import asyncio
from functools import partial

import pytest
from textual.widgets import Digits, Markdown

from localllm.engine.messages import Effort, Message, Overflow, Role, Thinking
from localllm.errors import ContextOverflow, GenerationFailed
from localllm.library.files.settings import Settings
from localllm.tui.conversation import Ending
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.widgets.labels import Bar
from localllm.tui.widgets.prompt import Prompt, QuestionSent
from localllm.tui.widgets.transcript import TurnView
from tests.tui.actions import (
    answer_ends_with,
    begin_answer,
    chat_screen,
    open_chat,
    screen_text,
    send_and_wait,
    send_question,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fixtures import MIB, AppFixture


def answer(screen: ChatScreen) -> str:
    return screen.query(Markdown).last().source


@pytest.mark.smoke
async def test_the_answer_comes_as_it_is_written(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        gate = await begin_answer(app_fixture, pilot, "hi there")
        assert "world" not in screen_text(app)
        for _ in range(3):
            gate.release()
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        assert answer(chat_screen(app)) == "Hello, world."
        assert "hi there" in screen_text(app)


async def test_the_model_is_told_the_whole_conversation(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        for question in ("one", "two"):
            await send_and_wait(pilot, question)
    assert app_fixture.script.requests[1].messages == (
        Message(role=Role.USER, content="one"),
        Message(role=Role.ASSISTANT, content="Hello, world."),
        Message(role=Role.USER, content="two"),
    )


async def test_what_a_model_thinks_is_shown_small_until_it_answers(app_fixture: AppFixture) -> None:
    app_fixture.script.reasoning = ("Is it [/red]", " rain\x1b[2J?")
    app = app_fixture.app()
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "hi")
        await wait_for_text(pilot, "thinking… Is it [/red] rain")
        for _ in range(4):
            gate.release()
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        assert answer(chat_screen(app)) == "Hello, world."
        assert "thinking" not in screen_text(app)
        assert "rain" not in screen_text(app)


@pytest.mark.smoke
async def test_escape_stops_the_answer_and_its_text_stays(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        await pilot.press("escape")
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        await wait_for_text(pilot, "stopped")
        assert app_fixture.script.cancelled == [app_fixture.script.requests[0].request_id]
        assert answer(chat_screen(app)).startswith("Hello")
        assert chat_screen(app).conversation.turns[0].ending is Ending.STOPPED
        assert app.services.runtime.resident() != ()


async def test_a_second_question_waits_in_the_prompt_until_the_answer_is_there(
    app_fixture: AppFixture,
) -> None:
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "one")
        await wait_until(pilot, lambda: bool(app_fixture.script.requests))
        await send_question(pilot, "two")
        await wait_until(pilot, lambda: chat_screen(app).query_one(Prompt).text == "two")
        assert len(app_fixture.script.requests) == 1
        for _ in app_fixture.script.tokens:
            gate.release()
        await wait_until(pilot, lambda: not chat_screen(app).answering)


async def test_an_answer_without_a_letter_ends_like_any_other(app_fixture: AppFixture) -> None:
    app_fixture.script.tokens = ("", "\x1b", "")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        assert not chat_screen(app).answering
        await send_and_wait(pilot, "again")


async def test_ctrl_j_adds_a_line_and_enter_sends_them_all(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        one = chat_screen(app).query_one(Prompt).size.height
        await pilot.press("a", "ctrl+j", "b", "shift+enter", "c")
        await pilot.pause()
        assert chat_screen(app).query_one(Prompt).size.height == one + 2
        await pilot.press("enter")
        await wait_until(pilot, lambda: bool(app_fixture.script.requests))
        messages = app_fixture.script.requests[0].messages
        assert messages is not None
        assert messages[-1].content == "a\nb\nc"
        assert chat_screen(app).query_one(Prompt).text == ""


async def test_an_empty_question_is_not_sent(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("space", "enter", "enter")
        await pilot.pause()
        assert app_fixture.script.requests == []


async def test_a_new_chat_forgets_and_stops_what_is_being_written(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not chat_screen(app).query(TurnView))
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        assert chat_screen(app).conversation.turns == ()
        assert "Ask something." in screen_text(app)
        assert app_fixture.script.closed.get_nowait() == app_fixture.script.requests[0].request_id


async def test_the_conversation_is_there_again_after_a_look_at_the_models(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "remember me")
        await pilot.press("ctrl+o")
        await wait_for_screen(pilot, HomeScreen)
        await open_chat(pilot)
        await wait_until(
            pilot, lambda: "remember me" in screen_text(app) and "Hello, world." in screen_text(app)
        )


async def test_an_answer_goes_on_while_one_is_elsewhere(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        gate = await begin_answer(app_fixture, pilot, "hi")
        chat = chat_screen(app)
        await pilot.press("f3")
        await wait_for_screen(pilot, HomeScreen)
        for _ in app_fixture.script.tokens:
            gate.release()
        await wait_until(pilot, lambda: not chat.answering)
        await pilot.press("f5")
        await wait_for_text(pilot, "Hello, world.")
        assert chat.conversation.turns[0].ending is Ending.COMPLETE


async def test_ask_again_replaces_the_last_answer(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: len(app_fixture.script.requests) == 2)
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        assert len(chat_screen(app).query(TurnView)) == 1
        assert len(chat_screen(app).conversation.turns) == 1
        assert app_fixture.script.requests[0].messages == app_fixture.script.requests[1].messages


async def test_ask_again_twice_asks_once(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        await asyncio.gather(chat_screen(app).action_again(), chat_screen(app).action_again())
        await wait_until(pilot, lambda: len(chat_screen(app).conversation.turns) == 1)
        assert len(app_fixture.script.requests) == 2


async def test_two_questions_in_the_same_moment_are_one_answer(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        chat_screen(app).post_message(QuestionSent("one"))
        chat_screen(app).post_message(QuestionSent("two"))
        await wait_until(pilot, lambda: len(chat_screen(app).conversation.turns) == 1)
        assert chat_screen(app).query_one(Prompt).text == "two"


async def test_a_new_chat_in_the_moment_of_asking_leaves_nothing_behind(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        chat_screen(app).post_message(QuestionSent("one"))
        await pilot.press("ctrl+n")
        await wait_until(
            pilot, lambda: not chat_screen(app).answering and not chat_screen(app).query(TurnView)
        )
        await send_and_wait(pilot, "two")
        assert chat_screen(app).conversation.turns[0].question == "two"


@pytest.mark.parametrize(
    "error",
    [ContextOverflow("5000 tokens do not fit 4096 [/INST]"), GenerationFailed("no [bold] slot")],
)
async def test_a_failed_request_is_said_plainly_and_the_question_comes_back(
    app_fixture: AppFixture, error: GenerationFailed
) -> None:
    app_fixture.script.generate_error = error
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "a long question")
        await wait_for_text(pilot, str(error))
        assert chat_screen(app).query_one(Prompt).text == "a long question"
        app_fixture.script.generate_error = None
        await pilot.press("enter")
        await wait_for_text(pilot, "Hello, world.")
        assert len(chat_screen(app).query(TurnView)) == 1  # the failed one made room


async def test_the_meter_shows_the_rate_of_now_and_then_what_the_engine_measured(
    app_fixture: AppFixture,
) -> None:
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "hi")
        for token in app_fixture.script.tokens[:3]:
            app_fixture.clock.now_s += 0.125
            gate.release()
            await wait_until(pilot, partial(answer_ends_with, chat_screen(app), token))
        await wait_until(pilot, lambda: chat_screen(app).query_one("#rate", Digits).value == "8.0")
        assert "average 8.0 tok/s · first 125 ms" in screen_text(app)
        gate.release()
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        await wait_until(pilot, lambda: chat_screen(app).query_one("#rate", Digits).value == "40.0")
        assert "average 40.0 tok/s · first 250 ms" in screen_text(app)


async def test_the_meter_shows_the_context_and_the_memory_of_the_engine(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "three words here")
        await wait_for_text(pilot, "7 of 4096 tokens")
        assert "engine 210 MiB" in screen_text(app)
        assert chat_screen(app).query_one("#context-bar", Bar).fraction == pytest.approx(7 / 4096)


async def test_estimate_and_reality_are_side_by_side(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("f2")
        await wait_for_text(pilot, "Memory of starter")
        row = next(line for line in screen_text(app).splitlines() if "KV cache" in line)
        assert row.split("KV cache")[1].split()[2:4] == ["90.0", "MiB"]
        assert "dry run" not in screen_text(app)  # it fits so well that nobody was asked
        await wait_for_text(pilot, "cache and computing: estimated")
        await pilot.press("f2")
        await wait_for_screen(pilot, ChatScreen)


async def test_the_dry_run_stands_between_them_where_llama_cpp_was_asked(
    app_fixture: AppFixture,
) -> None:
    app_fixture.available_bytes = 300 * MIB  # near enough to what it needs to ask
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        assert len(app_fixture.script.probes) == 1
        await pilot.press("f2")
        await wait_for_text(pilot, "dry run")
        row = next(line for line in screen_text(app).splitlines() if "KV cache" in line)
        numbers = row.split("KV cache")[-1].split()
        assert numbers[1:6:2] == ["MiB"] * 3
        weights = next(line for line in screen_text(app).splitlines() if "weights" in line)
        assert weights.split("weights")[-1].split()[2] == "-"  # a dry run allocates none


async def test_links_in_an_answer_are_shown_and_not_opened(app_fixture: AppFixture) -> None:
    opened: list[str] = []
    app_fixture.script.tokens = ("[click](http://127.0.0.1/[/x])",)
    app = app_fixture.app()
    app.open_url = lambda url, *, new_tab=True: opened.append(url)  # type: ignore[method-assign]  # noqa: PLW0108  # it takes new_tab, too
    async with app.run_test(notifications=True) as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        markdown = chat_screen(app).query(Markdown).last()
        markdown.post_message(Markdown.LinkClicked(markdown, "http://127.0.0.1/[/x]"))
        await wait_for_text(pilot, "Links are not opened")
        assert "http://127.0.0.1/[/x]" in screen_text(app)
    assert opened == []


async def test_quitting_while_it_answers_ends_the_engine(app_fixture: AppFixture) -> None:
    app_fixture.script.gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "hi")
        await wait_until(pilot, lambda: bool(app_fixture.script.requests))
        assert app_fixture.engine.alive
        await pilot.press("ctrl+q")
    assert app.return_code == 0
    assert all(not engine.alive for engine in app_fixture.engines)


async def test_thinking_is_switched_by_a_key(app_fixture: AppFixture) -> None:
    app_fixture.settings = Settings(reasoning_effort="low")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        for question in ("one", "two", "three", "four"):
            await send_and_wait(pilot, question)
            await pilot.press("ctrl+t")
    effort = Effort.LOW
    assert [request.thinking for request in app_fixture.script.requests] == [
        Thinking(effort=effort),
        Thinking(effort=effort, enabled=False),
        Thinking(effort=effort, enabled=True),
        Thinking(effort=effort),
    ]


async def test_a_warning_of_the_engine_is_shown_under_the_answer(app_fixture: AppFixture) -> None:
    app_fixture.script.warnings = ("Two user messages were joined.",)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "one")
        await wait_for_text(pilot, "Two user messages were joined.")


async def test_what_was_left_out_of_a_long_conversation_is_said_under_the_answer(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "one")
        assert app_fixture.script.requests[0].overflow is Overflow.ROLL
        app_fixture.script.dropped_messages = 4
        await send_and_wait(pilot, "two")
        await wait_for_text(pilot, "2 earlier turns were left out")
        assert chat_screen(app).conversation.turns[1].left_out == 2
        assert len(chat_screen(app).conversation.turns) == 2


async def test_a_template_that_cannot_be_used_is_named_before_the_first_question(
    app_fixture: AppFixture,
) -> None:
    app_fixture.script.has_chat_template = False
    app_fixture.script.chat_template_problem = "The chat template is not usable: line 7: no."
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await wait_until(pilot, lambda: "line 7" in screen_text(app))
        assert not app_fixture.script.requests
