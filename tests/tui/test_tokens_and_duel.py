"""The tokens of an answer, and two models on one question."""

import asyncio
import random
import shutil
from pathlib import Path

from localllm.chat.conversation import ChatMessage, Conversation, Ending
from localllm.chat.duels import DuelStore
from localllm.chat.settings import ChatSettings
from localllm.engine.fake import FakeEngine, Script
from localllm.engine.messages import Role
from localllm.errors import DoesNotFit, GenerationFailed
from localllm.tui.screens.duel.duel import DuelScreen, DuelWinner
from localllm.tui.screens.duel.side import DuelSide
from localllm.tui.screens.tokens.token_text import TokenText
from localllm.tui.screens.tokens.tokens import TokenBranch, TokensScreen
from localllm.tui.widgets.prompt import Prompt
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until
from tests.tui.fixtures import AppFixture

HOSTILE = "[/INST] [bold] 天空 \x1b[2J"


async def test_the_tokens_of_an_answer_are_walked_through(app_fixture: AppFixture) -> None:
    conversation = Conversation().with_message(ChatMessage(role=Role.USER, text="Why?"), after=None)
    answer = ChatMessage(role=Role.ASSISTANT, text=f"Air scatters\n\n{HOSTILE} light.")
    conversation = conversation.with_message(answer, after=conversation.leaf)
    app = app_fixture.app()
    results: list[TokenBranch | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        screen = TokensScreen(conversation, conversation.message(answer.id), "starter")
        app.push_screen(screen, results.append)
        await wait_for_text(pilot, "7 tokens")
        assert "[bold] 天空" in screen_text(app)
        assert "perplexity 2.00" in screen_text(app)
        await pilot.press("right", "down")
        await wait_for_text(pilot, "goes on from")
        assert "25 %" in screen_text(app)
        assert screen.query_one(TokenText).cursor == 1
        await pilot.press("end", "home", "pagedown", "pageup", "n", "right")
        await pilot.resize_terminal(20, 24)
        await pilot.resize_terminal(120, 30)
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: bool(results))
    branch = results[0]
    assert branch is not None
    assert (branch.answer_id, branch.text, branch.complete) == (answer.id, "Air else", False)


async def test_an_answer_that_cannot_be_scored_says_why(app_fixture: AppFixture) -> None:
    app_fixture.script.generate_error = GenerationFailed("The context is too short.")
    conversation = Conversation()
    conversation = conversation.with_message(ChatMessage(role=Role.USER, text="Why?"), after=None)
    answer = ChatMessage(role=Role.ASSISTANT, text="Air.")
    conversation = conversation.with_message(answer, after=conversation.leaf)
    app = app_fixture.app()
    results: list[TokenBranch | None] = []
    async with app.run_test(size=(80, 24)) as pilot:
        app.push_screen(TokensScreen(conversation, answer, "starter"), results.append)
        await wait_for_text(pilot, "The context is too short.")
        await pilot.press("right", "down", "n", "enter", "escape")
        await wait_until(pilot, lambda: bool(results))
    assert results == [None]


async def test_two_models_answer_and_the_vote_is_counted(
    app_fixture: AppFixture, tmp_path: Path, smollm2: Path
) -> None:
    copy = shutil.copy(smollm2, tmp_path / "twin.gguf")
    store = DuelStore(tmp_path / "duels.json")
    app = app_fixture.app()
    results: list[DuelWinner | None] = []
    async with app.run_test(size=(120, 30)) as pilot:
        twin = await app.services.runtime.adopt(Path(copy))
        screen = DuelScreen(
            ["starter", twin.name],
            ChatSettings(system="Be terse."),
            question="Why?",
            store=store,
            chance=random.Random(1),  # the second model stands at the left
        )
        app.push_screen(screen, results.append)
        await wait_for_text(pilot, "Why?")
        await pilot.press("enter")
        await wait_for_text(pilot, "Which is better?")
        shown = screen_text(app)
        assert shown.count("Hello, world.") == 2
        assert "tok/s" not in shown
        left = screen.query_one("#left", DuelSide)
        assert left.hidden
        await pilot.press("2")
        await wait_for_text(pilot, "1 duel so far")
        assert "40.0 tok/s" in screen_text(app)
        loser, winner = left.model, screen.query_one("#right", DuelSide).model
        assert store.tally(loser, winner).wins(winner) == 1
        prompts = [each.messages or () for each in app_fixture.script.requests]
        assert [[each.content for each in prompt] for prompt in prompts] == [
            ["Be terse.", "Why?"]
        ] * 2

        await pilot.press("s")
        await wait_for_text(pilot, "won 1 of 1")
        await pilot.press("x")
        await wait_for_screen(pilot, DuelScreen)
        assert store.standings() == ()

        # Names shown, one after the other, and stopped before there is anything to vote on.
        app_fixture.script.gate = asyncio.Semaphore(0)
        await pilot.press("b", "o", "enter", *"Again", "enter")
        await wait_until(pilot, lambda: len(app_fixture.script.requests) == 3)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(app.focused, Prompt))
        await pilot.resize_terminal(80, 24)
        await pilot.press("escape")
        await wait_until(pilot, lambda: bool(results))
        assert results.pop() is None


async def test_a_chat_goes_on_with_an_answer(
    app_fixture: AppFixture, tmp_path: Path, smollm2: Path
) -> None:
    copy = shutil.copy(smollm2, tmp_path / "twin.gguf")
    store = DuelStore(tmp_path / "duels.json")
    app = app_fixture.app()
    results: list[DuelWinner | None] = []
    async with app.run_test(size=(120, 30)) as pilot:
        twin = await app.services.runtime.adopt(Path(copy))
        again = DuelScreen(["starter", twin.name], ChatSettings(), question="Who?", store=store)
        app.push_screen(again, results.append)
        await wait_for_text(pilot, "Who?")
        await pilot.press("enter")
        await wait_for_text(pilot, "Which is better?")
        await pilot.press("0", "c")
        await wait_until(pilot, lambda: bool(results))
    won = results[0]
    assert won is not None
    assert [(each.role, each.text) for each in won.conversation.path()] == [
        (Role.USER, "Who?"),
        (Role.ASSISTANT, "Hello, world."),
    ]
    assert won.conversation.path()[-1].ending is Ending.COMPLETE
    assert store.tally("starter", twin.name).duels == 1


async def test_a_model_that_fails_leaves_nothing_to_vote_on(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    app = app_fixture.app()
    store = DuelStore(tmp_path / "duels.json")
    async with app.run_test(size=(80, 24)) as pilot:
        app.push_screen(DuelScreen(["starter"], ChatSettings(), question="Why?", store=store))
        await wait_for_text(pilot, "there is only one here")
        await pilot.press("enter")
        await wait_for_text(pilot, "Why?")
        app.pop_screen()
        screen = DuelScreen(["starter", "gone"], ChatSettings(), question="Why?", store=store)
        app.push_screen(screen)
        await wait_for_text(pilot, "Why?")
        await pilot.press("enter")
        await wait_for_text(pilot, "gone")
        await wait_until(pilot, lambda: isinstance(app.focused, Prompt))
        assert store.standings() == ()


class RefusingOnce(AppFixture):
    """The first engine has no room for its model; those after it have."""

    def start_engine(self) -> FakeEngine:
        if self.engines:
            return super().start_engine()
        error = DoesNotFit("There is no room beside the other model.")
        self.engines.append(FakeEngine(Script(load_error=error)))
        return self.engine


async def test_a_model_without_room_beside_the_other_answers_after_it(
    app_fixture: AppFixture, tmp_path: Path, smollm2: Path
) -> None:
    copy = shutil.copy(smollm2, tmp_path / "twin.gguf")
    fixture = RefusingOnce(data_dir=app_fixture.data_dir, starter=app_fixture.starter)
    app = fixture.app()
    async with app.run_test(size=(120, 30)) as pilot:
        twin = await app.services.runtime.adopt(Path(copy))
        store = DuelStore(tmp_path / "duels.json")
        models = ["starter", twin.name]
        app.push_screen(DuelScreen(models, ChatSettings(), question="Why?", store=store))
        await wait_for_text(pilot, "Why?")
        await pilot.press("enter")
        await wait_for_text(pilot, "Which is better?")
        shown = screen_text(app)
        assert shown.count("Hello, world.") == 2
        assert "no room" not in shown
        assert len(fixture.engines) == 3
