"""A whole file, encrypted: written atomically, read at once.

    magic  id of the file (16 random bytes)  chunks, each encrypted

The place of a chunk is that of the file, the file's id, its number and whether it is the last: a
file that is cut, exchanged or put together from two does not decrypt.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from localllm.errors import DamagedData, EncryptionError, NotFound
from localllm.library.encryption.cipher import OVERHEAD_BYTES, Cipher, place
from localllm.library.files.atomic_write import write_atomically

_MAGIC = b"localllm-file\r\n\0"
_ID_BYTES = 16
_START_BYTES = len(_MAGIC) + _ID_BYTES
_CHUNK_BYTES = 2**20


def write_encrypted(path: Path, text: bytes | memoryview, cipher: Cipher, at: bytes) -> None:
    """Replace the file with the encrypted text; only its owner can read it. `at` says what the file
    is (`cipher.place`). Raises EncryptionError, and leaves the old file as it is."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, b"".join(_encrypted(memoryview(text), cipher, at)), private=True)
    except OSError as error:
        raise EncryptionError(f"{path} cannot be written: {error.strerror or error}.") from error


def read_encrypted(path: Path, cipher: Cipher, at: bytes) -> bytes:
    """Return the text of a file. Raises DamagedData for one that is not as it was written, NotFound
    when there is none, EncryptionError when it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.") from None
    except OSError as error:
        raise EncryptionError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        return b"".join(_decrypted(memoryview(data), cipher, at))
    except DamagedData:
        raise DamagedData(f"{path} is damaged, cut or of another key.") from None


def _encrypted(text: memoryview, cipher: Cipher, at: bytes) -> Iterator[bytes]:
    file_id = os.urandom(_ID_BYTES)
    yield _MAGIC + file_id
    count = max(1, -(-len(text) // _CHUNK_BYTES))
    for number in range(count):
        chunk = text[number * _CHUNK_BYTES : (number + 1) * _CHUNK_BYTES]
        yield cipher.encrypt(chunk, place(at, file_id, number, int(number == count - 1)))


def _decrypted(data: memoryview, cipher: Cipher, at: bytes) -> Iterator[bytes]:
    if len(data) < _START_BYTES + OVERHEAD_BYTES or data[: len(_MAGIC)] != _MAGIC:
        raise DamagedData("It is cut, or something else.")
    file_id, chunks = bytes(data[len(_MAGIC) : _START_BYTES]), data[_START_BYTES:]
    step = _CHUNK_BYTES + OVERHEAD_BYTES
    count = -(-len(chunks) // step)
    for number in range(count):
        chunk = chunks[number * step : (number + 1) * step]
        yield cipher.decrypt(chunk, place(at, file_id, number, int(number == count - 1)))
