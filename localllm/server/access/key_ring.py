"""All keys that a running server takes: the owner's, those of chat pages that a link opened, and
the named ones as keys.json has them now.

keys.json is looked at with every request (one `stat`) and read again when it has changed, so that a
key that was made or revoked counts from the next request on, without a restart. An answer that is
being written when its key is revoked is written to its end.
"""

import hmac
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.errors import StoreError
from localllm.server.access.named_keys import KeyFile, NamedKey, digest_of
from localllm.server.access.page_sessions import PAGE, PageSessions
from localllm.server.errors import ApiError
from localllm.server.request_record import OWNER, Caller

logger = logging.getLogger("localllm.server")

WRITE_USED_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: Caller
    expires: float | None = None
    named: NamedKey | None = None


class KeyRing:
    """The owner's key and those of `file`. `owner` None: no request needs a key. `run`: another key
    of the owner, which holds while this process runs."""

    def __init__(
        self,
        owner: str | None,
        file: KeyFile | None = None,
        clock: Callable[[], float] = time.time,
        *,
        run: str | None = None,
    ) -> None:
        self.required = owner is not None
        own = (key for key in (owner, run) if key is not None)
        self._owner = tuple(_Known(digest_of(key), OWNER) for key in own)
        self._file = file
        self.pages = PageSessions()
        self._clock = clock
        self._signature: tuple[int, ...] | None = None
        self._known: tuple[_Known, ...] = self._owner
        self._used: dict[str, float] = {}
        self._written_at = clock()

    def find(self, offered: Sequence[str]) -> Caller | None:
        """Return what the first valid key of those `offered` allows; None when none is valid.

        Every offered key is compared with every known one, in constant time: how long it takes
        depends on their number alone. Raises ApiError (401) for a key that has expired.
        """
        self._refresh()
        found: _Known | None = None
        for text in offered:
            digest = digest_of(text)
            for known in (*self._known, *(_Known(page, PAGE) for page in self.pages.digests)):
                if hmac.compare_digest(digest, known.digest) and found is None:
                    found = known
        if found is None:
            return None
        now = self._clock()
        if found.expires is not None and now >= found.expires:
            raise ApiError(
                f"The API key {found.caller.name} has expired. `localllm key create` makes a new "
                "one.",
                status=401,
                code="expired_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if found.named is not None:
            self._used[found.named.sha256] = now
        return found.caller

    def caller_of(self, identity: str) -> Caller | None:
        """Return what the key of this `Caller.identity` allows now; None when it was revoked or has
        expired. What runs on without requests is asked for again in its name."""
        if identity in (OWNER.identity, PAGE.identity):
            return OWNER if identity == OWNER.identity else PAGE
        self._refresh()
        now = self._clock()
        for known in self._known:
            expired = known.expires is not None and now >= known.expires
            if known.named is not None and known.caller.identity == identity and not expired:
                return known.caller
        return None

    def take_used(self) -> dict[str, float] | None:
        """Return the uses to write, at most once a minute; None: nothing is to be written."""
        now = self._clock()
        if not self._used or now - self._written_at < WRITE_USED_EVERY_S:
            return None
        return self._take(now)

    def write_used(self, used: dict[str, float] | None = None) -> None:
        """Write when keys were last used; a directory that cannot be written loses only that."""
        if used is None:
            used = self._take(self._clock())
        if self._file is None or not used:
            return
        try:
            self._file.write_last_used(used)
        except (OSError, TimeoutError) as error:
            logger.debug("last uses of keys are not written: %s", error)

    def _take(self, now: float) -> dict[str, float]:
        used, self._used, self._written_at = self._used, {}, now
        return used

    def _refresh(self) -> None:
        if self._file is None or (signature := self._file.signature()) == self._signature:
            return
        self._signature = signature
        try:
            keys = self._file.load()
        except StoreError as error:
            logger.warning("%s", error)  # once for each change of the file
            keys = ()
        named = (_Known(bytes.fromhex(k.sha256), k.caller, k.expires, k) for k in keys)
        self._known = (*self._owner, *named)
