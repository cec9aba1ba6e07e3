"""The windows of the history: asked once, all chats, passphrases."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from localllm.chat.history.history import History, HistoryChoice
from localllm.chat.history.store import SearchHit, summary_of
from localllm.library.encryption import key_store
from localllm.library.encryption.key_store import KeyStore
from localllm.library.encryption.passphrase import ScryptParameters
from localllm.library.files.settings import load as load_settings
from localllm.tui.screens.chat.chat import ChatScreen
from localllm.tui.screens.dialog import Dialog
from localllm.tui.screens.history.chats import ChatsResult, ChatsScreen
from localllm.tui.screens.history.keep import KeepScreen
from localllm.tui.screens.history.line_input import LineScreen
from localllm.tui.screens.history.passphrase import PassphraseScreen
from localllm.tui.widgets.history.chat_rows import ChatRows, row_text, rows_of
from tests.chat.history.conversations import answer, conversation
from tests.library.encryption.fake_keyring import FakeKeyring
from tests.tui.actions import (
    screen_text,
    wait_for_fit,
    wait_for_screen,
    wait_for_text,
    wait_until,
)
from tests.tui.fixtures import AppFixture

DAY_S = 86_400.0
PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_store, "ScryptParameters", lambda: ScryptParameters(n=2**4))


@pytest.fixture
def keyring() -> FakeKeyring:
    return FakeKeyring()


@pytest.fixture
async def pilot(
    app_fixture: AppFixture, tmp_path: Path, keyring: FakeKeyring
) -> AsyncIterator[Pilot[None]]:
    app_fixture.conversations = History(
        tmp_path / "chats", KeyStore(tmp_path / "keys", keyring=keyring)
    )
    async with app_fixture.app().run_test(size=(80, 24)) as running:
        yield running


def contents(directory: Path) -> list[bytes]:
    return [each.read_bytes() for each in directory.rglob("*") if each.is_file()]


async def settled(pilot: Pilot[None]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def typed(pilot: Pilot[None], text: str) -> None:
    await wait_for_screen(pilot, LineScreen)
    pilot.app.screen.query_one(Input).value = text
    await pilot.press("enter")


async def open_window(pilot: Pilot[None], results: list[ChatsResult | None]) -> None:
    pilot.app.push_screen(ChatsScreen(), results.append)
    await wait_for_screen(pilot, ChatsScreen)
    await settled(pilot)


def test_rows_stand_under_their_days_and_fit_any_width() -> None:
    now_s = 20_000.5 * DAY_S
    hits = [
        SearchHit(summary=replace(summary_of(conversation("q")), pinned=True)),
        *(
            SearchHit(summary=summary_of(conversation(f"{age}", at_s=now_s - age * DAY_S)))
            for age in (0, 1, 3, 400)
        ),
        SearchHit(summary=summary_of(conversation("bad", at_s=1e300)), excerpt="found"),
    ]
    headings = [row.text for row in rows_of(hits, now_s) if row.hit is None]
    assert headings[:4] == ["pinned", "today", "yesterday", "last week"]
    assert [row.is_excerpt for row in rows_of(hits, now_s)][-1]
    wide = replace(hits[1].summary, title="空の青さ" * 20, model="m" * 40, branches=3)
    for width in range(8, 160):
        assert cell_len(row_text(wide, width, now_s)) == width
    assert "3 branches" in row_text(wide, 80, now_s)


async def test_chats_are_found_named_filed_pinned_copied_written_and_erased(
    pilot: Pilot[None], app_fixture: AppFixture, tmp_path: Path
) -> None:
    history = app_fixture.conversations
    sky = conversation("Why is the sky blue?", "Because the SKY turns red.", at_s=2)
    history.save(sky)
    history.save(conversation("Names of [/INST] clouds", at_s=1))
    results: list[ChatsResult | None] = []
    await open_window(pilot, results)
    await pilot.press("slash", *"turns red")
    await wait_for_text(pilot, "1 of 2")
    assert "Because the SKY turns red." in screen_text(pilot.app)
    await pilot.press("down", "r")
    await typed(pilot, "Rayleigh")
    await settled(pilot)
    await pilot.press("m")
    await typed(pilot, "Physics")
    await settled(pilot)
    await pilot.press("p")
    await settled(pilot)
    await pilot.press("escape")
    await wait_for_text(pilot, "2 of 2")
    await wait_for_text(pilot, "Physics/Rayleigh")
    assert "pinned" in screen_text(pilot.app)
    assert "Names of [/INST] clouds" in screen_text(pilot.app)
    await pilot.press("e")
    target = tmp_path / "sky.html"
    await typed(pilot, str(target))
    await wait_for_text(pilot, "Written to")
    assert "Because" in target.read_text()
    await pilot.press("i")
    other = tmp_path / "conversations.json"
    other.write_text(json.dumps({"name": "Trip", "messages": [{"role": "user", "content": "Go"}]}))
    await typed(pilot, str(other))
    await wait_for_text(pilot, "1 chat was taken over.")


async def test_a_chat_is_opened_copied_and_erased(
    pilot: Pilot[None], app_fixture: AppFixture
) -> None:
    history = app_fixture.conversations
    sky = conversation("Why is the sky blue?", "So.", at_s=2)
    history.save(sky)
    history.save(conversation("Names of clouds", at_s=1))
    results: list[ChatsResult | None] = []
    await open_window(pilot, results)
    await pilot.press("home", "b")
    await settled(pilot)
    (copied,) = results
    assert copied is not None
    assert copied.conversation is not None
    assert (copied.conversation.id != sky.id, copied.conversation.messages) == (True, sky.messages)
    await open_window(pilot, results)
    await pilot.press("home", "enter")
    await settled(pilot)
    assert results[-1] is not None
    assert results[-1].conversation == history.open(sky.id)
    await open_window(pilot, results)
    await pilot.press("home", "backspace")
    await wait_for_screen(pilot, Dialog)
    await pilot.press("enter")
    await wait_for_text(pilot, "1 of 1")
    await pilot.press("A")
    await wait_for_screen(pilot, Dialog)
    await pilot.press("right", "enter")
    await wait_for_text(pilot, "No chats yet.")
    await pilot.press("escape")
    await settled(pilot)
    assert results[-1] is not None
    assert sky.id in results[-1].erased


async def test_the_choice_is_made_once_with_the_keyring_or_a_passphrase(
    pilot: Pilot[None], app_fixture: AppFixture, keyring: FakeKeyring, tmp_path: Path
) -> None:
    history = app_fixture.conversations
    history.save(conversation("SECRETWORD"))
    keyring.is_broken = True
    await open_window(pilot, [])
    assert "in memory only" in screen_text(pilot.app)
    await pilot.press("w")
    await wait_for_screen(pilot, KeepScreen)
    await wait_for_text(pilot, "▌Keep them, encrypted")
    await pilot.press("enter", "p")  # typed before anybody could read it
    await wait_until(pilot, lambda: not pilot.app.screen.query_one(OptionList).disabled)
    await pilot.press("enter")
    await wait_for_text(pilot, "A passphrase instead")
    await pilot.press("enter")
    await wait_for_screen(pilot, PassphraseScreen)
    await pilot.press(*"short", "enter")
    await wait_for_text(pilot, "at least 8 characters")
    pilot.app.screen.query_one("#passphrase", Input).value = PASSPHRASE
    await pilot.press("enter", *"another", "enter")
    await wait_for_text(pilot, "The two are different")
    pilot.app.screen.query_one("#passphrase-again", Input).value = PASSPHRASE
    await pilot.press("enter")
    await wait_for_text(pilot, "encrypted on this disk")
    assert history.choice is HistoryChoice.DISK
    assert load_settings().history == "disk"
    assert history.flush()
    assert not any(b"SECRETWORD" in each for each in contents(tmp_path))


async def test_a_passphrase_is_asked_for_until_it_opens(
    pilot: Pilot[None], app_fixture: AppFixture
) -> None:
    history = app_fixture.conversations
    await asyncio.to_thread(history.choose, HistoryChoice.DISK, PASSPHRASE)
    history.save(conversation("Kept"))
    await asyncio.to_thread(history.close)
    assert history.is_locked
    await open_window(pilot, [])
    await wait_for_text(pilot, "u opens them")
    await pilot.press("u")
    await wait_for_screen(pilot, PassphraseScreen)
    await pilot.press(*"wrong one", "enter")
    await wait_for_text(pilot, "That is not the passphrase.")
    pilot.app.screen.query_one("#passphrase", Input).value = PASSPHRASE
    await pilot.press("enter")
    await wait_for_text(pilot, "Kept")


async def test_after_the_first_answer_it_is_asked_and_quitting_warns_of_what_is_in_memory(
    pilot: Pilot[None], app_fixture: AppFixture
) -> None:
    history = app_fixture.conversations
    asked = conversation("Why?")
    history.save(asked)
    await settled(pilot)
    assert not isinstance(pilot.app.screen, KeepScreen)
    history.save(asked.with_message(answer("So."), after=asked.leaf))
    await wait_for_screen(pilot, KeepScreen)
    await pilot.press("escape")
    history.save(asked.with_message(answer("Other."), after=asked.leaf))
    await settled(pilot)
    assert not isinstance(pilot.app.screen, KeepScreen)
    await pilot.press("ctrl+q")
    await wait_for_text(pilot, "1 chat is in memory only")


async def test_locked_chats_are_asked_for_at_the_start(
    app_fixture: AppFixture, tmp_path: Path, keyring: FakeKeyring
) -> None:
    def history(choice: HistoryChoice | None) -> History:
        keys = KeyStore(tmp_path / "keys", keyring=keyring)
        return History(tmp_path / "chats", keys, choice=choice)

    before = history(None)
    before.choose(HistoryChoice.DISK, PASSPHRASE)
    before.save(conversation("Kept"))
    before.close()
    app_fixture.conversations = history(HistoryChoice.DISK)
    async with app_fixture.app().run_test(size=(80, 24)) as pilot:
        await wait_for_screen(pilot, PassphraseScreen)
        pilot.app.screen.query_one("#passphrase", Input).value = PASSPHRASE
        await pilot.press("enter")
        await wait_until(pilot, lambda: app_fixture.conversations.is_on_disk)
        assert [each.title for each in app_fixture.conversations.list()] == ["Kept"]


async def test_a_kept_chat_is_gone_on_with_also_from_the_list_beside_the_chat(
    app_fixture: AppFixture, tmp_path: Path, keyring: FakeKeyring
) -> None:
    keys = KeyStore(tmp_path / "keys", keyring=keyring)
    history = History(tmp_path / "chats", keys, choice=HistoryChoice.DISK)
    history.start()
    old = replace(conversation("Why is the sky blue?", "Because."), model="starter")
    history.save(old)
    history.keep_draft(old, "And at")
    history.save(conversation("Names of clouds", at_s=9))
    app_fixture.conversations = history
    async with app_fixture.app().run_test(size=(160, 40)) as pilot:
        await wait_for_fit(pilot)
        await pilot.press("ctrl+l")
        await wait_for_text(pilot, "2 of 2")
        await pilot.press("end", "enter")
        await wait_for_screen(pilot, ChatScreen)
        await wait_for_text(pilot, "Because.")
        chat = pilot.app.screen
        assert isinstance(chat, ChatScreen)
        assert chat.prompt_box.text == "And at"  # as it was when the app ended
        chat.prompt_box.set_draft("And at night?")
        await wait_for_text(pilot, "2 chats, ")
        assert await pilot.click(ChatRows, offset=(3, 1))
        await wait_until(pilot, lambda: chat.conversation.messages[0].text == "Names of clouds")
        await chat.workers.wait_for_complete()
        assert chat.prompt_box.text == ""
        assert history.open(old.id).draft == "And at night?"
        chat.change_conversation(replace(old, title="Renamed"))
        await pilot.press("ctrl+l")
        await wait_for_text(pilot, "Renamed")
        await pilot.press("end", "backspace")
        await wait_for_screen(pilot, Dialog)
        await pilot.press("enter")
        await wait_for_text(pilot, "1 of 1")
        await pilot.press("escape")
        await wait_until(pilot, lambda: chat.conversation.messages == ())
        assert await asyncio.to_thread(history.flush)
        assert [each.title for each in history.list()] == ["Names of clouds"]
