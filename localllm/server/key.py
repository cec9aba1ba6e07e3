"""The API key, from the environment or from a file that only its owner can read."""

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import StoreError, UsageError

MAX_KEY_LENGTH = 1024
SHORTEST_KEY_BEYOND_LOOPBACK = 16
"""Characters. A key that other machines can try must not be guessable; ours has 43."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key and the file that holds it (None: it came from the environment).

    `warning` says what is wrong with the file, without making the key unusable.
    """

    text: str
    file: Path | None = None
    warning: str | None = None

    def __repr__(self) -> str:
        return f"ApiKey(file={self.file!r})"  # the key itself stays out of tracebacks and logs


def from_environment(value: str) -> ApiKey:
    """Take the key of LOCALLLM_API_KEY. Raises UsageError."""
    return ApiKey(text=_checked(value, "LOCALLLM_API_KEY"))


def from_file(path: Path) -> ApiKey:
    """Read a key: one line of printable ASCII. Raises UsageError."""
    try:
        # Opened without waiting: a named pipe would hang here for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_LENGTH + 3)
    except OSError as error:
        raise UsageError(
            f"The API key file {path} cannot be read: {error.strerror or error}."
        ) from error
    text = _checked((content or b"").decode("latin-1").strip(), f"The API key file {path}")
    shared = os.name == "posix" and mode & 0o077
    warning = (
        f"Others on this machine can read or change the API key file {path} "
        f"(mode {mode & 0o777:04o}). Try: chmod 600 {path}"
        if shared
        else None
    )
    return ApiKey(text=text, file=path, warning=warning)


def read_or_create(path: Path) -> ApiKey:
    """Read the key at `path`, or make a random one there that only this user can read.

    The file appears whole or not at all, and of two servers that start at once both get the key
    of the first. Raises UsageError when the file holds no key, StoreError when it cannot be made.
    """
    try:
        if not path.exists():
            _create(path, secrets.token_urlsafe(32))
    except OSError as error:
        raise StoreError(
            f"The API key file {path} cannot be created: {error.strerror or error}. "
            "Give a key in LOCALLLM_API_KEY or with --api-key-file."
        ) from error
    return from_file(path)


def _create(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".api-key-", dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)  # unlike a rename it does not replace another's key
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _checked(text: str, origin: str) -> str:
    if not text:
        raise UsageError(
            f"{origin} holds no key. Remove it and a new one is made at the next start."
        )
    if len(text) > MAX_KEY_LENGTH:
        raise UsageError(f"{origin} holds more than {MAX_KEY_LENGTH} characters: not an API key.")
    if not all("!" <= character <= "~" for character in text):
        raise UsageError(
            f"{origin} holds a blank or a character that an HTTP header cannot carry. "
            "A key is one word of printable ASCII."
        )
    return text
