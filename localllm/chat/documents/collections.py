"""All collections: kept encrypted with the keys of the conversations, or in memory while there are
none.

Each collection has a key of its own and two files: its name and counts, and its records. To erase
it is to erase its key and both files, so what a disk may still hold of them opens with nothing.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from localllm.chat.documents.collection import Collection, CollectionInfo
from localllm.chat.documents.record_log import EncryptedLog, MemoryLog, delete_file
from localllm.core.text import single_line
from localllm.errors import DamagedData, NotFound, StoreError, UsageError
from localllm.library.encryption.cipher import place
from localllm.library.encryption.encrypted_file import read_encrypted, write_encrypted
from localllm.library.encryption.key_store import KeyStore
from localllm.library.files import paths
from localllm.library.files.file_lock import LockHeld, locked
from localllm.library.files.names import printable
from localllm.translation import _

MAX_NAME = 60
_KEY = "collection {}"
_INFO, _RECORDS = ".info", ".records"
_LOCK_WAIT_S = 0.5


class Collections:
    """The collections of a person.

    `directory` is where they are kept while `keys` returns a KeyStore that is unlocked; while it
    returns None they are in memory alone, and move to the disk when there is one. All may read a
    disk: call them in a thread.
    """

    def __init__(
        self,
        directory: Path,
        keys: Callable[[], KeyStore | None] = lambda: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._find_keys = keys
        self._keys: KeyStore | None = None
        self._clock = clock
        self._mutex = threading.RLock()
        self._open: dict[str, Collection] = {}

    @property
    def are_kept(self) -> bool:
        """Tell whether collections outlive the program."""
        return self._find_keys() is not None

    def list(self) -> tuple[CollectionInfo, ...]:
        """Return all collections by name. One whose files are damaged is left out. Raises
        StoreError, EncryptionError."""
        with self._mutex:
            keys = self._current_keys()
            stored: dict[str, CollectionInfo] = {}
            if keys is not None:  # without those that another window erased
                known = keys.names()
                self._open = {id_: o for id_, o in self._open.items() if _KEY.format(id_) in known}
                stored = {each.id: each for each in self._stored(keys)}
            infos = stored | {each.info.id: each.current_info() for each in self._open.values()}
            return tuple(sorted(infos.values(), key=lambda each: (each.name.casefold(), each.id)))

    def create(self, root: Path, name: str = "") -> CollectionInfo:
        """Make a collection of a folder, with nothing indexed yet. `name`: the folder's, if it is
        "". Raises UsageError for a name or folder that is none, StoreError, EncryptionError."""
        root = paths.absolute(root)
        if not root.is_dir():
            raise UsageError(_("There is no folder {path}.").format(path=printable(root)))
        with self._mutex:
            taken = {each.name for each in self.list()}
            if name:
                chosen = _checked_name(name)
                if chosen in taken:
                    raise UsageError(
                        _("There is a collection {name} already. Choose another name.").format(
                            name=chosen
                        )
                    )
            else:
                chosen = _unused(_checked_name(root.name or "disk"), taken)
            info = CollectionInfo(
                id=secrets.token_hex(8), name=chosen, root=str(root), created_s=self._clock()
            )
            if self._keys is not None:
                self._keys.create_keys([_KEY.format(info.id)])
            self._open[info.id] = Collection(info, self._log(info.id))
            self.save(self._open[info.id])
            return info

    def open(self, name: str) -> Collection:
        """Open the collection of this name, or of this id. Raises NotFound, StoreError,
        EncryptionError."""
        with self._mutex:
            info = self._find(name)
            if info.id not in self._open:
                self._open[info.id] = Collection(info, self._log(info.id))
            return self._open[info.id]

    def save(self, collection: Collection) -> None:
        """Keep the counts of a collection. Raises EncryptionError, StoreError."""
        with self._mutex:
            keys = self._current_keys()
            collection.info = collection.current_info()
            if keys is not None:
                self._save_info(collection, keys)

    def _save_info(self, collection: Collection, keys: KeyStore) -> None:
        collection_id = collection.info.id
        path = self._directory / f"{collection_id}{_INFO}"
        data = msgspec.json.encode(collection.info)
        cipher = keys.cipher(_KEY.format(collection_id))
        write_encrypted(path, data, cipher, place("collection", collection_id))

    def erase(self, name: str) -> None:
        """Erase a collection for good; the files of its folder stay as they are. Raises NotFound,
        StoreError, EncryptionError."""
        with self._mutex:
            info = self._find(name)
            self._open.pop(info.id, None)
            if self._keys is not None:
                self._keys.erase_keys([_KEY.format(info.id)])
                for suffix in (_INFO, _RECORDS, ".lock"):
                    delete_file(self._directory / f"{info.id}{suffix}")

    def erase_all(self) -> None:
        """Erase every collection, also those on a disk that is locked: then their keys stay until
        all keys are erased. Raises StoreError, EncryptionError."""
        with self._mutex:
            keys = self._current_keys()
            self._open.clear()
            if keys is not None:
                keys.erase_keys([each for each in keys.names() if each.startswith(_KEY.format(""))])
            for path in self._directory.glob("*"):
                delete_file(path)

    def _current_keys(self) -> KeyStore | None:
        """Return the keys as they are now. When there are some at last, what is in memory moves to
        the disk. Raises StoreError, EncryptionError."""
        keys = self._find_keys()
        before, self._keys = self._keys, keys
        if before is not None and keys is None:  # locked: what was read is forgotten
            self._open.clear()
        elif before is None and keys is not None and self._open:
            keys.create_keys([_KEY.format(each) for each in self._open])
            for each in self._open.values():
                each.copy_to(self._log(each.info.id))
                self._save_info(each, keys)
        return keys

    @contextlib.contextmanager
    def changing(self, collection: Collection) -> Iterator[None]:
        """Hold a collection against other processes that would index it at the same time. Raises
        StoreError when one does."""
        if self._keys is None:
            yield
            return
        lock = self._directory / f"{collection.info.id}.lock"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, wait_s=_LOCK_WAIT_S))
            except LockHeld:
                raise StoreError(
                    _("{name} is being indexed in another window of localllm.").format(
                        name=collection.info.name
                    )
                ) from None
            except OSError as error:
                raise StoreError(
                    _("{path} cannot be locked: {reason}.").format(
                        path=printable(lock), reason=error.strerror or error
                    )
                ) from error
            collection.reload()
            yield

    def _find(self, name: str) -> CollectionInfo:
        infos = self.list()
        for info in infos:
            if name in (info.id, info.name):
                return info
        near = [each for each in infos if each.name.casefold() == name.casefold()]
        if len(near) == 1:
            return near[0]
        known = ", ".join(each.name for each in infos)
        raise NotFound(
            _("There is no collection {name}.").format(name=single_line(name)[:80])
            + (" " + _("There are: {names}.").format(names=known) if known else "")
        )

    def _log(self, collection_id: str) -> EncryptedLog | MemoryLog:
        if self._keys is None:
            return MemoryLog()
        cipher = self._keys.cipher(_KEY.format(collection_id))
        path = self._directory / f"{collection_id}{_RECORDS}"
        return EncryptedLog(path, cipher, place("records", collection_id))

    def _stored(self, keys: KeyStore) -> Iterator[CollectionInfo]:
        """Yield what is kept on the disk."""
        known = keys.names()
        for path in sorted(self._directory.glob(f"*{_INFO}")):
            collection_id = path.name.removesuffix(_INFO)
            key = _KEY.format(collection_id)
            if key not in known:
                continue
            try:
                data = read_encrypted(path, keys.cipher(key), place("collection", collection_id))
                info = msgspec.json.decode(data, type=CollectionInfo)
            except (DamagedData, NotFound, msgspec.MsgspecError):
                continue
            yield replace(info, id=collection_id)


def _checked_name(name: str) -> str:
    cleaned = single_line(name).replace(",", " ")[:MAX_NAME].strip()
    if not cleaned:
        raise UsageError(_("A collection needs a name."))
    return cleaned


def _unused(name: str, taken: set[str]) -> str:
    candidates = (name, *(f"{name} {number}" for number in range(2, 10_000)))
    return next(each for each in candidates if each not in taken)
