"""Saved KV caches of sessions: which file is a session's, who may read it, which are evicted.

The KV cache of a conversation is large (docs/state.md) and can be computed again, so it is saved in
the cache directory and not beside the session; its file is found from the paths of the session and
the model. The files hold what was said: they and their directory are for their owner alone, and
only a file that this user's key signed is read again.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import StoreError
from localllm.library.files import atomic_write, paths
from localllm.library.files.file_lock import locked
from localllm.library.files.names import printable

_KEY_BYTES = 32
_KEY_NAME, _LOCK_NAME = "key", "key.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCache:
    """A file with a KV cache, and when it was last used (ns)."""

    path: Path
    size_bytes: int
    used_ns: int


def to_evict(caches: Iterable[SavedCache], limit_bytes: int) -> tuple[Path, ...]:
    """Return the least recently used files without which the others fit into `limit_bytes`."""
    free_bytes, evicted = limit_bytes, []
    for each in sorted(caches, key=lambda each: (each.used_ns, each.path), reverse=True):
        free_bytes -= each.size_bytes
        if free_bytes < 0:
            evicted.append(each.path)
    return tuple(evicted)


class SessionCache:
    """One directory of saved KV caches, at most `limit_bytes` of them."""

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        self._directory = directory
        self.limit_bytes = limit_bytes

    @classmethod
    def default(cls, limit_bytes: int) -> "SessionCache":
        """Return the session cache of this user."""
        return cls(paths.session_cache_dir(), limit_bytes=limit_bytes)

    def file(self, session: Path, model: Path) -> Path:
        """Return the file for the KV cache of a session with a model."""
        # Hashed, because neither path may be part of a file's name.
        name = f"{paths.absolute(session)}\0{paths.absolute(model)}".encode("utf-8", "replace")
        return self._directory / f"{hashlib.sha256(name).hexdigest()[:40]}.cells"

    def key(self) -> str:
        """Return the key that signs the files, in hexadecimal digits. Raises StoreError.

        Made at the first call and as temporary as the files: without it they are useless, and
        without them it is.
        """
        path = self._directory / _KEY_NAME
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._directory / _LOCK_NAME):
                if (key := _read_key(path)) is None:
                    key = secrets.token_hex(_KEY_BYTES)
                    atomic_write.write_atomically(path, key.encode(), private=True)
            return key
        except (OSError, TimeoutError) as error:
            raise StoreError(f"Nothing can be kept in {self._directory}: {error}.") from error

    @contextlib.contextmanager
    def locked(self, session: Path) -> Iterator[None]:
        """Lock a session, so that no other process changes it meanwhile. Raises StoreError."""
        with contextlib.ExitStack() as stack:
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = self.file(session, session).with_suffix(".lock")
                stack.enter_context(locked(lock, wait_s=0))
            except TimeoutError:
                raise StoreError(
                    f"{printable(session)} is open in another localllm. Close it there first."
                ) from None
            except OSError as error:
                raise StoreError(
                    f"Nothing can be kept in {self._directory}: {error}. Try --no-session-cache."
                ) from error
            yield

    def touch(self, path: Path) -> None:
        """Record that a file was used now, and evict others above the limit."""
        with contextlib.suppress(OSError):
            os.utime(path)
        for evicted in to_evict(self._saved(), self.limit_bytes):
            with contextlib.suppress(OSError):  # another process was faster, or has it open
                evicted.unlink()

    def _saved(self) -> Iterator[SavedCache]:
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                # .tmp: what a killed writer left takes disk space, too
                if not entry.name.endswith((".cells", ".cells.tmp")):
                    continue
                with contextlib.suppress(OSError):  # evicted by another process meanwhile
                    status = entry.stat(follow_symlinks=False)
                    yield SavedCache(
                        path=Path(entry.path),
                        size_bytes=status.st_size,
                        used_ns=status.st_mtime_ns,
                    )


def _read_key(path: Path) -> str | None:
    """Read the key; None when the file is missing or holds something else."""
    try:
        with path.open("rb") as file:
            text = file.read(2 * _KEY_BYTES + 1).decode("ascii")
        return text if len(bytes.fromhex(text)) == _KEY_BYTES and text == text.lower() else None
    except (FileNotFoundError, ValueError):
        return None
