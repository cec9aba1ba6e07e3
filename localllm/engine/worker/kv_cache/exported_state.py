"""The conversations of a cache, copied out of the process and back: a model that is unloaded and
loaded again goes on with them, without reading them again.

Unlike a state file (state_file.py), such a copy is of use to the parent that asked for it alone. It
is one of two things:

    memory  a `memfd` of the parent (Linux), which the worker opens by its name under /proc. The
            parent seals it when it is complete, so that nobody can change what llama.cpp will trust
    disk    a file, encrypted and authenticated with a key that was made for it and is nowhere else
            than in the parent's memory: AES-256-GCM in chunks, each with its number and whether it
            is the last as associated data, so that a file that is cut or in another order fails

Both hold the same: head, fingerprint (JSON), tokens, cells.
"""

import mmap
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from localllm.core.units import format_bytes
from localllm.engine.worker.kv_cache.kv_cache import KvCache
from localllm.engine.worker.kv_cache.radix_tree import common
from localllm.engine.worker.kv_cache.state_file import (
    MIN_TOKENS,
    Fingerprint,
    StateFiles,
    difference,
)
from localllm.engine.worker.llama.model import Model
from localllm.errors import StateFailed

if TYPE_CHECKING:  # imported where a disk is used
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAX_CONVERSATIONS = 64
"""A pool of cells has up to 255 sequences; of more than these the oldest are of little worth."""

MIN_NEW = 4
"""A conversation is kept when at least this part (1/4) of it is in no other that is kept: the
others give back the beginning that they have in common."""

_MAGIC, _VERSION = b"localllm-swap\r\n\0", 1
_HEAD = struct.Struct("<16sIIIIQ")  # magic, version, fingerprint, tokens, 0, cells
_CHUNK_BYTES = 2**20
_TAG_BYTES = 16
_MAX_FINGERPRINT_BYTES = 2**16


class ExportedStates:
    """Copies conversations of one model's cache out and back. Called between steps."""

    def __init__(self, model: Model, kv_cache: KvCache, states: StateFiles) -> None:
        """`states` knows what the cells depend on."""
        self._model = model
        self._kv_cache = kv_cache
        self._states = states
        self._lora_key = model.loras.default_key
        self._listed: list[list[int]] = []

    def listed(self) -> tuple[int, ...]:
        """Return the lengths of the conversations that are worth keeping, used last first. `save`
        takes their indices."""
        held = self._kv_cache.conversations(self._lora_key)
        shares = self._kv_cache.memory.can_share
        self._listed = worth_keeping(held, shares=shares)[:MAX_CONVERSATIONS]
        return tuple(map(len, self._listed))

    def save(self, index: int, path: Path, *, key: bytes | None, max_bytes: int) -> tuple[int, int]:
        """Copy a listed conversation to the file at `path`, which exists. Returns the number of
        tokens and the size in bytes. Raises StateFailed."""
        if not 0 <= index < len(self._listed):
            raise StateFailed("There is no such conversation.")
        tokens = self._listed[index]
        slot = self._kv_cache.acquire_to_read(tokens, self._lora_key)
        if slot is None:
            raise StateFailed("The cache holds nothing of this conversation any more.")
        try:
            tokens = tokens[: self._kv_cache.length(slot)]
            return len(tokens), self._save(slot, tokens, path, key, max_bytes)
        except (OSError, ValueError) as error:  # a full disk, no memory; a NUL in the path
            raise StateFailed(f"The cells cannot be copied: {error}.") from error
        finally:
            self._kv_cache.release(slot)

    def _save(
        self, slot: int, tokens: list[int], path: Path, key: bytes | None, max_bytes: int
    ) -> int:
        fingerprint = msgspec.json.encode(self._states.fingerprint())
        cells = self._model.state_bytes(slot)
        head = _HEAD.pack(_MAGIC, _VERSION, len(fingerprint), len(tokens), 0, cells)
        start = head + fingerprint + struct.pack(f"<{len(tokens)}i", *tokens)
        size = len(start) + cells
        if size > max_bytes:
            raise StateFailed(
                f"The cells of {len(tokens)} tokens take {format_bytes(size)}; there is room for "
                f"{format_bytes(max(0, max_bytes))}."
            )
        with path.open("r+b") as file:
            if key is None:
                # Taken before it is written to: a page that is missing then ends the process.
                _allocate(file.fileno(), size)
                place = mmap.mmap(file.fileno(), size)
            else:
                place = mmap.mmap(-1, size)
            with place, memoryview(place) as whole, whole[len(start) :] as rest:
                whole[: len(start)] = start
                if not self._model.copy_state(slot, rest):
                    raise StateFailed("llama.cpp could not copy the cells.")
                if key is not None:
                    for chunk in encrypted(whole, key):
                        file.write(chunk)
                    file.flush()
        return size

    def restore(self, path: Path, *, key: bytes | None) -> int:
        """Put what was saved at `path` into the cache. Returns the number of tokens.

        Raises StateFailed, and then no running request is affected.
        """
        try:
            with path.open("rb") as file:
                if key is None:
                    _require_sealed(file.fileno())
                    # A private mapping: llama.cpp's pointer is one that could be written through.
                    place = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                else:
                    place = decrypted(file, key)
            with place, memoryview(place) as whole:
                return self._restore(whole)
        except (OSError, ValueError) as error:
            raise StateFailed(f"The kept cells cannot be read: {error}.") from error

    def _restore(self, whole: memoryview) -> int:
        tokens, start = self._check(whole)
        with whole[start:] as cells:
            done = self._kv_cache.insert(
                tokens,
                lambda slot: self._model.put_state(slot, len(tokens), cells),
                self._lora_key,
            )
        if not done:
            raise StateFailed(f"The cache does not take {len(tokens)} tokens now.")
        return len(tokens)

    def _check(self, whole: memoryview) -> tuple[list[int], int]:
        """Return the tokens of a copy and where its cells begin. Raises StateFailed for one that is
        not whole or not of this model and load."""
        if len(whole) < _HEAD.size:
            raise StateFailed("The kept cells are cut.")
        magic, version, named, count, _, cells = _HEAD.unpack_from(whole)
        start = _HEAD.size + named + 4 * count
        if magic != _MAGIC or version != _VERSION:
            raise StateFailed("The kept cells are not complete, or something else.")
        if named > _MAX_FINGERPRINT_BYTES or not count or start + cells != len(whole):
            raise StateFailed("The kept cells are damaged: their lengths do not add up.")
        try:
            fingerprint = msgspec.json.decode(
                bytes(whole[_HEAD.size : _HEAD.size + named]), type=Fingerprint
            )
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StateFailed("The kept cells are damaged: their head says nothing.") from None
        if (other := difference(fingerprint, self._states.fingerprint())) is not None:
            raise StateFailed(f"The kept cells were computed with another {other}.")
        if count >= self._model.context:
            raise StateFailed(
                f"Cells of {count} tokens were kept; the context holds {self._model.context}."
            )
        return list(struct.unpack_from(f"<{count}i", whole, _HEAD.size + named)), start


def worth_keeping(conversations: list[list[int]], *, shares: bool) -> list[list[int]]:
    """Choose, in their order, the conversations whose cells are worth a copy: without images, long
    enough, and, where prompts can share beginnings (`shares`), mostly in none before them."""
    chosen: list[list[int]] = []
    for tokens in conversations:
        known = max((common(tokens, other) for other in chosen), default=0) if shares else 0
        new = len(tokens) - known
        if new >= max(MIN_TOKENS, len(tokens) / MIN_NEW) and min(tokens) >= 0:
            chosen.append(tokens)
    return chosen


# --- encryption ---


def encrypted(plain: memoryview, key: bytes) -> Iterator[bytes]:
    """Yield `plain` in encrypted chunks. A key is for one text: the numbers of its chunks are the
    nonces. Raises StateFailed where the library is missing."""
    cipher = _cipher(key)
    count = max(1, -(-len(plain) // _CHUNK_BYTES))
    for number in range(count):
        chunk = plain[number * _CHUNK_BYTES : (number + 1) * _CHUNK_BYTES]
        with chunk:
            yield cipher.encrypt(*_labels(number, last=number == count - 1, chunk=chunk))


def decrypted(sealed: BinaryIO, key: bytes) -> mmap.mmap:
    """Return what was encrypted, in anonymous memory. Raises StateFailed for bytes that are not as
    they were written, or of another key."""
    from cryptography.exceptions import InvalidTag

    cipher, step = _cipher(key), _CHUNK_BYTES + _TAG_BYTES
    length = os.fstat(sealed.fileno()).st_size
    count = max(1, -(-length // step))
    size = length - count * _TAG_BYTES
    if size <= 0:
        raise StateFailed("The kept cells are cut.")
    plain = mmap.mmap(-1, size)
    for number in range(count):
        chunk = memoryview(sealed.read(step))
        nonce, data, last = _labels(number, last=number == count - 1, chunk=chunk)
        try:
            plain.write(cipher.decrypt(nonce, data, last))
        except InvalidTag:
            plain.close()
            raise StateFailed("The kept cells are damaged, or of another key.") from None
    return plain


def _labels(number: int, *, last: bool, chunk: memoryview) -> tuple[bytes, memoryview, bytes]:
    """Return the nonce, the data and the associated data of a chunk."""
    return number.to_bytes(12, "little"), chunk, b"last" if last else b"more"


def _cipher(key: bytes) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise StateFailed(f"Nothing can be encrypted: {error}.") from error
    return AESGCM(key)


# --- memory that has a name ---


def _allocate(descriptor: int, size: int) -> None:
    """Take the pages of a memory file. Raises OSError when there are not so many."""
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, size)
    else:
        raise OSError("this system has no memory that can be handed on")


def _require_sealed(descriptor: int) -> None:
    """Raise StateFailed unless this is memory that nobody can write to or shorten any more."""
    if sys.platform == "linux":
        import fcntl

        wanted = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
        try:
            if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & wanted == wanted:
                return
        except OSError:  # a file on a disk has no seals
            pass
    raise StateFailed("What is not encrypted has to be sealed memory.")
