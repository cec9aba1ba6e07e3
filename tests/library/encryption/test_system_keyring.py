"""Which keyrings are used, and what is told of the others."""

import threading
from types import ModuleType

import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from keyring.backends.chainer import ChainerBackend

from localllm.errors import KeyUnavailable
from localllm.library.encryption.cipher import new_key
from localllm.library.encryption.system_keyring import SystemKeyring, call_within, trusted_backend


class KeptKeyring(KeyringBackend):
    """Keeps entries in a dict, as a backend of the package `keyring`."""

    priority = 9

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.texts.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.texts[service, username] = password


class PlaintextKeyring(KeptKeyring):
    pass


class Chain(ChainerBackend):
    backends = (PlaintextKeyring(), KeptKeyring())


KeptKeyring.__module__ = "keyring.backends.macOS"
PlaintextKeyring.__module__ = "keyrings.alt.file"


@pytest.mark.parametrize("module", [fail, null])
def test_a_system_without_a_keyring_is_told_to_use_a_passphrase(module: ModuleType) -> None:
    with pytest.raises(KeyUnavailable, match=r"no keyring that is running\. Use a passphrase"):
        trusted_backend(module.Keyring())


def test_a_keyring_that_stores_plain_text_is_refused_by_name() -> None:
    with pytest.raises(KeyUnavailable, match=r"keyrings\.alt\.file\.PlaintextKeyring.*passphrase"):
        trusted_backend(PlaintextKeyring())


def test_of_several_keyrings_the_first_that_encrypts_is_used() -> None:
    assert type(trusted_backend(Chain())) is KeptKeyring  # type: ignore[no-untyped-call]


def test_a_key_is_written_read_and_deleted() -> None:
    keyring = SystemKeyring()
    backend = KeptKeyring()
    keyring._found = backend
    key = new_key()
    keyring.write("encryption-1", key)
    assert keyring.read("encryption-1") == key
    assert keyring.name == "Keychain"
    assert key not in "".join(backend.texts.values()).encode()
    keyring.delete("encryption-2")
    with pytest.raises(KeyUnavailable, match="has no key"):
        keyring.read("encryption-2")


def test_a_keyring_that_fails_or_hangs_is_told_without_its_text() -> None:
    never = threading.Event()
    with pytest.raises(KeyUnavailable, match="did not answer"):
        call_within(0.01, never.wait)
    never.set()

    def leak() -> None:
        raise RuntimeError("the secret")

    with pytest.raises(KeyUnavailable, match=r"cannot be used \(RuntimeError\)"):
        call_within(5, leak)
