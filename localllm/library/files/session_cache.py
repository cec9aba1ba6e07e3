"""The kept cells of conversations: files in the cache that never take more room than they may.

What a model has computed of a conversation is large (docs/state.md) and can be computed again, so
it lies in the cache, beside nothing a person wrote; which file is a conversation's own is found
from where its session and its model are. The files hold what was said: they and their directory
are for their owner alone, and only a file that this key signed is read again.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import StoreError
from localllm.library.files import paths
from localllm.library.files.atomic_write import locked, write_atomically
from localllm.library.files.names import printable

_KEY_BYTES = 32
_KEY_NAME, _LOCK_NAME = "key", "key.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file of cells, and when it was last used (ns)."""

    path: Path
    size_bytes: int
    used_ns: int


def to_remove(kept: Iterable[Kept], limit_bytes: int) -> tuple[Path, ...]:
    """The files that have to go so that the others take no more than `limit_bytes`: those used
    least recently."""
    left, going = limit_bytes, []
    for each in sorted(kept, key=lambda each: (each.used_ns, each.path), reverse=True):
        left -= each.size_bytes
        if left < 0:
            going.append(each.path)
    return tuple(going)


class States:
    """One directory of kept cells."""

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        self._directory = directory
        self.limit_bytes = limit_bytes

    @classmethod
    def of_this_user(cls, limit_bytes: int) -> "States":
        return cls(paths.states_dir(), limit_bytes=limit_bytes)

    def file(self, session: Path, model: Path) -> Path:
        """Where the cells of this session's conversation with this model are."""
        name = f"{paths.absolute(session)}\0{paths.absolute(model)}".encode("utf-8", "replace")
        return self._directory / f"{hashlib.sha256(name).hexdigest()[:40]}.cells"

    def key(self) -> str:
        """What signs the files, in hexadecimal digits; made at the first call. Raises StoreError.

        It is as temporary as they are: without it they are useless, and without them it is.
        """
        path = self._directory / _KEY_NAME
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._directory / _LOCK_NAME):
                if (key := _read_key(path)) is None:
                    key = secrets.token_hex(_KEY_BYTES)
                    write_atomically(path, key.encode(), private=True)
            return key
        except (OSError, TimeoutError) as error:
            raise StoreError(f"Nothing can be kept in {self._directory}: {error}.") from error

    @contextlib.contextmanager
    def alone(self, session: Path) -> Iterator[None]:
        """Hold a session, so that no other process changes it meanwhile. Raises StoreError."""
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

    def used(self, path: Path) -> None:
        """Note that this file was used now, and remove others if they have become too many."""
        with contextlib.suppress(OSError):
            os.utime(path)
        for going in to_remove(self._kept(), self.limit_bytes):
            with contextlib.suppress(OSError):  # another process was faster, or has it open
                going.unlink()

    def _kept(self) -> Iterator[Kept]:
        """Also what a writer that was killed has left."""
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith((".cells", ".cells.tmp")):
                    continue
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    yield Kept(
                        path=Path(entry.path),
                        size_bytes=found.st_size,
                        used_ns=found.st_mtime_ns,
                    )


def _read_key(path: Path) -> str | None:
    """None when there is none, or something that is no key."""
    try:
        with path.open("rb") as file:
            text = file.read(2 * _KEY_BYTES + 1).decode("ascii")
        return text if len(bytes.fromhex(text)) == _KEY_BYTES and text == text.lower() else None
    except (FileNotFoundError, ValueError):
        return None
