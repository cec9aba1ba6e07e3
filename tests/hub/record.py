"""The requests that arrived at the Hub and their responses."""

import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qsl


@dataclass
class Request:
    """One request; `headers` have lower-case names. `status` and `sent` (body bytes handed to the
    socket) grow while it is answered; `done` is true when the answer has ended, however."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    done: bool = False
    answered: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def token(self) -> str | None:
        """The token it carried, or None."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass
class Record:
    """Every request to one port, in order."""

    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: Request) -> None:
        with self.lock:
            self.requests.append(request)

    @property
    def seen(self) -> tuple[Request, ...]:
        with self.lock:
            return tuple(self.requests)
