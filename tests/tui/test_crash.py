"""The engine is gone: it is said, and the conversation goes on."""

from localllm.chat.conversation import Attachment
from localllm.errors import LoadFailed
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog, relevant_lines
from localllm.tui.screens.home.home import HomeScreen
from localllm.tui.widgets.prompt import Prompt
from tests.tui.actions import (
    begin_answer,
    chat_screen,
    open_chat,
    screen_text,
    send_and_crash,
    send_question,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fixtures import AppFixture


async def test_a_crash_shows_the_reason_and_the_log_and_a_restart_goes_on(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await send_and_crash(app_fixture, pilot, after=2)
        first = app_fixture.engine
        await wait_for_text(pilot, "Start it again")
        assert "SIGKILL" in screen_text(app)
        assert "fake: killed" in screen_text(app)
        app_fixture.script.crash_after = None
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatScreen)
        assert app_fixture.engine is not first
        assert "Hello," in screen_text(app)  # what was written before the crash stays
        assert "the engine stopped here (SIGKILL)" in screen_text(app)
        await send_question(pilot, "and now")
        await wait_for_text(pilot, "Hello, world.")
        messages = app_fixture.script.requests[-1].messages
        assert messages is not None
        assert [message.content for message in messages] == ["hi", "Hello, ", "and now"]


async def test_a_question_without_any_answer_is_back_in_the_prompt(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        app_fixture.script.crash_after = 0
        await open_chat(pilot)
        chat = chat_screen(app)
        notes = Attachment(name="notes", media_type="text/plain", text="many words\n" * 9000)
        chat.prompt_box.attach(notes)
        await send_question(pilot, "hi")
        await wait_for_screen(pilot, Dialog)
        assert chat.conversation.path()[0].attachments[0].cut_tokens
        assert chat.query_one(Prompt).text == "hi"
        assert chat.prompt_box.attachments[0].text == notes.text  # all of it


async def test_after_a_crash_the_way_back_to_the_models_is_open(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await send_and_crash(app_fixture, pilot, after=1)
        await pilot.press("right", "right", "enter")
        await wait_for_screen(pilot, HomeScreen)


async def test_a_crash_between_two_questions_is_noticed(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        app_fixture.engine.kill()
        await wait_for_screen(pilot, Dialog)
        await wait_for_text(pilot, "Start it again")
        assert "SIGKILL" in screen_text(app)
        assert "fake: killed" in screen_text(app)
        await pilot.press("enter")
        await wait_until(
            pilot, lambda: isinstance(app.screen, ChatScreen) and app_fixture.engine.alive
        )


async def test_escape_in_the_window_of_a_crash_leaves_everything_as_it_is(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await send_and_crash(app_fixture, pilot, after=1)
        assert "memory runs out" in " ".join(screen_text(app).split())
        await pilot.press("escape")
        await wait_for_screen(pilot, ChatScreen)
        assert "the engine stopped here" in screen_text(app)
        app_fixture.script.crash_after = None
        await send_question(pilot, "and now")  # starts the engine by itself
        await wait_for_text(pilot, "Hello, world.")


async def test_an_engine_that_hangs_is_named_within_seconds(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        chat_screen(app).watch_engine()
        assert "no sign of life" not in screen_text(app)
        app_fixture.script.silent_s = 5.0
        chat_screen(app).watch_engine()
        await wait_for_text(pilot, "no sign of life for 5 s")


def test_only_what_tells_something_is_shown_of_a_log() -> None:
    log = ("fused DeepSeek V4 HC enabled", "", "ggml.c:12: GGML_ASSERT(n > 0) failed")
    assert relevant_lines(log) == log[-1:]
    assert relevant_lines(log[:2]) == ()


async def test_one_crash_asks_once(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        app_fixture.engine.kill()
        chat_screen(app).watch_engine()
        await wait_for_screen(pilot, Dialog)
        chat_screen(app).watch_engine()
        await pilot.pause()
        assert sum(isinstance(screen, Dialog) for screen in app.screen_stack) == 1


async def test_after_a_restart_that_fails_the_conversation_is_still_there(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test() as pilot:
        await send_and_crash(app_fixture, pilot, after=1)
        app_fixture.script.load_error = LoadFailed("no memory left")
        await pilot.press("enter")
        await wait_for_text(pilot, "no memory left")
        await pilot.press("enter")
        await wait_for_screen(pilot, ChatScreen)
        await wait_for_text(pilot, "the engine stopped here (SIGKILL)")
