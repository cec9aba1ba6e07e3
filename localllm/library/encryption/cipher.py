"""AES-256-GCM with the place of each text as associated data: what was moved, exchanged or changed
does not decrypt.

A nonce is 96 random bits. Counters would need no luck, but a restored snapshot of a virtual machine
or a tail that was cut after a crash makes a counter repeat, and one repeated nonce gives away the
difference of two texts. With the random ones a key is good for 2^32 texts (NIST SP 800-38D, 8.3);
a `Cipher` refuses to go on there.
"""

import os
import secrets
import struct
from typing import TYPE_CHECKING

from localllm.errors import DamagedData, EncryptionError

if TYPE_CHECKING:  # imported when something is encrypted
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES, TAG_BYTES = 12, 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""An encrypted text is so much longer than the plain one."""

MAX_TEXTS = 2**32
_PART = struct.Struct("<Q")


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def place(*parts: str | int | bytes) -> bytes:
    """Write where a text belongs (a file, a number in it) as associated data: different parts
    never give the same bytes. Raises OverflowError for a number that is not in 0..2^64-1."""
    return b"".join(map(_encoded, parts))


def _encoded(part: str | int | bytes) -> bytes:
    if isinstance(part, int):
        return b"i" + part.to_bytes(8, "little")
    data = part.encode() if isinstance(part, str) else part
    return (b"s" if isinstance(part, str) else b"b") + _PART.pack(len(data)) + data


class Cipher:
    """Encrypts and decrypts with one key, which stays out of tracebacks and logs.

    Can be used by several threads at once.
    """

    __slots__ = ("_aes", "_texts")

    def __init__(self, key: bytes | memoryview) -> None:
        """Take a key of 32 bytes. Raises EncryptionError where the library is missing."""
        self._aes = _aes(key)
        self._texts = 0

    def encrypt(self, text: bytes | memoryview, at: bytes) -> bytes:
        """Return nonce, encrypted text and tag. `at` is the text's place. Raises EncryptionError
        for a key that has encrypted as many texts as it may."""
        self._texts += 1
        if self._texts > MAX_TEXTS:
            raise EncryptionError("This key has encrypted as much as it may. Make a new one.")
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aes.encrypt(nonce, text, at)

    def decrypt(self, encrypted: bytes | memoryview, at: bytes) -> bytes:
        """Return the text. Raises DamagedData for bytes that are not as they were written, of
        another place or of another key."""
        from cryptography.exceptions import InvalidTag

        if len(encrypted) < OVERHEAD_BYTES:
            raise DamagedData("Encrypted data is cut.")
        try:
            return self._aes.decrypt(encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:], at)
        except InvalidTag:
            raise DamagedData("Encrypted data is damaged, or was made with another key.") from None


def _aes(key: bytes | memoryview) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise EncryptionError(f"Nothing can be encrypted here: {error}.") from error
    if len(key) != KEY_BYTES:
        raise EncryptionError(f"A key has {KEY_BYTES} bytes; this one has {len(key)}.")
    return AESGCM(key)
