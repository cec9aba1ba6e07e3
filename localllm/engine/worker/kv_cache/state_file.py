"""A sequence's cells in a file, so that a conversation can be taken up again without reading it.

The file is llama.cpp's own (`llama_state_seq_save_file`: tokens, then the cells layer by layer,
so that neither writing nor reading holds them twice in memory), followed by a note of ours:

    header   JSON: `Origin`, everything the cells depend on
    trailer  magic, version, length of the header, length of llama.cpp's part, and a BLAKE2b
             digest of all bytes before it, keyed: only who has the key can make a file that is
             read here

llama.cpp trusts what it reads (it has bounds checks, and assertions that end the process), so it
sees no byte before the whole file has been checked. A file that is damaged, cut, of another model
or of another key is a StateFailed with the reason.
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

import llama_cpp.llama_cpp as llama
import msgspec
import psutil

from localllm.core.sizing.load import Lora
from localllm.core.units import format_bytes
from localllm.engine.worker.kv_cache.kv_cache import Cells
from localllm.engine.worker.llama.build_info import describe
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import StateFailed

KEY_BYTES = 32
MIN_TOKENS = 16
"""Reading fewer again is faster than a file."""

_MAGIC, _VERSION = b"localllm-cells\r\n", 1
_TRAILER = struct.Struct("<16sIIQ32s")
_MAX_HEADER_BYTES = 2**16
_NATIVE_HEAD = struct.Struct("<III")  # magic, version, number of tokens (state_seq_save_file)
_CHUNK_BYTES = 2**20
_SAMPLES, _SAMPLE_BYTES = 16, 2**16
_FIRST_BYTES = 2**20
_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What cells depend on: those of another origin mean something else, or nothing.

    `files`: size and time of change (ns) of each of the model's files. `sample`: a digest of
    their first MiB and of 16 places spread over each; reading all of a model takes minutes.
    `loras`: those that were applied, by their place in `files` after the model's, and scales.
    `long_rope`: whether the context is one for which the model has other rope factors.
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
    loras: tuple[tuple[int, float], ...]


class ModelFiles:
    """The files of a model and its adapters; made before the load, so that a change after it is
    seen."""

    def __init__(self, path: str, loras: Iterable[Lora] = ()) -> None:
        self._paths = (*_parts(Path(path)), *(Path(adapter.path) for adapter in loras))
        self._stats = self._look()

    @property
    def stats(self) -> tuple[tuple[int, int], ...]:
        """Raises StateFailed when a file is not the one that was loaded any more."""
        if not self._stats or self._look() != self._stats:
            raise StateFailed("The model's file has changed since it was loaded.")
        return self._stats

    @functools.cached_property
    def sample(self) -> str:
        digest = hashlib.blake2b(digest_size=32)
        try:
            for path in self._paths:
                with path.open("rb") as file:
                    _sample(file, path.stat().st_size, digest)
        except OSError as error:
            raise StateFailed(f"The model's file cannot be read again: {error}.") from error
        return digest.hexdigest()

    def _look(self) -> tuple[tuple[int, int], ...]:
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return ()
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in found)


class States:
    """Saves and restores what one model's cache holds. Called between two steps."""

    def __init__(
        self,
        model: Model,
        cells: Cells,
        *,
        files: ModelFiles,
        log: NativeLog,
        chat_template: str | None,
        free_bytes: Callable[[Path], int] = lambda place: int(psutil.disk_usage(str(place)).free),
    ) -> None:
        """`chat_template` is its SHA-256; `free_bytes` asks how much a directory has room for."""
        self._free_bytes = free_bytes
        self._model = model
        self._cells = cells
        self._files = files
        self._log = log
        self._chat_template = chat_template
        self._space = model.loras.space(None)
        """That of requests which say nothing of adapters: what is kept is kept for them."""

    def save(
        self, tokens: list[int], path: Path, *, key: bytes, max_bytes: int | None = None
    ) -> tuple[int, int]:
        """Write what the cache holds of the beginning of `tokens`: how many tokens and bytes.

        The file appears whole or not at all, for its owner alone. Raises StateFailed.
        """
        slot = self._cells.recall(tokens, self._space)
        if slot is None:
            raise StateFailed("The cache holds nothing of this conversation.")
        try:
            count = self._cells.count(slot)
            return count, self._write(slot, tokens[:count], path, key, max_bytes)
        finally:
            self._cells.give_back(slot)

    def _write(
        self, slot: int, tokens: list[int], path: Path, key: bytes, max_bytes: int | None
    ) -> int:
        """Write what `slot` holds: these tokens. How many bytes that were."""
        if len(tokens) < MIN_TOKENS:
            raise StateFailed(f"The cache holds {len(tokens)} tokens of this conversation.")
        if min(tokens) < 0:
            raise StateFailed("A conversation with images cannot be kept.")
        header = msgspec.json.encode(self._origin())
        size = self._model.state_bytes(slot) + 4 * len(tokens) + len(header) + _TRAILER.size
        if max_bytes is not None and size > max_bytes:
            raise StateFailed(
                f"The cells of {len(tokens)} tokens take {format_bytes(size)}; at most "
                f"{format_bytes(max_bytes)} are kept."
            )
        self._require(path.parent, size)
        self._log.take()
        with _written(path) as new:
            native = self._model.write_state(slot, tokens, str(new))
            if not native or new.stat().st_size != native:
                reason = self._log.last_error() or "no reason given"
                raise StateFailed(f"llama.cpp could not write the cells: {reason}")
            _seal(new, header, native, key)
            return new.stat().st_size

    def restore(self, path: Path, *, key: bytes) -> int:
        """Bring the cells of a file back: of how many tokens. Raises StateFailed, and then no
        running request has noticed anything."""
        try:
            with path.open("rb") as file:
                tokens = self._check(file, key)
                # By the open file, not by its name: another one may have that by now.
                opened = f"/dev/fd/{file.fileno()}" if Path("/dev/fd").is_dir() else str(path)
                self._log.take()
                done = self._cells.bring(
                    tokens,
                    lambda slot: self._model.read_state(slot, len(tokens), opened),
                    self._space,
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
        """The tokens of a file whose every byte is as it was written here. Raises StateFailed."""
        header, native, signed = _trailer(file)
        try:
            origin = msgspec.json.decode(header, type=Origin)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StateFailed("The file of cells is damaged: its header says nothing.") from None
        if (other := _difference(origin, self._origin())) is not None:
            raise StateFailed(f"The cells were computed with another {other}.")
        if not _is_signed(file, key, signed):
            raise StateFailed("The file of cells is damaged, or was written with another key.")
        tokens = _tokens(file, native)
        if len(tokens) >= self._model.context:
            raise StateFailed(
                f"The file has the cells of {len(tokens)} tokens; the context holds "
                f"{self._model.context}."
            )
        return tokens

    def _require(self, place: Path, size: int) -> None:
        try:
            free = self._free_bytes(place)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise StateFailed(f"The cells cannot be written: {error}.") from error
        if free < size:
            raise StateFailed(
                f"The cells take {format_bytes(size)}, and {format_bytes(free)} are free where "
                f"{place} is."
            )

    def _origin(self) -> Origin:
        model, settings = self._model, self._model.settings
        architecture = model.about("general.architecture")
        trained = model.about(f"{architecture}.rope.scaling.original_context_length")
        build = describe()
        return Origin(
            build=f"{build.version} {build.commit}",
            architecture=architecture,
            files=self._files.stats,
            sample=self._files.sample,
            vocabulary=model.vocabulary,
            kv_type_k=settings.kv_type_k.value,
            kv_type_v=settings.kv_type_v.value,
            flash_attention=settings.flash_attention.value,
            swa_full=settings.swa_full,
            streams=1 if settings.kv_unified else settings.parallel,
            long_rope=trained.isdecimal() and model.cells_each > int(trained),
            chat_template=self._chat_template,
            loras=self._space,
        )


def _difference(one: Origin, other: Origin) -> str | None:
    """The name of the first thing in which two origins differ."""
    mine, theirs = asdict(one), asdict(other)
    return next((name.replace("_", " ") for name in mine if mine[name] != theirs[name]), None)


# --- the file ---


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A new file beside `path`, which takes its place in the end, or leaves nothing behind.
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
    """Put our note behind llama.cpp's part, signed, and all of it on the disk."""
    with path.open("r+b") as file:
        digest = _digest(file, native, key)
        file.seek(native)
        note = header + _TRAILER.pack(_MAGIC, _VERSION, len(header), native, bytes(32))[:-32]
        digest.update(note)
        file.write(note + digest.digest())
        file.flush()
        os.fsync(file.fileno())


def _trailer(file: BinaryIO) -> tuple[bytes, int, int]:
    """The header, the length of llama.cpp's part, and that of everything the digest covers."""
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
    """Of the first `length` bytes; the file is read on from there."""
    digest = hashlib.blake2b(key=key, digest_size=32)
    file.seek(0)
    while length > 0:
        chunk = file.read(min(_CHUNK_BYTES, length))
        if not chunk:
            raise StateFailed("The file of cells became shorter while it was read.")
        digest.update(chunk)
        length -= len(chunk)
    return digest


def _tokens(file: BinaryIO, native: int) -> list[int]:
    """The tokens at the beginning of llama.cpp's part."""
    file.seek(0)
    head = file.read(_NATIVE_HEAD.size)
    if native < _NATIVE_HEAD.size:
        raise StateFailed("The file of cells is damaged: it has no tokens.")
    magic, version, count = _NATIVE_HEAD.unpack(head)
    if (magic, version) != (llama.LLAMA_STATE_SEQ_MAGIC, llama.LLAMA_STATE_SEQ_VERSION):
        raise StateFailed("The file of cells is not of this llama.cpp.")
    if not 0 < 4 * count <= native - _NATIVE_HEAD.size:
        raise StateFailed("The file of cells is damaged: it ends among its tokens.")
    return list(struct.unpack(f"<{count}i", file.read(4 * count)))


def _sync_directory(path: Path) -> None:
    if sys.platform == "win32":
        return  # a directory cannot be opened there; NTFS journals its names
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the model's files ---


def _parts(path: Path) -> Sequence[Path]:
    """All files of a model of which this is the first."""
    if (match := _PART.search(path.name)) is None:
        return (path,)
    stem, count = path.name[: match.start()], int(match[1])
    return [path.with_name(f"{stem}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


def _sample(file: BinaryIO, size: int, digest: "hashlib.blake2b") -> None:
    digest.update(file.read(_FIRST_BYTES))
    for i in range(1, _SAMPLES + 1):
        file.seek(max(0, (size - _SAMPLE_BYTES) * i // _SAMPLES))
        digest.update(file.read(_SAMPLE_BYTES))
