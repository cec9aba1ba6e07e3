"""The named keys that `localllm key` makes: keys.json has their hashes and what they allow.

A key is 256 random bits, so one SHA-256 of it is enough: nobody can try 2^256 keys, and a slow
hash, which makes guessed passwords dear, would only make each request dear. The owner's own key
stays in a file of its own (key.py): clients of this user must be able to read it.

Only `localllm key` writes keys.json. When a key was last used is the server's to write, in another
file: the process that answers the network never rewrites what decides who may come in.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from localllm.errors import NotFound, StoreError, UsageError
from localllm.library.files import atomic_write
from localllm.library.files.file_lock import locked
from localllm.server.request_record import NO_LIMITS, Caller, KeyLimits, Scope

SCHEMA = 1
PREFIX = "localllm-"
"""In front of every key, so that scanners for secrets, and people, know what they have found."""
MAX_KEYS = 1000
MAX_FILE_BYTES = 2**22
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKey:
    """One key as keys.json has it. `models` None: all; times are seconds since 1970, `expires`
    None: never."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...] = (Scope.INFER,)
    models: tuple[str, ...] | None = None
    created: float
    expires: float | None = None
    requests: int | None = None
    tokens_per_minute: int | None = None

    @property
    def caller(self) -> Caller:
        """What requests with this key may do."""
        limited = self.requests is not None or self.tokens_per_minute is not None
        return Caller(
            name=self.name,
            key_id=self.sha256,
            scopes=frozenset(self.scopes),
            models=None if self.models is None else frozenset(self.models),
            limits=KeyLimits(requests=self.requests, tokens_per_minute=self.tokens_per_minute)
            if limited
            else NO_LIMITS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    schema: int
    keys: tuple[NamedKey, ...]


def digest_of(key: str | bytes) -> bytes:
    """Return the hash under which a key is kept."""
    return hashlib.sha256(key.encode("latin-1") if isinstance(key, str) else key).digest()


def checked_name(name: str) -> str:
    """Check the name of a key. Raises UsageError."""
    if _NAME.fullmatch(name) is None or name.lower() == "owner":
        raise UsageError(
            "The name of a key is 1 to 64 letters, digits, dots, dashes, underscores and @, and "
            "not `owner`, which is this user's own key. Try: localllm key create notebook"
        )
    return name


def parse_expiry(text: str, now: float) -> float:
    """Read when a key expires: after "12h", "30d", "8w", or on a day "2027-01-31" (UTC, its end).

    Raises UsageError.
    """
    units = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
    if (match := re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip().lower())) is not None:
        expires = now + int(match[1]) * units[match[2]].total_seconds()
    else:
        try:
            day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise UsageError(
                "--expires takes a time such as 12h, 30d or 8w, or a day such as 2027-01-31."
            ) from None
        expires = (day + timedelta(days=1)).timestamp()
    if expires <= now:
        raise UsageError("--expires is in the past: the key could never be used.")
    return expires


class KeyFile:
    """keys.json at `path`; when each key was last used stands in `used_path`."""

    def __init__(self, path: Path, used_path: Path) -> None:
        self.path = path
        self._used_path = used_path

    def signature(self) -> tuple[int, ...] | None:
        """Return what changes when the file does, without reading it; None: there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode

    def load(self) -> tuple[NamedKey, ...]:
        """Read all keys; none when there is no file. Raises StoreError: unreadable, damaged, or
        writable by others, who could put a key of theirs in it."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(
                f"The API keys in {self.path} cannot be read: {error.strerror or error}."
            ) from error
        if os.name == "posix" and mode & 0o022:
            raise StoreError(
                f"Others can write {self.path} (mode {mode & 0o777:04o}) and so add keys of their "
                f"own, so none in it counts. Try: chmod 600 {self.path}"
            )
        try:
            if len(content) > MAX_FILE_BYTES:
                raise ValueError("too large")
            document = msgspec.json.decode(content, type=_Document)
            if document.schema != SCHEMA or not all(
                re.fullmatch(r"[0-9a-f]{64}", key.sha256) for key in document.keys
            ):
                raise ValueError("another schema")
        except ValueError as error:  # msgspec's are, too
            raise StoreError(
                f"{self.path} is damaged or of another version of localllm, so no key in it "
                "counts. Move it away and create the keys again."
            ) from error
        return document.keys

    def create(
        self,
        name: str,
        *,
        now: float,
        scopes: tuple[Scope, ...] = (Scope.INFER,),
        models: tuple[str, ...] | None = None,
        expires: float | None = None,
        limits: KeyLimits = NO_LIMITS,
    ) -> tuple[NamedKey, str]:
        """Make a key and write its hash. Returns it with the key itself, which is nowhere else.

        Raises UsageError when the name is taken or no name, StoreError.
        """
        text = PREFIX + secrets.token_urlsafe(32)
        key = NamedKey(
            name=checked_name(name),
            sha256=digest_of(text).hex(),
            scopes=scopes,
            models=models,
            created=now,
            expires=expires,
            requests=limits.requests,
            tokens_per_minute=limits.tokens_per_minute,
        )
        with self._changing():
            keys = self.load()
            if any(each.name.lower() == name.lower() for each in keys):
                raise UsageError(
                    f"There is a key {name} already. Revoke it first (localllm key revoke {name}) "
                    "or take another name."
                )
            if len(keys) >= MAX_KEYS:
                raise UsageError(f"There are {MAX_KEYS} keys already. Revoke some of them.")
            self._write((*keys, key))
        return key, text

    def revoke(self, name: str) -> NamedKey:
        """Remove a key. Raises NotFound, StoreError."""
        with self._changing():
            keys = self.load()
            found = next((key for key in keys if key.name == name), None)
            if found is None:
                names = ", ".join(key.name for key in keys) or "none"
                raise NotFound(f"There is no key of that name. The keys are: {names}.")
            self._write(tuple(key for key in keys if key is not found))
        return found

    def last_used(self) -> Mapping[str, float]:
        """Map the hashes of keys to when they were last used, as far as that is known."""
        with contextlib.suppress(OSError, ValueError):
            document = json.loads(self._used_path.read_bytes())
            if isinstance(document, dict):
                return {k: float(v) for k, v in document.items() if isinstance(v, int | float)}
        return {}

    def write_last_used(self, used: Mapping[str, float]) -> None:
        """Add what this server knows of uses to the file. Raises OSError, TimeoutError."""
        with locked(self._used_path.with_name(f"{self._used_path.name}.lock")):
            known = {key.sha256 for key in self.load()}
            before = self.last_used()
            merged = {
                sha256: max(before.get(sha256, 0.0), used.get(sha256, 0.0))
                for sha256 in known & (before.keys() | used.keys())
            }
            data = json.dumps(merged, sort_keys=True).encode()
            atomic_write.write_atomically(self._used_path, data, private=True)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other processes from changing the keys meanwhile. Raises StoreError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.path.with_name(f"{self.path.name}.lock")):
                yield
        except StoreError:
            raise
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"The API keys in {self.path} cannot be written: {reason}.") from error

    def _write(self, keys: tuple[NamedKey, ...]) -> None:
        data = msgspec.json.encode(_Document(schema=SCHEMA, keys=keys))
        atomic_write.write_atomically(self.path, data + b"\n", private=True)
