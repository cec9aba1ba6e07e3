"""The keys of everything that is kept encrypted, in one file that the system's keyring or a
passphrase opens.

Each thing that can be erased alone has a key of its own, by name. Erasing it is to write the file
again without that key, under a new master key, and with a keyring under a new wrapping key too:
what a disk may still hold of the old file then opens with nothing. A passphrase is changed in the
same way, and nothing else is written again.

The file is written twice, PATH and PATH.copy, because one bad block in it would lose everything.
Several processes may use it: each write happens under a lock, and on what the others wrote.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from localllm.errors import (
    DamagedData,
    EncryptionError,
    KeyUnavailable,
    NotFound,
    UsageError,
    WrongPassphrase,
)
from localllm.library.encryption import key_file, passphrase
from localllm.library.encryption.cipher import Cipher, new_key
from localllm.library.encryption.key_file import KeyFile, KeyHead, KeyTable
from localllm.library.encryption.locked_memory import LockedKey
from localllm.library.encryption.passphrase import ScryptParameters
from localllm.library.encryption.system_keyring import Keyring, SystemKeyring
from localllm.library.files.atomic_write import sync, write_atomically
from localllm.library.files.file_lock import locked

Signature = tuple[int, int, int]
"""The number, size and time of a file: they tell whether another process has replaced it."""

_ENTRY_PREFIX = "encryption-"


class Protection(StrEnum):
    """What opens the file of keys."""

    KEYRING = "keyring"
    PASSPHRASE = "passphrase"


class KeyStore:
    """The file of keys at `path`. All errors are EncryptionErrors, but for UsageError: a passphrase
    that cannot be one.

    The keyring may show a window and wait for it, and a passphrase takes most of a second: call
    `create`, `unlock`, `erase_keys`, `change_protection` and `destroy` in a thread.
    """

    def __init__(self, path: Path, *, keyring: Keyring | None = None) -> None:
        self._path = path
        self._copy = path.with_name(f"{path.name}.copy")
        self._keyring = keyring or SystemKeyring()
        self._mutex = threading.RLock()
        self._head = KeyHead()
        self._wrapping: LockedKey | None = None
        self._master: LockedKey | None = None
        self._table = KeyTable()
        self._seen: Signature | None = None

    # --- what is known without the key ---

    def exists(self) -> bool:
        """Tell whether there are keys."""
        return self._path.exists() or self._copy.exists()

    def protection(self) -> Protection | None:
        """Return what opens the file; None when there is none. Raises EncryptionError."""
        file = self._read()
        if file is None:
            return None
        return Protection.PASSPHRASE if file.head.scrypt is not None else Protection.KEYRING

    @property
    def is_unlocked(self) -> bool:
        return self._master is not None

    # --- open and close ---

    def create(self, new_passphrase: str | None = None) -> None:
        """Make the file, opened by a passphrase, or by the system's keyring (None)."""
        with self._locked():
            if self.exists():
                raise EncryptionError(f"There are keys already: {self._path}.")
            head, wrapping = self._new_protection(new_passphrase)
            self._write(head, KeyTable(), wrapping, new_key())

    def unlock(self, given_passphrase: str | None = None) -> None:
        """Open the file. Raises WrongPassphrase, KeyUnavailable or DamagedData."""
        with self._mutex:
            seen, file = self._signature(), self._read()
            if file is None:
                raise KeyUnavailable(f"The keys are gone: there is no file {self._path}.")
            self._open(file, self._wrapping_key(file.head, given_passphrase), seen)
        with contextlib.suppress(EncryptionError, OSError):  # after a change that was cut short
            self._tidy()

    def lock(self) -> None:
        """Forget all keys."""
        with self._mutex:
            for key in (self._wrapping, self._master):
                if key is not None:
                    key.wipe()
            self._wrapping = self._master = self._seen = None
            self._table = KeyTable()

    # --- keys ---

    def names(self) -> frozenset[str]:
        """Return the names of all keys."""
        with self._mutex:
            self._refresh()
            return frozenset(self._table.keys)

    def cipher(self, name: str) -> Cipher:
        """Return the cipher of a key. Raises NotFound when there is no such key (any more)."""
        with self._mutex:
            if name not in self._table.keys:
                self._refresh()
            self._require_unlocked()
            try:
                return Cipher(self._table.keys[name])
            except KeyError:
                raise NotFound("Its key was erased: nobody can read it any more.") from None

    def create_keys(self, names: Iterable[str]) -> None:
        """Make a random key for each name that has none."""
        with self._locked():
            wrapping, master = self._current()
            missing = {name: new_key() for name in names if name not in self._table.keys}
            if missing:
                table = KeyTable(
                    keys=self._table.keys | missing, retired_entries=self._table.retired_entries
                )
                self._write(self._head, table, wrapping, master)

    def erase_keys(self, names: Iterable[str]) -> None:
        """Erase keys: what was encrypted with them cannot be read by anybody any more."""
        with self._locked():
            wrapping, _ = self._current()
            gone = set(names) & set(self._table.keys)
            if not gone:
                return
            keys = {name: key for name, key in self._table.keys.items() if name not in gone}
            head, retired = self._head, self._table.retired_entries
            if (old := head.keyring_entry) is not None:
                with contextlib.suppress(KeyUnavailable):  # then under the old wrapping key
                    head, wrapping = self._new_protection(None)
                    retired = (*retired, old)
            self._write(
                head, KeyTable(keys=keys, retired_entries=retired), wrapping, new_key(), wipe=True
            )
            self._delete_retired()

    def change_protection(self, new_passphrase: str | None) -> None:
        """Open the file by another passphrase, or by the system's keyring (None), from now on."""
        head, wrapping = self._new_protection(new_passphrase)
        with self._locked():
            self._current()
            retired = self._table.retired_entries
            if self._head.keyring_entry is not None:
                retired = (*retired, self._head.keyring_entry)
            table = KeyTable(keys=self._table.keys, retired_entries=retired)
            self._write(head, table, wrapping, new_key(), wipe=True)
            self._delete_retired()

    def destroy(self) -> None:
        """Erase every key, and the file. Needs no passphrase."""
        with self._locked():
            entries = {*self._table.retired_entries}
            with contextlib.suppress(EncryptionError):
                file = self._read()
                if file is not None and file.head.keyring_entry is not None:
                    entries.add(file.head.keyring_entry)
            for path in (self._path, self._copy):
                overwrite_and_delete(path)
            self.lock()
            for entry in entries:
                with contextlib.suppress(KeyUnavailable):  # without the file it opens nothing
                    self._keyring.delete(entry)

    # --- inside ---

    def _new_protection(self, new_passphrase: str | None) -> tuple[KeyHead, bytes]:
        if new_passphrase is not None:
            if (reason := passphrase.problem(new_passphrase)) is not None:
                raise UsageError(reason)
            parameters = ScryptParameters()
            return KeyHead(scrypt=parameters), passphrase.key_of(new_passphrase, parameters)
        entry, key = f"{_ENTRY_PREFIX}{secrets.token_hex(8)}", new_key()
        self._keyring.write(entry, key)
        return KeyHead(keyring_entry=entry), key

    def _wrapping_key(self, head: KeyHead, given_passphrase: str | None) -> bytes:
        if head.scrypt is not None:
            if given_passphrase is None:
                raise KeyUnavailable("The passphrase is needed.")
            return passphrase.key_of(given_passphrase, head.scrypt)
        assert head.keyring_entry is not None
        return self._keyring.read(head.keyring_entry)

    def _open(self, file: KeyFile, wrapping: bytes, seen: Signature | None) -> None:
        """Take the keys out of the file. Raises EncryptionError."""
        try:
            master = file.unwrap(wrapping)
        except DamagedData:
            if file.head.scrypt is not None:
                raise WrongPassphrase("That is not the passphrase.") from None
            raise
        self._take(file.head, file.open_table(master), wrapping, master, seen)

    def _take(
        self, head: KeyHead, table: KeyTable, wrapping: bytes, master: bytes, seen: Signature | None
    ) -> None:
        self.lock()
        self._head, self._table = head, table
        self._wrapping, self._master = LockedKey(wrapping), LockedKey(master)
        self._seen = seen

    def _current(self) -> tuple[bytes, bytes]:
        """Return the wrapping key and the master key, after a look at what others wrote."""
        self._refresh()
        return self._require_unlocked()

    def _require_unlocked(self) -> tuple[bytes, bytes]:
        if self._wrapping is None or self._master is None:
            raise KeyUnavailable("What is kept encrypted is locked.")
        with self._wrapping.bytes() as wrapping, self._master.bytes() as master:
            return bytes(wrapping), bytes(master)

    def _refresh(self) -> None:
        """Read the file again when another process has written it. Raises EncryptionError."""
        wrapping, _ = self._require_unlocked()
        seen = self._signature()
        if seen == self._seen:
            return
        file = self._read()
        if file is None:
            self.lock()
            raise KeyUnavailable("The keys were erased in another window.")
        if file.head != self._head:
            if file.head.scrypt is not None:
                self.lock()
                raise KeyUnavailable("The passphrase was changed in another window: unlock again.")
            wrapping = self._wrapping_key(file.head, None)
        self._open(file, wrapping, seen)

    def _signature(self) -> Signature | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> KeyFile | None:
        """Return the file, or its copy where a disk has damaged or lost it; None when there is
        neither. Raises EncryptionError."""
        error: EncryptionError | None = None
        for path in (self._path, self._copy):
            try:
                with path.open("rb") as file:
                    return key_file.decode(file.read(key_file.MAX_FILE_BYTES))
            except FileNotFoundError:
                continue
            except DamagedData as damage:
                error = error or damage
            except OSError as failure:
                reason = failure.strerror or failure
                error = error or EncryptionError(f"{path} cannot be read: {reason}.")
        if error is not None:
            raise error
        return None

    def _write(
        self, head: KeyHead, table: KeyTable, wrapping: bytes, master: bytes, *, wipe: bool = False
    ) -> None:
        """Replace both files. `wipe`: overwrite what they were, where a file system does that."""
        data = key_file.encode(head, table, wrapping_key=wrapping, master_key=master)
        if len(data) > key_file.MAX_FILE_BYTES:
            raise EncryptionError("There are too many keys. Erase what is not needed any more.")
        try:
            for path in (self._path, self._copy):
                _replace(path, data, wipe=wipe)
        except OSError as error:
            raise EncryptionError(
                f"The keys cannot be written to {self._path}: {error.strerror or error}."
            ) from error
        self._take(head, table, wrapping, master, self._signature())

    def _tidy(self) -> None:
        """Finish a change that a crash cut short: write the copy again, delete old entries."""
        both = self._path.exists() and self._copy.exists()
        same = both and self._path.read_bytes() == self._copy.read_bytes()
        if same and not self._table.retired_entries:
            return
        with self._locked():
            wrapping, master = self._current()
            self._write(self._head, self._table, wrapping, master)
            self._delete_retired()

    def _delete_retired(self) -> None:
        """Delete the keyring's entries that open nothing any more. Those that cannot be deleted now
        stay noted."""
        if not self._table.retired_entries:
            return
        left = []
        for entry in self._table.retired_entries:
            try:
                self._keyring.delete(entry)
            except KeyUnavailable:
                left.append(entry)
        wrapping, master = self._require_unlocked()
        table = KeyTable(keys=self._table.keys, retired_entries=tuple(left))
        self._write(self._head, table, wrapping, master)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with locked(self._path.with_name(f"{self._path.name}.lock")):
                    yield
            except EncryptionError:
                raise
            except OSError as error:  # LockHeld is one
                raise EncryptionError(
                    f"The keys in {self._path.parent} cannot be changed: {error}."
                ) from error


def _replace(path: Path, data: bytes, *, wipe: bool) -> None:
    """Replace a file; `wipe`: then overwrite what it was. Raises OSError."""
    with contextlib.ExitStack() as stack:
        old = None
        if wipe and os.name == "posix":  # elsewhere a file that is open cannot be replaced
            with contextlib.suppress(FileNotFoundError):
                old = stack.enter_context(path.open("r+b"))
        write_atomically(path, data, private=True)
        if old is not None and os.fstat(old.fileno()).st_ino != path.stat().st_ino:
            _overwrite(old.fileno())


def _overwrite(descriptor: int) -> None:
    """Write random bytes over a file. On a disk that writes in place nothing is left of it."""
    with contextlib.suppress(OSError):
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, os.urandom(size))
        sync(descriptor)


def overwrite_and_delete(path: Path) -> None:
    """Delete a file, after writing random bytes over it. Raises OSError when it cannot be deleted;
    a file that is not there is deleted."""
    with contextlib.suppress(OSError), path.open("r+b") as file:
        _overwrite(file.fileno())
    path.unlink(missing_ok=True)
