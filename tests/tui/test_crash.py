"""The engine is gone: it is said, and the conversation goes on."""

from localllm.errors import LoadFailed
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.home import HomeScreen
from localllm.tui.widgets.prompt import Prompt
from tests.tui.acts import (
    ask,
    ask_until_it_crashes,
    begin_answer,
    chat,
    open_chat,
    reaches,
    sees,
    shown,
    until,
)
from tests.tui.made_up import Stage


async def test_a_crash_shows_the_reason_and_the_log_and_a_restart_goes_on(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await ask_until_it_crashes(stage, pilot, after=2)
        first = stage.engine
        await sees(pilot, "Restart the engine")
        assert "SIGKILL" in shown(app)
        assert "fake: killed" in shown(app)
        stage.script.crash_after = None
        await pilot.press("enter")
        await reaches(pilot, ChatScreen)
        assert stage.engine is not first
        assert "Hello," in shown(app)  # what was written before the crash stays
        assert "the engine stopped here (SIGKILL)" in shown(app)
        await ask(pilot, "and now")
        await sees(pilot, "Hello, world.")
        messages = stage.script.requests[-1].messages
        assert messages is not None
        assert [message.content for message in messages] == ["hi", "Hello, ", "and now"]


async def test_a_question_without_any_answer_is_back_in_the_prompt(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await ask_until_it_crashes(stage, pilot, after=0)
        assert chat(app).query_one(Prompt).text == "hi"


async def test_after_a_crash_the_way_back_to_the_models_is_open(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await ask_until_it_crashes(stage, pilot, after=1)
        await pilot.press("right", "enter")
        await reaches(pilot, HomeScreen)


async def test_a_crash_between_two_questions_is_noticed(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await open_chat(pilot)
        stage.engine.kill()
        await reaches(pilot, Dialog)
        await sees(pilot, "Restart the engine")
        assert "SIGKILL" in shown(app)
        assert "fake: killed" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and stage.engine.alive)


async def test_one_crash_asks_once(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await begin_answer(stage, pilot, "hi")
        stage.engine.kill()
        chat(app).watch_engine()
        await reaches(pilot, Dialog)
        chat(app).watch_engine()
        await pilot.pause()
        assert sum(isinstance(screen, Dialog) for screen in app.screen_stack) == 1


async def test_a_restart_that_fails_leads_back_to_the_models(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await ask_until_it_crashes(stage, pilot, after=1)
        stage.script.load_error = LoadFailed("no memory left")
        await pilot.press("enter")
        await sees(pilot, "no memory left")
        await pilot.press("enter")
        await reaches(pilot, HomeScreen)
