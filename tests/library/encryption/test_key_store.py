"""The file of keys: keyring and passphrase, rotation, two processes, damage."""

from pathlib import Path

import pytest

from localllm.errors import (
    DamagedData,
    EncryptionError,
    KeyUnavailable,
    NotFound,
    UsageError,
    WrongPassphrase,
)
from localllm.library.encryption import key_store, passphrase
from localllm.library.encryption.key_store import KeyStore, Protection
from localllm.library.encryption.passphrase import ScryptParameters
from tests.library.encryption.fake_keyring import FakeKeyring

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_store, "ScryptParameters", lambda: ScryptParameters(n=2**4))


@pytest.fixture
def keyring() -> FakeKeyring:
    return FakeKeyring()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "keys"


def opened(path: Path, keyring: FakeKeyring, given: str | None = None) -> KeyStore:
    store = KeyStore(path, keyring=keyring)
    store.unlock(given)
    return store


def test_keys_are_found_again_after_a_restart(path: Path, keyring: FakeKeyring) -> None:
    store = KeyStore(path, keyring=keyring)
    assert not store.exists()
    assert store.protection() is None
    store.create()
    store.create_keys(["chat"])
    encrypted = store.cipher("chat").encrypt(b"text", b"")
    assert store.protection() is Protection.KEYRING
    again = opened(path, keyring)
    assert again.cipher("chat").decrypt(encrypted, b"") == b"text"
    assert {
        each.stat().st_mode & 0o077 for each in path.parent.iterdir() if "lock" not in each.name
    } == {0}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_passphrase_opens_and_another_one_is_refused(path: Path, keyring: FakeKeyring) -> None:
    KeyStore(path, keyring=keyring).create(PASSPHRASE)
    assert KeyStore(path, keyring=keyring).protection() is Protection.PASSPHRASE
    assert opened(path, keyring, PASSPHRASE).is_unlocked
    with pytest.raises(WrongPassphrase):
        opened(path, keyring, "another one entirely")
    with pytest.raises(KeyUnavailable):
        opened(path, keyring)
    assert keyring.entries == {}
    with pytest.raises(UsageError, match="8 characters"):
        KeyStore(path.with_name("other"), keyring=keyring).create("short")


def test_the_same_letters_are_the_same_passphrase_however_they_are_typed() -> None:
    parameters = ScryptParameters(n=2**4)
    assert passphrase.key_of("Gru\u0308n", parameters) == passphrase.key_of("Gr\u00fcn", parameters)
    with pytest.raises(DamagedData):
        passphrase.key_of("x", ScryptParameters(n=2**24, r=64))


def test_another_protection_keeps_the_keys(path: Path, keyring: FakeKeyring) -> None:
    store = KeyStore(path, keyring=keyring)
    store.create()
    store.create_keys(["chat"])
    encrypted = store.cipher("chat").encrypt(b"text", b"")
    store.change_protection(PASSPHRASE)
    assert keyring.entries == {}
    assert opened(path, keyring, PASSPHRASE).cipher("chat").decrypt(encrypted, b"") == b"text"
    store.change_protection("another one entirely")
    with pytest.raises(WrongPassphrase):
        opened(path, keyring, PASSPHRASE)
    store.change_protection(None)
    assert opened(path, keyring).cipher("chat").decrypt(encrypted, b"") == b"text"


def test_an_erased_key_is_in_no_file_that_any_key_opens(path: Path, keyring: FakeKeyring) -> None:
    store = KeyStore(path, keyring=keyring)
    store.create()
    store.create_keys(["chat", "other"])
    kept = store.cipher("other").encrypt(b"kept", b"")
    old_file, old_entries = path.read_bytes(), dict(keyring.entries)
    store.erase_keys(["chat", "never there"])
    with pytest.raises(NotFound, match="erased"):
        store.cipher("chat")
    assert store.cipher("other").decrypt(kept, b"") == b"kept"
    assert set(keyring.entries).isdisjoint(old_entries)
    path.write_bytes(old_file)  # as if it was found in unused blocks of the disk
    path.with_name("keys.copy").unlink()
    with pytest.raises(KeyUnavailable):
        opened(path, keyring)


def test_erasing_goes_on_without_the_keyring_and_is_finished_later(
    path: Path, keyring: FakeKeyring
) -> None:
    store = KeyStore(path, keyring=keyring)
    store.create()
    store.create_keys(["chat"])
    keyring.is_broken = True
    store.erase_keys(["chat"])
    keyring.is_broken = False
    again = opened(path, keyring)
    assert again.names() == frozenset()
    assert len(keyring.entries) == 1


def test_two_windows_see_each_others_keys(path: Path, keyring: FakeKeyring) -> None:
    one = KeyStore(path, keyring=keyring)
    one.create()
    two = opened(path, keyring)
    one.create_keys(["a"])
    two.create_keys(["b"])
    assert one.names() == two.names() == {"a", "b"}
    two.erase_keys(["a"])
    assert one.names() == {"b"}
    two.change_protection(PASSPHRASE)
    with pytest.raises(KeyUnavailable, match="passphrase was changed"):
        one.names()
    one.unlock(PASSPHRASE)
    assert one.names() == {"b"}
    two.destroy()
    with pytest.raises(KeyUnavailable, match="erased in another window"):
        one.names()


def test_destroying_needs_no_passphrase_and_leaves_nothing(
    path: Path, keyring: FakeKeyring
) -> None:
    KeyStore(path, keyring=keyring).create(PASSPHRASE)
    KeyStore(path, keyring=keyring).destroy()
    assert not KeyStore(path, keyring=keyring).exists()
    KeyStore(path, keyring=keyring).create()
    KeyStore(path, keyring=keyring).destroy()
    assert keyring.entries == {}
    assert {each.name for each in path.parent.iterdir()} == {"keys.lock"}


@pytest.mark.parametrize("given", [None, PASSPHRASE])
def test_every_flipped_byte_and_every_cut_is_found(
    path: Path, keyring: FakeKeyring, given: str | None
) -> None:
    store = KeyStore(path, keyring=keyring)
    store.create(given)
    store.create_keys(["chat"])
    data, copy = path.read_bytes(), path.with_name("keys.copy")
    copy.unlink()
    for broken in (
        *(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :] for at in range(len(data))),
        *(data[:length] for length in range(0, len(data), 7)),
    ):
        path.write_bytes(broken)
        with pytest.raises(EncryptionError):
            opened(path, keyring, given)
        copy.unlink(missing_ok=True)
    path.write_bytes(data)
    assert opened(path, keyring, given).names() == {"chat"}


def test_a_damaged_or_missing_file_is_mended_from_its_copy(
    path: Path, keyring: FakeKeyring
) -> None:
    store = KeyStore(path, keyring=keyring)
    store.create()
    store.create_keys(["chat"])
    data = path.read_bytes()
    for broken in (b"", data[:-1], data[:50] + b"?" + data[51:], None):
        if broken is None:
            path.unlink()
        else:
            path.write_bytes(broken)
        assert opened(path, keyring).names() == {"chat"}
        assert path.read_bytes() == path.with_name("keys.copy").read_bytes()


def test_a_full_disk_leaves_the_keys_as_they_were(
    path: Path, keyring: FakeKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KeyStore(path, keyring=keyring)
    store.create()
    store.create_keys(["a"])

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(key_store, "write_atomically", fail)
        with pytest.raises(EncryptionError, match="No space left"):
            store.create_keys(["b"])
        with pytest.raises(EncryptionError, match="No space left"):
            store.erase_keys(["a"])
    assert store.names() == opened(path, keyring).names() == {"a"}
