"""Conversations on the disk: two windows, crashes, full disks, damage, clocks, nothing readable."""

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.chat.conversation import Conversation
from localllm.chat.history import conversation_files
from localllm.chat.history.conversation_files import ConversationFiles
from localllm.chat.history.disk_store import DAY_S, DiskStore
from localllm.errors import EncryptionError, NotFound
from localllm.library.encryption.key_store import KeyStore
from tests.chat.history.conversations import answer, conversation, question
from tests.library.encryption.fake_keyring import FakeKeyring, FileKeyring


class Window:
    """One app on the conversations of a directory; the keyring is that of all its windows."""

    def __init__(self, directory: Path, keyring: FakeKeyring) -> None:
        self.directory = directory
        self.problems: list[str | None] = []
        self.now_s = 1e9
        self.keys = KeyStore(directory / "keys", keyring=keyring)
        if self.keys.exists():
            self.keys.unlock()
        else:
            self.keys.create()
        self.files = ConversationFiles(directory=directory / "chats", keys=self.keys)
        self.store = DiskStore(
            self.files, clock=lambda: self.now_s, on_problem=self.problems.append
        )

    def keep(self, *conversations: Conversation) -> None:
        for each in conversations:
            self.store.save(each)
        assert self.store.flush()


@contextlib.contextmanager
def window(directory: Path, keyring: FakeKeyring) -> Iterator[Window]:
    opened = Window(directory, keyring)
    try:
        yield opened
    finally:
        opened.store.close()


@pytest.fixture
def keyring() -> FakeKeyring:
    return FakeKeyring()


def test_a_conversation_is_found_listed_and_searched_after_a_restart(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    made = conversation("Why is the sky blue? SECRETWORD", "Rayleigh.")
    with window(tmp_path, keyring) as one:
        one.keep(made, conversation("Names of clouds"), Conversation())
        grown = made.with_message(question("And at sunset?"), after=made.leaf)
        one.keep(grown)
        assert [each.summary.id for each in one.store.search("sunset SKY")] == [made.id]
    with window(tmp_path, keyring) as two:
        assert two.store.open(made.id) == grown
        assert {each.title for each in two.store.list()} == {
            "Why is the sky blue? SECRETWORD",
            "Names of clouds",
        }
        hit = next(two.store.search("rayleigh"))
        assert (hit.message_id, hit.excerpt) == (made.messages[1].id, "Rayleigh.")
        assert two.store.problems() == ()
        assert two.store.size_bytes() > 0
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert not any(word in content for word in (b"SECRETWORD", b"sunset", b"clouds", b"Rayl"))
        if path.parent.name == "chats" and path.name != "lock":
            assert path.stat().st_mode & 0o777 == 0o600


def test_two_windows_write_to_one_conversation_and_both_are_kept(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    made = conversation("first", "answer")
    with window(tmp_path, keyring) as one, window(tmp_path, keyring) as two:
        one.keep(made)
        other = two.store.open(made.id)
        one.keep(made.with_message(question("mine"), after=made.leaf))
        two.keep(other.with_message(question("yours"), after=other.leaf))
        texts = {each.text for each in one.store.open(made.id).messages}
        assert texts == {"first", "answer", "mine", "yours"}
        new = conversation("of the second window")
        two.keep(new)
        assert {each.id for each in one.store.list()} == {made.id, new.id}
        two.store.erase(made.id)
        one.store.save(made.with_message(question("too late"), after=made.leaf))
        assert one.store.flush()
        assert one.problems == ["This chat was erased in another window. It is not kept any more."]
        assert [each.id for each in one.store.list()] == [new.id]


def test_erasing_is_for_good_and_what_still_comes_is_not_kept(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    made, stays = conversation("to be erased"), conversation("stays")
    with window(tmp_path, keyring) as one:
        one.keep(made, stays)
        path = one.files.file(made.id)
        copy = path.read_bytes()
        one.store.erase(made.id)
        one.keep(made.with_message(answer("late"), after=made.leaf))
        assert not path.exists()
        assert "chat/" + made.id not in one.keys.names()
        path.write_bytes(copy)  # from a backup, or unused blocks of the disk
        with pytest.raises(NotFound, match="erased"):
            one.store.open(made.id)
        assert [each.id for each in one.store.list()] == [stays.id]
        assert [name for name, _ in one.store.problems()] == [made.id]
        one.store.erase_all()
        assert one.store.list() == ()
        assert list((tmp_path / "chats").iterdir()) == [tmp_path / "chats" / "lock"]
        one.keep(conversation("after"))
        assert len(one.store.list()) == 1


def test_without_the_key_everything_can_be_erased_but_nothing_read(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    with window(tmp_path, keyring) as one:
        one.keep(conversation("x"))
        key_names = one.keys.names()
    locked = KeyStore(tmp_path / "keys", keyring=keyring)
    files = ConversationFiles(directory=tmp_path / "chats", keys=locked)
    with pytest.raises(EncryptionError):
        DiskStore(files)
    files.erase_all()
    assert [each.name for each in (tmp_path / "chats").iterdir()] == ["lock"]
    with window(tmp_path, keyring) as two:
        assert two.store.list() == ()
        assert len(two.keys.names()) < len(key_names)


def test_kill_9_at_any_moment_costs_no_more_than_what_was_not_confirmed(tmp_path: Path) -> None:
    keyring = FileKeyring(tmp_path / "keyring")
    confirmed: dict[str, int] = {}
    command = [sys.executable, "-m", "tests.chat.history.writer_process", str(tmp_path)]
    chosen = random.Random(7)
    for _ in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chosen.randrange(1, 90)):
                name, size = process.stdout.readline().split()
                confirmed[name] = int(size)
            process.kill()
    with window(tmp_path, keyring) as one:
        assert {each.id for each in one.store.list()} >= set(confirmed)
        assert one.store.problems() == ()
        for name, length in confirmed.items():
            assert len(one.store.open(name).messages[1].text) >= length
    for path in (tmp_path / "chats").iterdir():
        assert b"SECRETWORD" not in path.read_bytes()


def test_a_full_disk_is_told_and_everything_is_kept_when_there_is_room_again(
    tmp_path: Path, keyring: FakeKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = conversation("first")

    def fail(*_: object) -> None:
        raise EncryptionError("No space left on device.")

    with window(tmp_path, keyring) as one:
        one.keep(made)
        grown = made.with_message(answer("second"), after=made.leaf)
        with monkeypatch.context() as patch:
            patch.setattr(conversation_files, "append", fail)
            one.store.save(grown)
            assert not one.store.flush(0.05)
            assert one.store.open(made.id) == grown
        assert one.store.flush()
        assert one.problems == ["No space left on device.", None]
        assert one.files.read(made.id).conversation == grown


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path, keyring: FakeKeyring) -> None:
    made = conversation("one", "two", "three")
    with window(tmp_path, keyring) as one:
        one.keep(made)
        path = one.files.file(made.id)
    data = path.read_bytes()
    middle = len(data) // 2
    for broken, problem in (
        (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "1 of its changes"),
        (data[: len(data) - 200], "its end is missing"),
        (data[:20], "damaged"),
    ):
        path.write_bytes(broken)
        with window(tmp_path, keyring) as two:
            assert problem in dict(two.store.problems())[made.id]
            if len(broken) > 100:
                two.store.open(made.id).path()
        path.write_bytes(data)
        (tmp_path / "chats" / "index").unlink()
        with window(tmp_path, keyring) as three:
            assert three.store.problems() == ()
            assert len(three.store.list()) == 1


def test_old_conversations_are_erased_a_day_after_they_were_found_old(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    with window(tmp_path, keyring) as one:
        start_s = one.now_s
        old, pinned = conversation("old", at_s=start_s), conversation("pinned", at_s=start_s)
        one.keep(old, replace(pinned, pinned=True), conversation("new", at_s=start_s + 20 * DAY_S))
        one.now_s = start_s + 3000 * DAY_S  # a clock that jumps costs nothing
        assert one.store.erase_expired(30) == 0
        one.now_s = start_s + 29 * DAY_S
        assert one.store.erase_expired(30) == 0
        one.now_s = start_s + 31 * DAY_S
        assert one.store.erase_expired(30) == 0
        one.now_s += 0.9 * DAY_S
    with window(tmp_path, keyring) as two:
        two.now_s = start_s + 31.9 * DAY_S
        assert two.store.erase_expired(30) == 0
        two.now_s = start_s + 32.1 * DAY_S
        assert two.store.erase_expired(30) == 1
        assert [each.title for each in two.store.list()] == ["pinned", "new"]


def test_many_changes_are_written_anew_without_what_was_removed(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    made = conversation("one", "two")
    with window(tmp_path, keyring) as one:
        for number in range(150):
            made = replace(made, title=f"title {number}")
            one.files.write(made)
        path = one.files.file(made.id)
        assert one.files.read(made.id).conversation == made
        size = path.stat().st_size
        assert size < 150 * 100
        made = made.without(made.messages[1].id)
        one.files.write(made)
        assert path.stat().st_size < size
        assert one.files.read(made.id).state.next_number == 3
