"""The cells of a sequence in a file, so that a conversation goes on without its prompt being
computed again.

The file is llama.cpp's own (`llama_state_seq_save_file`: tokens, then the cells layer by layer,
so that neither writing nor reading holds them twice in memory), followed by two parts of ours:

    header   JSON: `Fingerprint`, everything that the cells depend on
    trailer  magic, version, length of the header, length of llama.cpp's part, and a keyed BLAKE2b
             digest of all bytes before it: nobody without the key can make a file that is read here

llama.cpp trusts what it reads (it has bounds checks, and assertions that end the process), so it
sees no byte before the whole file has been checked. A file that is damaged, truncated, of another
model or of another key raises StateFailed with the reason.
"""

import contextlib
import functools
import hashlib
import hmac
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import psutil

from localllm.core.sizing.load import ROPE_OF_HEADER, Lora, RopeSettings
from localllm.core.units import format_bytes
from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.kv_cache import KvCache
from localllm.engine.worker.llama.build_info import describe
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import StateFailed

KEY_BYTES = 32
MIN_TOKENS = 16
"""Computing fewer again is faster than reading a file."""

_MAGIC, _VERSION = b"localllm-cells\r\n", 1
_TRAILER = struct.Struct("<16sIIQ32s")
_MAX_HEADER_BYTES = 2**16
_NATIVE_HEAD = struct.Struct("<III")  # magic, version, number of tokens (state_seq_save_file)
_CHUNK_BYTES = 2**20
_SAMPLES, _SAMPLE_BYTES = 16, 2**16
_FIRST_BYTES = 2**20
_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Everything that cells depend on. With another fingerprint they mean something else.

    The names are those in files that people have, and in messages to them.
    `files`: size and time of change (ns) of each of the model's files. `sample`: a digest of
    their first MiB and of 16 places spread over each; reading all of a model takes minutes.
    `adapters`: those that were applied, by their place in `files` after the model's, and scales.
    `long_rope`: True when the context is so long that the model uses its other rope factors.
    """

    build: str
    architecture: str
    files: tuple[tuple[int, int], ...]
    sample: str
    vocabulary: int
    kv_type_k: str
    kv_type_v: str
    flash_attention: str
    swa_full: bool
    streams: int
    long_rope: bool
    chat_template: str | None
    adapters: tuple[tuple[int, float], ...]
    rope: RopeSettings = ROPE_OF_HEADER


class ModelFiles:
    """The files of a model and its adapters. Made before the load, so that a later change is
    noticed."""

    def __init__(self, path: str, loras: Iterable[Lora] = ()) -> None:
        self._paths = (*_parts(Path(path)), *(Path(adapter.path) for adapter in loras))
        self._stats = self._read_stats()

    @property
    def stats(self) -> tuple[tuple[int, int], ...]:
        """Size and time of change of each file. Raises StateFailed when a file is not the one that
        was loaded any more."""
        if not self._stats or self._read_stats() != self._stats:
            raise StateFailed("The model's file has changed since it was loaded.")
        return self._stats

    @functools.cached_property
    def sample(self) -> str:
        """A digest of a small part of each file, in hexadecimal digits. Raises StateFailed."""
        digest = hashlib.blake2b(digest_size=32)
        try:
            for path in self._paths:
                with path.open("rb") as file:
                    _sample(file, path.stat().st_size, digest)
        except OSError as error:
            raise StateFailed(f"The model's file cannot be read again: {error}.") from error
        return digest.hexdigest()

    def _read_stats(self) -> tuple[tuple[int, int], ...]:
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return ()
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in found)


def _free_bytes(directory: Path) -> int:
    return int(psutil.disk_usage(str(directory)).free)


class StateFiles:
    """Saves sequences of one model's cache to files and restores them. Called between steps."""

    def __init__(
        self,
        model: Model,
        kv_cache: KvCache,
        *,
        files: ModelFiles,
        log: NativeLog,
        chat_template: str | None,
        free_bytes: Callable[[Path], int] = _free_bytes,
    ) -> None:
        """`chat_template` is its SHA-256; `free_bytes` returns the free space of a directory."""
        self._free_bytes = free_bytes
        self._model = model
        self._kv_cache = kv_cache
        self._files = files
        self._log = log
        self._chat_template = chat_template
        self._lora_key = model.loras.default_key
        """Only sequences of requests that name no adapters are saved."""

    def save(
        self, tokens: list[int], path: Path, *, key: bytes, max_bytes: int | None = None
    ) -> tuple[int, int]:
        """Write what the cache has of the beginning of `tokens`. Returns the number of tokens, and
        the size in bytes.

        The file appears whole or not at all, readable for its owner alone. Raises StateFailed.
        """
        slot = self._kv_cache.acquire_to_read(tokens, self._lora_key)
        if slot is None:
            raise StateFailed("The cache holds nothing of this conversation.")
        try:
            count = self._kv_cache.length(slot)
            return count, self._write(slot, tokens[:count], path, key, max_bytes)
        finally:
            self._kv_cache.release(slot)

    def _write(
        self, slot: int, tokens: list[int], path: Path, key: bytes, max_bytes: int | None
    ) -> int:
        """Write the cells of `slot`, which are those of `tokens`. Returns the size in bytes."""
        if len(tokens) < MIN_TOKENS:
            raise StateFailed(f"The cache holds {len(tokens)} tokens of this conversation.")
        if min(tokens) < 0:
            raise StateFailed("A conversation with images cannot be kept.")
        header = msgspec.json.encode(self.fingerprint())
        size = self._model.state_bytes(slot) + 4 * len(tokens) + len(header) + _TRAILER.size
        if max_bytes is not None and size > max_bytes:
            raise StateFailed(
                f"The cells of {len(tokens)} tokens take {format_bytes(size)}; at most "
                f"{format_bytes(max_bytes)} are kept."
            )
        self._require_space(path.parent, size)
        self._log.take()
        with _atomic_write(path) as new:
            native = self._model.write_state(slot, tokens, str(new))
            if not native or new.stat().st_size != native:
                reason = self._log.last_error() or "no reason given"
                raise StateFailed(f"llama.cpp could not write the cells: {reason}")
            _seal(new, header, native, key)
            return new.stat().st_size

    def restore(self, path: Path, *, key: bytes) -> int:
        """Load the cells of a file into the cache. Returns the number of tokens.

        Raises StateFailed, and then no running request is affected.
        """
        try:
            with path.open("rb") as file:
                tokens = self._check(file, key)
                # By the open file, not by its name: another one may have that by now.
                opened = f"/dev/fd/{file.fileno()}" if Path("/dev/fd").is_dir() else str(path)
                self._log.take()
                done = self._kv_cache.insert(
                    tokens,
                    lambda slot: self._model.read_state(slot, len(tokens), opened),
                    self._lora_key,
                )
        except FileNotFoundError:
            raise StateFailed("There is no file of this conversation's cells.") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StateFailed(f"The file of cells cannot be read: {error}.") from error
        if not done:
            reason = self._log.last_error() or "every slot is in use"
            raise StateFailed(f"The cache does not take {len(tokens)} tokens now: {reason}")
        return len(tokens)

    def _check(self, file: BinaryIO, key: bytes) -> list[int]:
        """Return the tokens of a file of which every byte is as it was written here. Raises
        StateFailed."""
        header, native, signed = _read_trailer(file)
        try:
            fingerprint = msgspec.json.decode(header, type=Fingerprint)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StateFailed("The file of cells is damaged: its header says nothing.") from None
        if (other := difference(fingerprint, self.fingerprint())) is not None:
            raise StateFailed(f"The cells were computed with another {other}.")
        if not _is_signed(file, key, signed):
            raise StateFailed("The file of cells is damaged, or was written with another key.")
        tokens = _read_tokens(file, native)
        if len(tokens) >= self._model.context:
            raise StateFailed(
                f"The file has the cells of {len(tokens)} tokens; the context holds "
                f"{self._model.context}."
            )
        return tokens

    def _require_space(self, directory: Path, size: int) -> None:
        try:
            free = self._free_bytes(directory)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StateFailed(f"The cells cannot be written: {error}.") from error
        if free < size:
            raise StateFailed(
                f"The cells take {format_bytes(size)}, and {format_bytes(free)} are free where "
                f"{directory} is."
            )

    def fingerprint(self) -> Fingerprint:
        """Describe what the cells of this model depend on. Raises StateFailed."""
        model, settings = self._model, self._model.settings
        architecture = model.metadata("general.architecture")
        trained = model.metadata(f"{architecture}.rope.scaling.original_context_length")
        build = describe()
        return Fingerprint(
            build=f"{build.version} {build.commit}",
            architecture=architecture,
            files=self._files.stats,
            sample=self._files.sample,
            vocabulary=model.vocab.size,
            kv_type_k=settings.kv_type_k.value,
            kv_type_v=settings.kv_type_v.value,
            flash_attention=settings.flash_attention.value,
            swa_full=settings.swa_full,
            streams=1 if settings.kv_unified else settings.parallel,
            long_rope=trained.isdecimal() and model.cells_per_sequence > int(trained),
            chat_template=self._chat_template,
            adapters=self._lora_key,
            rope=settings.rope,
        )


def difference(one: Fingerprint, other: Fingerprint) -> str | None:
    """Name the first field in which they differ."""
    mine, theirs = asdict(one), asdict(other)
    return next((name.replace("_", " ") for name in mine if mine[name] != theirs[name]), None)


# --- the file ---


@contextlib.contextmanager
def _atomic_write(path: Path) -> Iterator[Path]:
    """Yield a new file beside `path`, which replaces it in the end, or leaves nothing behind.
    Raises StateFailed."""
    new = path.with_name(f"{path.name}.tmp")
    try:
        new.unlink(missing_ok=True)  # of a writer that was killed
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            yield new
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except (OSError, ValueError) as error:
        raise StateFailed(f"The cells cannot be written: {error}.") from error


def _seal(path: Path, header: bytes, native: int, key: bytes) -> None:
    """Append our header and trailer to llama.cpp's part, and bring all of it to the disk."""
    with path.open("r+b") as file:
        digest = _digest(file, native, key)
        file.seek(native)
        ours = header + _TRAILER.pack(_MAGIC, _VERSION, len(header), native, bytes(32))[:-32]
        digest.update(ours)
        file.write(ours + digest.digest())
        file.flush()
        os.fsync(file.fileno())


def _read_trailer(file: BinaryIO) -> tuple[bytes, int, int]:
    """Return the header, the length of llama.cpp's part, and that of all that the digest covers."""
    size = file.seek(0, os.SEEK_END)
    if size < _TRAILER.size:
        raise StateFailed("The file of cells is cut.")
    file.seek(-_TRAILER.size, os.SEEK_END)
    magic, version, header, native, _ = _TRAILER.unpack(file.read(_TRAILER.size))
    if magic != _MAGIC:
        raise StateFailed("The file of cells is cut, or is something else.")
    if version != _VERSION:
        raise StateFailed(f"The file of cells has version {version}; {_VERSION} is read.")
    if header > _MAX_HEADER_BYTES or native + header + _TRAILER.size != size:
        raise StateFailed("The file of cells is damaged: its lengths do not add up.")
    file.seek(native)
    return file.read(header), native, size - 32


def _is_signed(file: BinaryIO, key: bytes, signed: int) -> bool:
    digest = _digest(file, signed, key)
    return hmac.compare_digest(digest.digest(), file.read(32))


def _digest(file: BinaryIO, length: int, key: bytes) -> "hashlib.blake2b":
    """Digest the first `length` bytes, and leave the file's position behind them."""
    digest = hashlib.blake2b(key=key, digest_size=32)
    file.seek(0)
    while length > 0:
        chunk = file.read(min(_CHUNK_BYTES, length))
        if not chunk:
            raise StateFailed("The file of cells became shorter while it was read.")
        digest.update(chunk)
        length -= len(chunk)
    return digest


def _read_tokens(file: BinaryIO, native: int) -> list[int]:
    """Read the tokens at the beginning of llama.cpp's part, which is `native` bytes long."""
    file.seek(0)
    head = file.read(_NATIVE_HEAD.size)
    if native < _NATIVE_HEAD.size:
        raise StateFailed("The file of cells is damaged: it has no tokens.")
    magic, version, count = _NATIVE_HEAD.unpack(head)
    if magic != llama.LLAMA_STATE_SEQ_MAGIC or version not in llama.LLAMA_STATE_SEQ_VERSIONS:
        raise StateFailed("The file of cells is not of this llama.cpp.")
    if not 0 < 4 * count <= native - _NATIVE_HEAD.size:
        raise StateFailed("The file of cells is damaged: it ends among its tokens.")
    return list(struct.unpack(f"<{count}i", file.read(4 * count)))


def _sync_directory(path: Path) -> None:
    if sys.platform == "win32":
        return  # a directory cannot be opened there; NTFS journals its names
    # Some network and FUSE file systems cannot: the file has its name all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- the model's files ---


def _parts(path: Path) -> Sequence[Path]:
    """Return all files of a model of which this is the first."""
    if (match := _PART.search(path.name)) is None:
        return (path,)
    stem, count = path.name[: match.start()], int(match[1])
    return [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def _sample(file: BinaryIO, size: int, digest: "hashlib.blake2b") -> None:
    digest.update(file.read(_FIRST_BYTES))
    for i in range(1, _SAMPLES + 1):
        file.seek(max(0, (size - _SAMPLE_BYTES) * i // _SAMPLES))
        digest.update(file.read(_SAMPLE_BYTES))
