"""The key that a passphrase gives: scrypt (RFC 7914), with its parameters beside the data.

scrypt is slow and takes much memory on purpose, so that passphrases cannot be tried quickly. The
parameters come from a file that anybody may have written to, so their memory has a limit.
"""

import secrets
import unicodedata
from typing import Annotated

import msgspec

from localllm.core.units import format_bytes
from localllm.errors import DamagedData, EncryptionError, UsageError
from localllm.library.encryption.cipher import KEY_BYTES

MIN_CHARACTERS, MAX_CHARACTERS = 8, 1024
_MAX_MEMORY_BYTES = 2**28
_SALT_BYTES = 16


class ScryptParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Salt and costs; the memory is 128 n r bytes. The defaults take 128 MiB and under a second
    (OWASP Password Storage Cheat Sheet, 2025)."""

    salt: bytes = msgspec.field(default_factory=lambda: secrets.token_bytes(_SALT_BYTES))
    n: Annotated[int, msgspec.Meta(ge=2, le=2**24)] = 2**17
    r: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    p: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1

    @property
    def memory_bytes(self) -> int:
        return 128 * self.n * self.r


def problem(passphrase: str) -> str | None:
    """Say why this cannot be a new passphrase; None when it can."""
    if len(passphrase) < MIN_CHARACTERS:
        return f"A passphrase needs at least {MIN_CHARACTERS} characters; a few words are best."
    if len(passphrase) > MAX_CHARACTERS:
        return f"A passphrase has at most {MAX_CHARACTERS} characters."
    return None


def key_of(passphrase: str, parameters: ScryptParameters) -> bytes:
    """Return the key. The same letters give the same key on every system (Unicode NFC).

    Takes `parameters.memory_bytes` and most of a second. Raises UsageError for a passphrase that
    is none, DamagedData for parameters that nobody should compute with.
    """
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if not passphrase or len(passphrase) > MAX_CHARACTERS:
        raise UsageError(f"A passphrase has 1 to {MAX_CHARACTERS} characters.")
    n, r, p = parameters.n, parameters.r, parameters.p
    if parameters.memory_bytes > _MAX_MEMORY_BYTES or n & (n - 1) or not parameters.salt:
        raise DamagedData("The key's file is damaged: nobody computes a key with such parameters.")
    text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogatepass")
    try:
        return Scrypt(salt=parameters.salt, length=KEY_BYTES, n=n, r=r, p=p).derive(text)
    except MemoryError:
        raise EncryptionError(
            "There is not enough memory for the key of the passphrase, which takes "
            f"{format_bytes(parameters.memory_bytes)} for a moment. Unload a model first."
        ) from None
