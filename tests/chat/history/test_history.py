"""The conversations as the person chose to keep them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.chat.conversation import Conversation
from localllm.chat.history.history import History, HistoryChoice
from localllm.errors import EncryptionError, KeyUnavailable, UsageError, WrongPassphrase
from localllm.library.encryption import key_store
from localllm.library.encryption.key_store import KeyStore
from localllm.library.encryption.passphrase import ScryptParameters
from tests.chat.history.conversations import conversation, question
from tests.library.encryption.fake_keyring import FakeKeyring

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_store, "ScryptParameters", lambda: ScryptParameters(n=2**4))


class Apps:
    """Starts of the app on one directory, one after another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keyring = FakeKeyring()
        self.opened: list[History] = []

    def start(self, choice: HistoryChoice | None) -> History:
        history = History(
            self.directory / "chats",
            KeyStore(self.directory / "keys", keyring=self.keyring),
            choice=choice,
        )
        self.opened.append(history)
        history.start()
        return history


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Apps]:
    made = Apps(tmp_path)
    yield made
    for each in made.opened:
        each.close()


def test_before_the_question_nothing_is_written_and_then_it_is_kept(apps: Apps) -> None:
    history = apps.start(None)
    made = conversation("Why?", "So.")
    history.save(made)
    assert [each.id for each in history.list()] == [made.id]
    assert not (apps.directory / "chats").exists()
    history.choose(HistoryChoice.DISK)
    history.save(grown := made.with_message(question("More"), after=made.leaf))
    assert history.close()
    assert apps.start(HistoryChoice.DISK).open(made.id) == grown


@pytest.mark.parametrize("choice", [HistoryChoice.OFF, HistoryChoice.MEMORY])
def test_what_is_not_kept_on_the_disk_leaves_no_file(apps: Apps, choice: HistoryChoice) -> None:
    history = apps.start(None)
    history.save(conversation("Why?"))
    history.choose(choice)
    history.save(conversation("Who?"))
    assert len(history.list()) == (2 if choice is HistoryChoice.MEMORY else 0)
    history.close()
    assert not list(apps.directory.rglob("*.log"))


def test_a_passphrase_locks_until_it_is_given_and_what_was_said_meanwhile_is_kept(
    apps: Apps,
) -> None:
    history = apps.start(None)
    with pytest.raises(UsageError):
        history.choose(HistoryChoice.DISK, "short")
    assert history.choice is None
    history.choose(HistoryChoice.DISK, PASSPHRASE)
    history.save(old := conversation("old"))
    history.close()
    again = apps.start(HistoryChoice.DISK)
    assert again.is_locked
    assert again.needs_passphrase
    again.save(meanwhile := conversation("meanwhile"))
    assert [each.id for each in again.list()] == [meanwhile.id]
    with pytest.raises(WrongPassphrase):
        again.unlock("another passphrase")
    again.unlock(PASSPHRASE)
    assert {each.id for each in again.list()} == {old.id, meanwhile.id}
    again.choose(HistoryChoice.DISK, None)
    again.close()
    assert len(apps.start(HistoryChoice.DISK).list()) == 2


def test_a_keyring_that_is_gone_locks_and_a_lost_key_is_told(apps: Apps) -> None:
    history = apps.start(None)
    history.choose(HistoryChoice.DISK)
    history.save(conversation("x"))
    history.close()
    apps.keyring.is_broken = True
    with pytest.raises(KeyUnavailable):
        apps.start(HistoryChoice.DISK)
    assert apps.opened[-1].is_locked
    apps.keyring.is_broken = False
    for name in ("keys", "keys.copy"):
        (apps.directory / name).unlink()
    with pytest.raises(EncryptionError, match="keys of the conversations on this disk are gone"):
        apps.start(HistoryChoice.DISK)
    apps.opened[-1].erase_all()
    apps.opened[-1].start()
    assert apps.opened[-1].is_on_disk


def test_a_name_a_folder_and_a_pin_stay_whatever_the_chat_saves_later(apps: Apps) -> None:
    history = apps.start(None)
    history.choose(HistoryChoice.DISK)
    history.save(made := conversation("Why?"))
    history.change(made.id, title="Sky", folder="Work")
    history.change(made.id, pinned=True)
    history.save(made.with_message(question("More"), after=made.leaf))
    assert history.flush()
    summary = history.list()[0]
    assert (summary.title, summary.folder, summary.pinned) == ("Sky", "Work", True)
    assert history.folders() == ("Work",)
    assert [each.summary.title for each in history.search("sky")] == ["Sky"]


def test_everything_can_be_erased_with_its_keys(apps: Apps) -> None:
    history = apps.start(None)
    history.choose(HistoryChoice.DISK, PASSPHRASE)
    history.save(conversation("Why?"))
    history.close()
    locked = apps.start(HistoryChoice.DISK)
    assert locked.count_on_disk() == 1
    assert locked.size_bytes() > 0
    locked.destroy()
    assert {each.name for each in apps.directory.rglob("*") if each.is_file()} <= {
        "lock",
        "keys.lock",
        *(each.name for each in (apps.directory / "home").rglob("*")),
    }


def test_a_draft_is_kept_on_the_disk_and_gone_when_it_is_sent(apps: Apps) -> None:
    history = apps.start(HistoryChoice.DISK)
    made = conversation("Why?", "So.")
    history.save(made)
    history.keep_draft(made, "and what if")
    history.save(made)  # an answer that grows does not know of it
    empty = Conversation()
    history.keep_draft(empty, "First words")
    assert history.close()

    again = apps.start(HistoryChoice.DISK)
    assert again.open(made.id).draft == "and what if"
    assert {each.title for each in again.list()} == {"Why?", "First words"}
    again.keep_draft(made, "")
    again.keep_draft(again.open(empty.id), "")  # all of it was deleted again
    assert again.flush()
    assert [each.id for each in again.list()] == [made.id]
    grown = empty.with_message(question("Sent after all"), after=None)
    again.save(grown)
    assert again.close()

    third = apps.start(HistoryChoice.DISK)
    assert third.open(made.id) == made
    assert third.open(empty.id) == grown


def test_a_draft_is_not_kept_where_conversations_are_not(apps: Apps) -> None:
    history = apps.start(HistoryChoice.MEMORY)
    history.keep_draft(Conversation(), "words")
    assert not history.list()
    assert not (apps.directory / "chats").exists()
