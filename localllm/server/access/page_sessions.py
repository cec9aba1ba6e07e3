"""How the chat page gets a key: a link that opens it once, exchanged for a key of its own.

The owner's key never reaches a browser. A link's token is good for one exchange within a minute;
what it is exchanged for may generate and nothing else, and ends with the server. Both are kept as
digests. The key is sent in a header, never in a cookie: a browser sends the cookies of 127.0.0.1
to every port there, and so to servers of other users, while what a page stores belongs to its port.
"""

import hmac
import ipaddress
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

from localllm.server.access.named_keys import digest_of
from localllm.server.access.unix_socket import is_allowed
from localllm.server.request_record import Caller, Scope

LINK_VALID_S = 60.0
_MAX_SESSIONS = 64

PAGE = Caller(name="page", key_id="page", scopes=frozenset({Scope.INFER}))
"""Who sends the requests of a page that was opened with a link."""


class PageSessions:
    """The links that are not used yet, and the keys that were given for used ones."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._links: dict[bytes, float] = {}
        self.digests: tuple[bytes, ...] = ()
        """Of the keys; the oldest are forgotten when there are too many."""

    def create_link(self) -> str:
        """Return a new token for a link."""
        token = secrets.token_urlsafe(32)
        self._links[digest_of(token)] = self._clock() + LINK_VALID_S
        return token

    def redeem(self, token: str) -> str | None:
        """Return a new key for a link's token; None for one that is used, too old or not ours."""
        digest, now = digest_of(token), self._clock()
        valid = [known for known, end in self._links.items() if now < end]
        found = [known for known in valid if hmac.compare_digest(known, digest)]
        self._links = {known: self._links[known] for known in valid if known not in found}
        if not found:
            return None
        key = secrets.token_urlsafe(32)
        self.digests = (*self.digests, digest_of(key))[-_MAX_SESSIONS:]
        return key


Endpoint = tuple[str, int]
"""An IP address and a port."""


def is_same_user(client: Endpoint, server: Endpoint) -> bool:
    """Tell whether this user, or root, is at the other end of a connection from this machine.

    A link stands in the arguments of the browser's process, which on Linux every user can read: the
    first to use it must be the right one. Elsewhere other users see no such arguments (Windows), or
    the link is in none (macOS: `webbrowser` hands it to osascript over a pipe), and it is True.
    """
    if sys.platform != "linux":
        return True
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            uid = connection_uid(Path(table).read_text("ascii"), client, server)
        except OSError:  # a kernel without IPv6, or one that does not say
            continue
        if uid is not None:
            return is_allowed(uid)
    return False


def connection_uid(table: str, client: Endpoint, server: Endpoint) -> int | None:
    """Find the user of an established connection's near end in a table of /proc/net.

    Columns: number, local address, remote address, state, two queues, a timer, retransmits, uid.
    """
    wanted = [(_hex(client, mapped), _hex(server, mapped)) for mapped in (False, True)]
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 7 and columns[3] == _ESTABLISHED and tuple(columns[1:3]) in wanted:
            return int(columns[7])
    return None


_ESTABLISHED = "01"


def _hex(endpoint: Endpoint, mapped: bool) -> str:
    """Write an endpoint as the kernel does: 32-bit words in its own byte order. `mapped`: an IPv4
    address as a socket for IPv6 has it."""
    address = ipaddress.ip_address(endpoint[0].partition("%")[0])
    packed = address.packed
    if mapped and address.version == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{text}:{endpoint[1]:04X}"
