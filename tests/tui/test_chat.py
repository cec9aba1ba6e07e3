"""The conversation: streamed answers, stopping, versions, branches, the queue, drafts."""

import asyncio
from functools import partial

import pytest
from textual import events

from localllm.chat.conversation import Attachment, Ending
from localllm.engine.messages import Message, Overflow, Role
from localllm.errors import ContextOverflow, GenerationFailed
from localllm.tui.screens.chat.branches import BranchScreen
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.widgets.prompt import Prompt, PromptCompletion, QuestionSent
from tests.tui.actions import (
    answer_ends_with,
    answer_text,
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


def texts(screen: ChatScreen) -> list[str]:
    return [message.text for message in screen.conversation.path()]


@pytest.mark.smoke
async def test_the_answer_comes_as_it_is_written(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        gate = await begin_answer(app_fixture, pilot, "hi there")
        assert "world" not in screen_text(app)
        for _ in range(3):
            gate.release()
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        assert texts(chat_screen(app)) == ["hi there", "Hello, world."]
        await wait_for_text(pilot, "Hello, world.")
        assert "hi there" in screen_text(app)


async def test_the_model_gets_the_whole_conversation(app_fixture: AppFixture) -> None:
    app_fixture.script.warnings = ("Two user messages were joined.",)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "one")
        await wait_for_text(pilot, "Two user messages were joined.")
        app_fixture.script.dropped_messages = 4
        await send_and_wait(pilot, "two")
        await wait_for_text(pilot, "2 earlier turns were left out")
    assert app_fixture.script.requests[0].overflow is Overflow.ROLL
    assert app_fixture.script.requests[1].messages == (
        Message(role=Role.USER, content="one"),
        Message(role=Role.ASSISTANT, content="Hello, world."),
        Message(role=Role.USER, content="two"),
    )


async def test_reasoning_is_folded_with_its_length_and_kept(app_fixture: AppFixture) -> None:
    app_fixture.script.reasoning = ("Is it [/red]", " rain\x1b[2J?")
    app = app_fixture.app()
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "hi")
        await wait_for_text(pilot, "Is it [/red] rain")
        assert "thinking for" in screen_text(app)
        for _ in range(4):
            gate.release()
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        await wait_for_text(pilot, "▸ thought")
        assert "rain" not in screen_text(app)
        await pilot.press("tab", "enter")
        await wait_for_text(pilot, "Is it [/red] rain?")


@pytest.mark.smoke
async def test_escape_stops_the_answer_and_says_so_at_once(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        chat_screen(app).action_stop()
        await wait_until(
            pilot, lambda: "stopping…" in screen_text(app) or not chat_screen(app).answering
        )
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        await wait_for_text(pilot, "stopped")
        assert app_fixture.script.cancelled == [app_fixture.script.requests[0].request_id]
        assert answer_text(chat_screen(app)).startswith("Hello")
        assert chat_screen(app).conversation.path()[-1].ending is Ending.STOPPED
        assert chat_screen(app).runtime.resident() != ()


async def test_a_second_question_waits_in_a_queue_and_can_be_taken_back(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        gate = await begin_answer(app_fixture, pilot, "one")
        for question in ("two", "three"):
            await send_question(pilot, question)
            await wait_for_text(pilot, f"⧗ {question}")
        await pilot.press("up")  # in the empty prompt: the last one comes back
        await wait_until(pilot, lambda: chat_screen(app).query_one(Prompt).text == "three")
        assert "⧗ three" not in screen_text(app)
        for _ in range(2 * len(app_fixture.script.tokens)):
            gate.release()
        await wait_until(pilot, lambda: len(app_fixture.script.requests) == 2)
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        assert texts(chat_screen(app))[::2] == ["one", "two"]
        assert "⧗" not in screen_text(app)


async def test_lines_are_added_nothing_is_not_sent_and_controls_are_no_text(
    app_fixture: AppFixture,
) -> None:
    app_fixture.script.tokens = ("", "\x1b", "")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await pilot.press("space", "enter", "enter")
        await pilot.pause()
        assert app_fixture.script.requests == []
        one = chat_screen(app).query_one(Prompt).size.height
        await pilot.press("a", "ctrl+j", "b", "shift+enter", "c")
        await pilot.pause()
        assert chat_screen(app).query_one(Prompt).size.height == one + 2
        await pilot.press("enter")
        await wait_until(pilot, lambda: bool(app_fixture.script.requests))
        await wait_until(pilot, lambda: not chat_screen(app).answering)
        messages = app_fixture.script.requests[0].messages
        assert messages is not None
        assert messages[-1].content == "a\nb\nc"
        assert chat_screen(app).query_one(Prompt).text == ""


async def test_a_new_chat_keeps_the_one_before(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        first = chat_screen(app).conversation.id
        await pilot.press("d", "r", "a", "f", "t", "ctrl+n")
        await wait_until(pilot, lambda: chat_screen(app).conversation.id != first)
        assert not chat_screen(app).answering
        assert "Hello" not in screen_text(app)
        assert chat_screen(app).query_one(Prompt).text == ""
        assert app_fixture.script.closed.get_nowait() == app_fixture.script.requests[0].request_id
        store = chat_screen(app).services.conversations
        assert [message.text for message in store.open(first).path()] == ["hi", "Hello"]
        model = chat_screen(app).model
        assert model is not None
        chat_screen(app).open_model(model, store.open(first), came_from="home")
        await wait_for_text(pilot, "Hello")
        assert chat_screen(app).query_one(Prompt).text == "draft"


async def test_the_conversation_and_the_draft_are_there_after_a_look_at_the_models(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        gate = await begin_answer(app_fixture, pilot, "remember me")
        chat = chat_screen(app)
        await pilot.press("x", "y", "ctrl+o")
        await wait_for_screen(pilot, HomeScreen)
        for _ in app_fixture.script.tokens:
            gate.release()
        await wait_until(pilot, lambda: not chat.answering)
        await open_chat(pilot)
        await wait_for_text(pilot, "Hello, world.")
        assert "remember me" in screen_text(app)
        assert chat.query_one(Prompt).text == "xy"
        assert chat.conversation.path()[-1].ending is Ending.COMPLETE
        assert len(app_fixture.engines) == 2  # one described the machine: nothing was loaded again


async def test_again_and_edit_make_versions_and_arrows_go_through_them(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        app_fixture.script.tokens = ("Second", " one.")
        screen = chat_screen(app)
        screen.action_again()
        screen.action_again()  # twice in the same moment asks once
        await wait_for_text(pilot, "\u20392/2\u203a")
        await wait_until(pilot, lambda: not screen.answering)
        assert len(app_fixture.script.requests) == 2
        assert app_fixture.script.requests[0].messages == app_fixture.script.requests[1].messages
        assert texts(screen) == ["hi", "Second one."]
        await pilot.press("tab", "left")
        await wait_for_text(pilot, "Hello, world.")
        assert texts(screen) == ["hi", "Hello, world."]
        await pilot.press("k", "e")  # the question above is edited
        await wait_until(pilot, lambda: screen.query_one(Prompt).text == "hi")
        await pilot.press("escape")  # and not, after all
        await wait_until(pilot, lambda: screen.query_one(Prompt).text == "")
        await pilot.press("up")
        await wait_until(pilot, lambda: screen.query_one(Prompt).text == "hi")
        await pilot.press("!", "enter")
        await wait_until(pilot, lambda: texts(screen) == ["hi!", "Second one."])
        assert len(screen.conversation.messages) == 5
        await wait_until(pilot, lambda: not screen.answering)
        await pilot.press("tab", "B")
        await wait_for_screen(pilot, BranchScreen)
        assert "Branches: 3" in screen_text(app)
        await pilot.press("home", "enter")
        await wait_for_screen(pilot, ChatScreen)
        assert texts(screen)[0] == "hi"


async def test_a_branch_and_a_deletion_that_asks(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_and_wait(pilot, "one")
        await send_and_wait(pilot, "two")
        await pilot.press("tab", "g", "j", "b")  # at the first answer
        await wait_until(pilot, lambda: texts(screen) == ["one", "Hello, world."])
        await send_and_wait(pilot, "instead")
        assert texts(screen)[2] == "instead"
        await pilot.press("tab", "d")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("escape")
        await wait_for_screen(pilot, ChatScreen)
        assert texts(screen)[2] == "instead"
        await pilot.press("d")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("right", "enter")
        await wait_until(pilot, lambda: texts(screen)[2:] == ["instead"])


async def test_keys_copy_and_other_letters_return_to_the_prompt(app_fixture: AppFixture) -> None:
    app_fixture.script.tokens = ("See:\n\n```py\n", "x = 1\n```\n", "and\n```\ny\n```")
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_and_wait(pilot, "hi")
        await pilot.press("tab", "y")
        assert app.clipboard == "".join(app_fixture.script.tokens)
        await pilot.press("c")
        assert app.clipboard == "x = 1"
        await pilot.press("c")
        assert app.clipboard == "y"
        await pilot.press("x")
        assert app.focused is screen.query_one(Prompt)
        assert screen.query_one(Prompt).text == "x"
        line = next(i for i, row in enumerate(screen_text(app).split("\n")) if "py ─" in row)
        column = screen_text(app).split("\n")[line].index("c copies")
        await pilot.click(offset=(column + 1, line))
        assert app.clipboard == "x = 1"
        await pilot.press("z")
        assert screen.query_one(Prompt).text == "xz"  # a click does not take the focus


async def test_a_text_is_found_and_gone_through(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "one")
        await send_and_wait(pilot, "two WORLD")
        await pilot.press("ctrl+f", *"world")
        await wait_for_text(pilot, "3 of 3")
        await pilot.press("enter")
        await wait_for_text(pilot, "1 of 3")
        await pilot.press("escape", "q")
        assert chat_screen(app).query_one(Prompt).text == "q"


async def test_a_question_that_does_not_fit_offers_a_larger_context(
    app_fixture: AppFixture,
) -> None:
    app_fixture.script.generate_error = ContextOverflow("5000 tokens do not fit")
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        screen.send("word " * 1000)
        await wait_for_screen(pilot, Dialog)
        assert "8,192 tokens" in screen_text(app)
        app_fixture.script.generate_error = None
        await pilot.press("enter")
        await wait_until(pilot, lambda: texts(screen)[1:] == ["Hello, world."])
        assert screen.conversation.settings.context == 8192
        assert app_fixture.script.loads[-1].settings.context == 8192


async def test_any_size_while_it_answers_and_the_numbers_after_reopening(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        gate = await begin_answer(app_fixture, pilot, "hi there")
        screen = chat_screen(app)
        assert screen.has_class("-with-panel")
        for size in ((40, 40), (10, 5), (200, 60), (51, 8), (100, 30)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        for _ in app_fixture.script.tokens:
            gate.release()
        await wait_until(pilot, lambda: not screen.answering)
        used = screen.meter_log.readings().context_used
        assert used == 2 + 4
        kept = screen.conversation
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: screen.conversation.id != kept.id)
        assert screen.meter_log.readings().context_used == 0
        screen.open_conversation(kept)
        assert screen.meter_log.readings().context_used == used


async def test_a_pasted_megabyte_is_one_line_and_is_counted(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        app.post_message(events.Paste("word " * 100_000))
        await wait_for_text(pilot, "488 KiB · 500,000 tokens")
        await pilot.press("backspace")  # in the empty prompt it takes the last one away
        await wait_until(pilot, lambda: screen.prompt_box.attachments == ())
        screen.post_message(QuestionSent("read it", (_small("notes"),)))
        await wait_until(pilot, lambda: len(screen.conversation.path()) == 2)
        messages = app_fixture.script.requests[0].messages
        assert messages is not None
        assert "notes:\n```\nabc\n```" in messages[0].content


def _small(name: str) -> Attachment:
    return Attachment(name=name, media_type="text/plain", text="abc")


async def test_a_completion_is_chosen_before_anything_is_sent(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        screen.prompt_box.completers[:] = [
            lambda text: [PromptCompletion(text=f"/{name} ", start=0, help="h [x]")
                          for name in ("new", "net") if f"/{name}".startswith(text)]
        ]  # fmt: skip
        await pilot.press(*"/ne")
        await wait_for_text(pilot, "h [x]")
        await pilot.press("down", "down", "enter")
        await wait_until(pilot, lambda: screen.query_one(Prompt).text == "/net ")
        assert app_fixture.script.requests == []


async def test_a_failed_request_is_explained_and_the_question_comes_back(
    app_fixture: AppFixture,
) -> None:
    error = GenerationFailed("no [bold] slot [/INST]")
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
        assert len(chat_screen(app).conversation.messages) == 2  # the failed one made room


async def test_the_meter_shows_the_rate_of_now_and_then_what_the_engine_measured(
    app_fixture: AppFixture,
) -> None:
    gate = app_fixture.script.gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_question(pilot, "three words here")
        for token in app_fixture.script.tokens[:3]:
            app_fixture.clock.now_s += 0.125
            gate.release()
            await wait_until(pilot, partial(answer_ends_with, screen, token))
        assert screen.meter_log.readings().now_tps == pytest.approx(8.0)
        gate.release()
        await wait_for_text(pilot, "average 40.0 tok/s · first 250 ms")
        await wait_for_text(pilot, "7 of 4,096")
        assert "all of it" in screen_text(app)
        await pilot.press("f4")
        await wait_for_text(pilot, "40.0 tok/s  context")  # in the title line, where it has room


async def test_estimate_dry_run_and_reality_are_side_by_side(app_fixture: AppFixture) -> None:
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
        await pilot.press("f2")
        await wait_for_screen(pilot, ChatScreen)


async def test_quitting_while_it_answers_ends_the_engine(app_fixture: AppFixture) -> None:
    app_fixture.script.gate = asyncio.Semaphore(0)
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        await send_question(pilot, "hi")
        await wait_until(pilot, lambda: bool(app_fixture.script.requests))
        assert app_fixture.engine.alive
        await pilot.press("ctrl+q")
        await wait_for_screen(pilot, Dialog)  # the conversation is only in memory
        await pilot.press("ctrl+q")
    assert app.return_code == 0
    assert all(not engine.alive for engine in app_fixture.engines)


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
