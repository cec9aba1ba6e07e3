"""Files and documents in a conversation: @ attaches, collections answer, sources open."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.chat.conversation import Ending
from localllm.tui.screens.chat.files import ChatFiles
from localllm.tui.screens.documents.collections import CollectionsScreen
from localllm.tui.screens.documents.source import SourceScreen
from localllm.tui.widgets.picture import pictures
from localllm.tui.widgets.prompt import Prompt, PromptBox
from tests.chat.pictures import png_bytes
from tests.tui.actions import (
    chat_screen,
    open_chat,
    screen_text,
    send_and_wait,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fixtures import AppFixture


async def test_files_behind_an_at_sign_are_attached_and_sent(
    app_fixture: AppFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "sub dir" / "notes.md").write_text("Pumps need oil.")
    (folder / "plan.txt").write_text("First the walls.")
    (folder / "red.png").write_bytes(png_bytes(40, 20))
    monkeypatch.chdir(folder)
    app_fixture.script.vision = True
    app = app_fixture.app()
    async with app.run_test(size=(100, 40)) as pilot:
        await open_chat(pilot)
        box = app.screen.query_one(PromptBox)
        app.screen.query_one(Prompt).insert("What of @su")
        await wait_for_text(pilot, '@"sub dir/')
        await pilot.press("tab")
        await wait_for_text(pilot, '@"sub dir/notes.md"')
        await pilot.press("tab")
        await wait_until(pilot, lambda: bool(box.attachments))
        assert box.text.strip() == "What of"
        assert box.attachments[0].text == "Pumps need oil."
        await wait_until(pilot, lambda: box.attachments[0].tokens is not None)
        assert "@ notes.md" in screen_text(app)
        screen = chat_screen(app)
        assert isinstance(screen, ChatFiles)
        screen.attach_path(folder / "red.png")
        await wait_until(pilot, lambda: len(box.attachments) == 2)
        screen.attach_path(folder)
        await wait_for_text(pilot, "It is a folder")
        await send_and_wait(pilot, "and @plan.txt, @nobody")
        question = screen.conversation.path()[0]
        assert [each.name for each in question.attachments] == ["notes.md", "red.png", "plan.txt"]
        assert question.text == "What of and @plan.txt, @nobody"
        sent = app_fixture.script.requests[-1].messages
        assert sent is not None
        assert "Pumps need oil." in sent[-1].content
        assert "First the walls." in sent[-1].content
        assert len(sent[-1].images) == 1
        await wait_until(pilot, lambda: bool(pictures.strips(png_bytes(40, 20), 40)))
        await wait_for_text(pilot, "\u2580" * 40)


async def test_a_question_is_answered_from_documents_with_sources(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    folder = tmp_path / "manual"
    folder.mkdir()
    (folder / "pump.md").write_text("# Pump\n\nThe pump needs oil every year.")
    (folder / "roof.md").write_text("# Roof\n\nThe roof is red.")
    app_fixture.script.tokens = ("Every year ", "[1].")
    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        documents = app.services.documents
        info = documents.collections.create(folder)
        documents.start_indexing(info.id)
        await wait_until(pilot, lambda: not documents.running)
        await pilot.press("ctrl+g")
        await wait_for_screen(pilot, CollectionsScreen)
        await wait_for_text(pilot, "2 files")
        await pilot.press("space", "escape")
        await wait_until(pilot, lambda: screen.conversation.settings.collections == ("manual",))
        await send_and_wait(pilot, "How often does the pump need oil?")
        question, answer = screen.conversation.path()
        assert answer.ending is Ending.COMPLETE
        assert question.citations[0].path == "pump.md"
        assert [each.path for each in answer.citations] == ["pump.md"]
        sent = app_fixture.script.requests[-1].messages
        assert sent is not None
        assert "[1] pump.md, line 1:\n# Pump" in sent[-1].content
        assert sent[-1].content.endswith("Question: How often does the pump need oil?")
        await wait_for_text(pilot, "[1] pump.md:1")
        await pilot.press("tab", "o")
        await wait_for_screen(pilot, SourceScreen)
        await wait_for_text(pilot, "▌ The pump needs oil every year.")
        await pilot.press("escape", "tab")
        (folder / "pump.md").write_text("# Pump\n\nThe pump needs oil every month.")
        await send_and_wait(pilot, "Really how often does the pump need oil?")
        await wait_for_text(pilot, "pump.md has changed since it was indexed")


async def test_a_question_that_is_stopped_while_documents_are_searched_is_not_lost(
    app_fixture: AppFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searching = asyncio.Event()

    async def search_for_ever(*_arguments: object, **_more: object) -> None:
        searching.set()
        await asyncio.Event().wait()

    app = app_fixture.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await open_chat(pilot)
        screen = chat_screen(app)
        monkeypatch.setattr(app.services.documents, "sources_for", search_for_ever)
        settings = replace(screen.conversation.settings, collections=("manual",))
        screen.change_conversation(replace(screen.conversation, settings=settings))
        app.screen.query_one(Prompt).insert("How often?")
        await pilot.press("enter")
        await wait_until(pilot, searching.is_set)
        assert screen.answering
        await pilot.press("escape")
        box = app.screen.query_one(PromptBox)
        await wait_until(pilot, lambda: box.text == "How often?")
        assert not screen.answering
        assert screen.conversation.messages == ()
