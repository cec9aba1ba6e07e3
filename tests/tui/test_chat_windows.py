"""What the chat opens: commands, settings, tokens, tools; in the app as it is."""

import shutil
from dataclasses import replace
from pathlib import Path

from textual.widgets import TextArea

from localllm.chat.conversation import Attachment, Ending
from localllm.chat.presets import PresetStore
from localllm.chat.prompts import PromptLibrary
from localllm.chat.settings import ChatSettings
from localllm.engine.messages import Role, ToolCall
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.chat_settings.choice_window import ChoiceWindow
from localllm.tui.screens.chat_settings.text_window import NoteWindow, TextWindow
from localllm.tui.screens.chat_settings.window import ChatSettingsWindow, SettingsColumn
from localllm.tui.screens.dialog import Dialog, QuitDialog
from localllm.tui.screens.duel.duel import DuelScreen
from localllm.tui.screens.tokens.tokens import TokensScreen
from localllm.tui.widgets.prompt import Prompt
from tests.tui.actions import (
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
from tests.tui.fixtures import AppFixture


async def test_slash_commands_act_on_the_chat(app_fixture: AppFixture, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("one two three")
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await pilot.press(*"/te")
        await pilot.press("backspace", "e", "m", "p")
        await send_question(pilot, "erature 1")  # no command: /temperature
        await wait_for_text(pilot, "There is no command /temperature")
        assert screen.prompt_box.text == "/temperature 1"
        screen.prompt_box.set_draft("")
        await send_question(pilot, "/set temperature 1")
        await wait_for_text(pilot, "temperature = 1")
        assert screen.conversation.settings.sampling.temperature == 1
        await send_question(pilot, "/help")
        await wait_for_screen(pilot, NoteWindow)
        await wait_until(pilot, lambda: screen_text(app).splitlines()[-1].strip() == "esc close")
        assert "/again" in screen_text(app)
        assert "/save" not in screen_text(app)  # the app keeps chats by itself
        await pilot.press("escape")
        await wait_for_screen(pilot, ChatScreen)

        await send_question(pilot, f"/file {notes}")
        await wait_until(pilot, lambda: bool(screen.prompt_box.attachments))


async def test_the_prompt_library_is_used_and_kept(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_question(pilot, "/prompt")
        await wait_for_screen(pilot, ChoiceWindow)
        await pilot.press("n")
        await wait_for_screen(pilot, TextWindow)
        await pilot.press(*"haiku", "enter")
        await wait_for_text(pilot, "{{name}}")
        await pilot.press(*"On {{it}}", "enter")
        await wait_for_text(pilot, "▌ haiku")
        await wait_for_text(pilot, "On {{it}}")
        await pilot.press("x")
        await wait_for_text(pilot, "Delete haiku?")
        await pilot.press("escape")
        await wait_for_screen(pilot, ChoiceWindow)
        await pilot.press("n")
        await wait_for_screen(pilot, TextWindow)
        await pilot.press(*"haiku", "enter")  # what is there is changed, not written over
        await wait_for_text(pilot, "On {{it}}")
        await pilot.press("escape")
        await wait_for_screen(pilot, ChoiceWindow)
        await pilot.press("x")
        await wait_for_text(pilot, "Delete haiku?")
        await pilot.press("right", "enter")
        await wait_until(pilot, lambda: "haiku" not in PromptLibrary().names())
        await wait_for_screen(pilot, ChoiceWindow)
        await pilot.press("enter")  # explain
        await wait_for_screen(pilot, TextWindow)
        await pilot.press(*"tides", "enter")
        await wait_for_screen(pilot, TextWindow)
        await pilot.press("enter")
        await wait_until(pilot, lambda: "Explain tides to a curious" in screen.prompt_box.text)
        screen.prompt_box.set_draft("")


async def test_commands_that_ask_and_answer(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_and_wait(pilot, "//not a command")
        assert screen.conversation.path()[0].text == "/not a command"
        await send_question(pilot, "/again")
        await wait_until(pilot, lambda: len(screen.conversation.messages) == 3)
        await send_question(pilot, "/version 1")
        await wait_for_text(pilot, "Version 1 of 2")
        await send_question(pilot, "/title Tides")
        await wait_until(pilot, lambda: screen.conversation.title == "Tides")
        file = app_fixture.data_dir.parent / "tides.md"
        await send_question(pilot, f"/export {file}")
        await wait_until(pilot, file.exists)
        assert "not a command" in file.read_text()
        await send_question(pilot, "/find nowhere")
        await wait_for_text(pilot, "nowhere is nowhere in it")
        await pilot.press("escape")
        await send_question(pilot, "/model nothing")
        await wait_for_text(pilot, "nothing")
        screen.prompt_box.set_draft("")
        first = screen.conversation.id
        await send_question(pilot, "/new")
        await wait_until(pilot, lambda: screen.conversation.id != first)


async def test_settings_are_a_window_or_a_column_and_reload_for_the_next_question(
    app_fixture: AppFixture,
) -> None:
    PresetStore().save("terse", ChatSettings(system="Be terse."))
    PresetStore().set_default("terse")
    app = app_fixture.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        assert screen.conversation.settings.preset == "terse"
        await pilot.press("ctrl+t")
        await wait_for_screen(pilot, ChatSettingsWindow)
        await wait_for_text(pilot, "‹terse›")
        await pilot.press("down", "down", "right", "escape")
        await wait_for_screen(pilot, ChatScreen)
        assert screen.conversation.settings.sampling.temperature == 0.9

        await pilot.resize_terminal(160, 48)
        await pilot.press("ctrl+t")
        column = screen.query_one(SettingsColumn)
        await wait_until(pilot, lambda: bool(column.region))
        await pilot.press("up", "up", "left")  # from the preset to the context
        assert screen.conversation.settings.context == 2048
        await wait_for_text(pilot, "loads with the next question")
        await pilot.press("escape")
        await wait_until(pilot, lambda: screen.prompt_box.prompt.has_focus)
        await send_and_wait(pilot, "hi")
        assert screen.resident is not None
        assert screen.resident.loaded.context == 2048
        request = app_fixture.script.requests[-1]
        assert [each.content for each in request.messages or ()] == ["Be terse.", "hi"]
        assert request.sampling.temperature == 0.9
        loads = len(app_fixture.engines)
        await send_and_wait(pilot, "again")
        assert len(app_fixture.engines) == loads
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: not column.region)


async def test_an_answer_goes_on_from_another_token(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_and_wait(pilot, "hi")
        await pilot.press("tab", "t")
        await wait_for_screen(pilot, TokensScreen)
        await wait_for_text(pilot, "2 tokens")
        await pilot.press("right", "down", "enter")
        await wait_until(pilot, lambda: len(screen.conversation.messages) == 3)
        await wait_until(pilot, lambda: not screen.answering)
        first, second = screen.conversation.messages[1:]
        assert first.text == "Hello, world."
        assert second.text == "Hello, elseHello, world."
        assert second.parent == first.parent
        assert second.ending is Ending.COMPLETE
        request = app_fixture.script.requests[-1]
        assert request.continue_final_message
        assert request.messages is not None
        assert request.messages[-1].content == "Hello, else"
        await wait_for_text(pilot, "elseHello")


async def test_calls_are_run_and_what_reads_a_file_asks(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("42")
    arguments = f'{{"path": "{secret.as_posix()}"}}'
    app_fixture.script.calls = (ToolCall(id="1", name="read_file", arguments=arguments),)
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_question(pilot, "/tools read_file")
        await wait_for_screen(pilot, NoteWindow)
        await pilot.press("escape")
        await wait_for_screen(pilot, ChatScreen)
        await send_question(pilot, "What is in it?")
        await wait_for_screen(pilot, Dialog)
        assert "wants to use read_file" in screen_text(app)
        app_fixture.script.calls = ()
        await pilot.press("enter")  # No
        await wait_until(pilot, lambda: not screen.answering)
        path = screen.conversation.path()
        assert [each.role for each in path] == [
            *(Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT),
        ]
        assert "did not allow" in path[2].text
        assert "42" not in "".join(each.text for each in path)


async def test_a_duel_is_opened_and_its_winner_goes_on_in_the_chat(
    app_fixture: AppFixture, tmp_path: Path, smollm2: Path
) -> None:
    copy = shutil.copy(smollm2, tmp_path / "twin.gguf")
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        twin = await app.services.runtime.adopt(Path(copy))
        await open_chat(pilot)
        screen = chat_screen(app)
        await send_question(pilot, f"/duel {twin.name}")
        await wait_for_screen(pilot, DuelScreen)
        await wait_for_text(pilot, twin.name)
        app.screen.query_one(TextArea).insert("Who?")
        await pilot.press("enter")
        await wait_for_text(pilot, "Which is better?")
        await pilot.press("1", "c")
        await wait_for_screen(pilot, ChatScreen)
        await wait_until(pilot, lambda: len(screen.conversation.messages) == 2)
        assert [each.text for each in screen.conversation.path()] == ["Who?", "Hello, world."]
        assert screen.model is not None
        assert screen.conversation.model == screen.model.name


async def test_nothing_that_was_typed_is_lost_while_it_answers(app_fixture: AppFixture) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await begin_answer(app_fixture, pilot, "hi")
        chat = chat_screen(app)
        prompt = chat.query_one(Prompt)
        await send_question(pilot, "queued")
        prompt.insert("draft")
        chat.unqueue(0)  # a click on it
        assert prompt.text == "queued\ndraft"
        prompt.text = "queued"
        await pilot.press("enter")
        await wait_until(pilot, lambda: bool(chat.session.queue))
        chat.keep_settings(replace(chat.conversation.settings, max_tokens=7))  # while it answers
        first = chat.conversation
        prompt.insert("draft")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: chat.conversation.id != first.id)
        assert prompt.text == ""
        assert chat.services.conversations.open(first.id).settings.max_tokens == 7
        await pilot.press("ctrl+q")
        await wait_for_screen(pilot, QuitDialog)
        await wait_for_text(pilot, "1 text that was typed and not sent is gone then.")
        await pilot.press("escape")
        chat.open_conversation(chat.services.conversations.open(first.id))
        assert prompt.text == "queued\ndraft"


async def test_what_was_typed_before_a_question_is_edited_comes_back(
    app_fixture: AppFixture,
) -> None:
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await open_chat(pilot)
        await send_and_wait(pilot, "hi")
        chat = chat_screen(app)
        prompt, first = chat.query_one(Prompt), chat.conversation
        prompt.insert("draft")
        await pilot.press("tab", "e")
        await wait_until(pilot, lambda: prompt.text == "hi")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: chat.conversation.id != first.id)
        assert not prompt.border_title
        chat.open_conversation(chat.services.conversations.open(first.id))
        assert prompt.border_title
        await pilot.press("!", "enter")
        await wait_until(pilot, lambda: prompt.text == "draft")
        await wait_until(pilot, lambda: not chat.answering)
        assert chat.conversation.path()[0].text == "hi!"

        attachment = Attachment(name="notes", media_type="text/plain", text="x")
        prompt.text = "/title A title"
        chat.prompt_box.attach(attachment)
        await pilot.press("enter")
        await wait_until(pilot, lambda: chat.conversation.title == "A title")
        assert chat.prompt_box.attachments == (attachment,)
