"""The bytes of the file of keys.

    magic  length of the head  head (JSON)  master key, wrapped  table of keys, encrypted  CRC-32

The head says what the key is that wraps the master key: an entry of the system's keyring, or
scrypt's parameters for a passphrase. The master key encrypts the table, and the table has a key for
each thing that can be erased alone: a conversation, a collection. Everything before them is the
associated data of both, so no byte can be changed. The checksum is not for that: it tells a file
that a disk has damaged from one that is opened with the wrong passphrase.
"""

import struct
import zlib
from dataclasses import dataclass

import msgspec

from localllm.errors import DamagedData
from localllm.library.encryption.cipher import KEY_BYTES, OVERHEAD_BYTES, Cipher, place
from localllm.library.encryption.passphrase import ScryptParameters

MAX_FILE_BYTES = 2**26
"""Some 800,000 keys."""

_MAGIC = b"localllm-keys\r\n\0"
_VERSION = 1
_START = struct.Struct("<16sI")
_MAX_HEAD_BYTES = 2**12
_CHECKSUM_BYTES = 4
_WRAPPED_BYTES = KEY_BYTES + OVERHEAD_BYTES


class KeyHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What protects the keys: `keyring_entry` is the name of a key in the system's keyring, and
    `scrypt` belongs to a passphrase. Exactly one is there."""

    version: int = _VERSION
    keyring_entry: str | None = None
    scrypt: ScryptParameters | None = None


class KeyTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All keys by name, and the entries of the keyring that are yet to be deleted."""

    keys: dict[str, bytes] = {}
    retired_entries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A file that was read, nothing of it decrypted yet."""

    head: KeyHead
    start: bytes
    wrapped: bytes
    table: bytes

    def unwrap(self, wrapping_key: bytes | memoryview) -> bytes:
        """Return the master key. Raises DamagedData when the key is another one."""
        return Cipher(wrapping_key).decrypt(self.wrapped, place("master key", self.start))

    def open_table(self, master_key: bytes | memoryview) -> KeyTable:
        """Return the keys. Raises DamagedData."""
        at = place("table", self.start, self.wrapped)
        try:
            table = msgspec.msgpack.decode(
                Cipher(master_key).decrypt(self.table, at), type=KeyTable
            )
        except msgspec.MsgspecError:
            raise DamagedData("The file of keys was written by another version.") from None
        if any(len(key) != KEY_BYTES for key in table.keys.values()):
            raise DamagedData("The file of keys was written by another version.")
        return table


def encode(
    head: KeyHead,
    table: KeyTable,
    *,
    wrapping_key: bytes | memoryview,
    master_key: bytes | memoryview,
) -> bytes:
    """Return the bytes of a file."""
    text = msgspec.json.encode(head)
    start = _START.pack(_MAGIC, len(text)) + text
    wrapped = Cipher(wrapping_key).encrypt(master_key, place("master key", start))
    keys = Cipher(master_key).encrypt(msgspec.msgpack.encode(table), place("table", start, wrapped))
    return _with_checksum(start + wrapped + keys)


def _with_checksum(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def decode(data: bytes) -> KeyFile:
    """Take a file apart. Raises DamagedData."""
    whole, data = data, data[:-_CHECKSUM_BYTES]
    if whole != _with_checksum(data):
        raise DamagedData("The file of keys is damaged or cut.")
    try:
        magic, length = _START.unpack_from(data)
        end = _START.size + length
        if magic != _MAGIC or length > _MAX_HEAD_BYTES or len(data) < end + _WRAPPED_BYTES:
            raise DamagedData("The file of keys is damaged or cut.")
        head = msgspec.json.decode(data[_START.size : end], type=KeyHead)
    except (struct.error, msgspec.MsgspecError, UnicodeDecodeError):
        raise DamagedData("The file of keys is damaged or cut.") from None
    if head.version != _VERSION or (head.keyring_entry is None) == (head.scrypt is None):
        raise DamagedData("The file of keys was written by another version.")
    return KeyFile(
        head=head,
        start=data[:end],
        wrapped=data[end : end + _WRAPPED_BYTES],
        table=data[end + _WRAPPED_BYTES :],
    )
