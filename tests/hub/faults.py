"""Faults of a server and its network, switched on per test.

`faults.add(Drop(1000), times=2)`: the next two answers that it fits break. A fault counts as used
when an answer takes it. It works on the port its kind names, or on the one given with `on`.
"""

import threading
from dataclasses import dataclass, field
from typing import TypeVar

HUB, CDN = "hub", "cdn"


@dataclass(frozen=True)
class Drop:
    """Reset the connection after so many bytes of the body."""

    after: int
    port = CDN


@dataclass(frozen=True)
class Truncate:
    """Close the connection in peace after so many bytes; Content-Length says more."""

    after: int
    port = CDN


@dataclass(frozen=True)
class Stall:
    """Send so many bytes, then nothing until the event."""

    after: int
    until: threading.Event
    reached: threading.Event = field(default_factory=threading.Event)
    port = CDN


@dataclass(frozen=True)
class Flip:
    """Send the byte at this offset of the file with all its bits turned."""

    offset: int
    port = CDN


@dataclass(frozen=True)
class WrongLength:
    """State a Content-Length that is wrong by so many bytes."""

    by: int
    port = CDN


@dataclass(frozen=True)
class Refuse:
    """Respond with a status; `retry_after` is the header's text."""

    status: int
    retry_after: str | None = None
    port = HUB


@dataclass(frozen=True)
class NoRanges:
    """Do not know Range: always 200 and all of it."""

    port = CDN


@dataclass(frozen=True)
class Portal:
    """A hotel's login page: 200 and HTML."""

    port = HUB


@dataclass(frozen=True)
class BrokenJson:
    """200, JSON by its type, cut in the middle."""

    body: bytes = b'{"id": "org/na'
    port = HUB


@dataclass(frozen=True)
class Gzip:
    """Compress the body, without a length, whatever the client accepts."""

    port = CDN


@dataclass(frozen=True)
class Redirect:
    """Send the client somewhere else."""

    to: str
    status: int = 302
    port = HUB


@dataclass(frozen=True)
class Throttle:
    """At most so many bytes in a second, in small pieces."""

    bytes_per_s: float
    port = CDN


Fault = (
    Drop | Truncate | Stall | Flip | WrongLength | Refuse | NoRanges | Portal | BrokenJson | Gzip
    | Redirect | Throttle
)  # fmt: skip
F = TypeVar("F", bound=Fault)


@dataclass
class _Armed:
    fault: Fault
    port: str
    path: str
    left: int | None


class Faults:
    """The faults that are switched on now."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()

    def add(
        self, fault: Fault, *, times: int | None = None, on: str | None = None, path: str = ""
    ) -> None:
        """Switch a fault on for the next `times` answers (None: all) whose path holds `path`, on
        the "hub" or the "cdn" port ("any": both)."""
        with self._lock:
            self._armed.append(_Armed(fault, on or fault.port, path, times))

    def clear(self) -> None:
        """Switch every fault off; an answer under way keeps what it has."""
        with self._lock:
            self._armed.clear()

    def take(self, port: str, path: str) -> "Plan":
        """Return the faults of this response."""
        taken: list[Fault] = []
        with self._lock:
            for armed in self._armed:
                if armed.left == 0 or armed.port not in (port, "any") or armed.path not in path:
                    continue
                if any(type(each) is type(armed.fault) for each in taken):
                    continue  # the next one of its kind is for the next answer
                taken.append(armed.fault)
                if armed.left is not None:
                    armed.left -= 1
        return Plan(tuple(taken))


@dataclass(frozen=True)
class Plan:
    """The faults of one answer."""

    faults: tuple[Fault, ...]

    def get(self, kind: type[F]) -> F | None:
        """The fault of this kind, if the answer has one."""
        return next((each for each in self.faults if isinstance(each, kind)), None)
