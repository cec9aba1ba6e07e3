"""Keys in the system's keyring: Keychain, Credential Manager, Secret Service, KWallet.

The package `keyring` takes whatever is installed, also what writes into a plain file, asks on the
terminal that an app draws on, or keeps nothing at all. A key belongs in none of those, so only the
keyrings of `TRUSTED` are used. Each call may show a window of the system that waits for a person,
and hangs where nobody sees it (ssh), so it runs in a thread of its own and has a limit.
"""

import base64
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from localllm.errors import KeyUnavailable

if TYPE_CHECKING:  # imported when a key is looked for: it looks at every installed package
    from keyring.backend import KeyringBackend

Result = TypeVar("Result")

SERVICE = "localllm"
"""The keyring's entries have this service."""

TRUSTED = {
    "keyring.backends.SecretService": "Secret Service",
    "keyring.backends.libsecret": "Secret Service",
    "keyring.backends.kwallet": "KWallet",
    "keyring.backends.macOS": "Keychain",
    "keyring.backends.Windows": "Credential Manager",
}
"""Modules of keyring's backends that a system keeps encrypted, and what people call them."""

WAIT_S = 120.0
"""As long as somebody may need to find and type the password of the keyring."""


class Keyring(Protocol):
    """A place for keys outside of our files. All raise KeyUnavailable."""

    @property
    def name(self) -> str:
        """The name that people know."""

    def read(self, entry: str) -> bytes:
        """Return a key."""

    def write(self, entry: str, key: bytes) -> None:
        """Put a key in, and make sure that it is there."""

    def delete(self, entry: str) -> None:
        """Take a key out; nothing happens when it is not there."""


class SystemKeyring:
    """The keyring of this system. It is looked for at the first use."""

    def __init__(self, *, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._found: KeyringBackend | None = None

    @property
    def name(self) -> str:
        return TRUSTED[type(self._backend()).__module__]

    def read(self, entry: str) -> bytes:
        backend = self._backend()
        text = self._call(lambda: backend.get_password(SERVICE, entry))
        if text is None:
            raise KeyUnavailable(
                f"This system's keyring ({self.name}) has no key of localllm with the name {entry}."
            )
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            raise KeyUnavailable(
                f"The keyring's entry {entry} of localllm was changed: it is no key any more."
            ) from None

    def write(self, entry: str, key: bytes) -> None:
        backend = self._backend()
        text = base64.b64encode(key).decode()
        self._call(lambda: backend.set_password(SERVICE, entry, text))
        if self.read(entry) != key:
            raise KeyUnavailable(f"This system's keyring ({self.name}) did not keep the key.")

    def delete(self, entry: str) -> None:
        from keyring.errors import PasswordDeleteError

        backend = self._backend()

        def delete() -> None:
            with contextlib.suppress(PasswordDeleteError):  # it is not there
                backend.delete_password(SERVICE, entry)

        self._call(delete)

    def _backend(self) -> "KeyringBackend":
        if self._found is None:
            self._found = self._call(_installed_backend)
        return self._found

    def _call(self, function: Callable[[], Result]) -> Result:
        return call_within(self._wait_s, function)


def _installed_backend() -> "KeyringBackend":
    import keyring

    return trusted_backend(keyring.get_keyring())


def trusted_backend(backend: "KeyringBackend") -> "KeyringBackend":
    """Return the keyring, or of several the first, that a system keeps encrypted. Raises
    KeyUnavailable with what is wrong with the one there is."""
    from keyring.backends.chainer import ChainerBackend

    candidates = backend.backends if isinstance(backend, ChainerBackend) else [backend]
    for each in candidates:
        if type(each).__module__ in TRUSTED:
            return each
    module, name = type(backend).__module__, type(backend).__name__
    if module in ("keyring.backends.fail", "keyring.backends.null") or not candidates:
        raise KeyUnavailable("This system has no keyring that is running. Use a passphrase.")
    raise KeyUnavailable(
        f"The keyring that is set up here, {module}.{name}, is none that keeps keys encrypted and "
        "asks for them in a window of the system. Use a passphrase."
    )


def call_within(wait_s: float, function: Callable[[], Result]) -> Result:
    """Call in a thread, which is left behind when it takes longer. Raises KeyUnavailable then, and
    for every error of a keyring."""
    results: list[Result] = []
    errors: list[str] = []

    def call() -> None:
        try:
            results.append(function())
        except KeyUnavailable as error:
            errors.append(str(error))
        except Exception as error:  # noqa: BLE001  # a backend raises what it likes
            # Not its message: a backend may put anything into it.
            errors.append(f"This system's keyring cannot be used ({type(error).__name__}).")

    thread = threading.Thread(target=call, name="keyring", daemon=True)
    thread.start()
    thread.join(wait_s)
    if results:
        return results[0]
    raise KeyUnavailable(
        errors[0]
        if errors
        else f"This system's keyring did not answer within {wait_s:g} s. Is it locked?"
    )
