"""The facts of a request while it is answered: who sent it, which model answers, how many tokens.

Dialects know nothing of it. The outermost middleware makes one for each request, the guards and
`ServedModels` fill it in; the access log, the metrics and traces read it. It holds no text of the
client's, so nothing that is written from it can.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum


class Scope(StrEnum):
    """What a key may be used for."""

    INFER = "infer"
    EMBED = "embed"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """The most that a key's requests may take; None: no limit. `requests` at the same time,
    `tokens_per_minute` of prompts and answers together."""

    requests: int | None = None
    tokens_per_minute: int | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sends a request: the name of a key, and what it allows. `models` None: all of them.
    `key_id` tells a key from one of the same name that was revoked before."""

    name: str
    key_id: str = ""
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    limits: KeyLimits = NO_LIMITS

    @property
    def identity(self) -> str:
        """What tells this key from all others, also from one of the same name (no name has
        a space)."""
        return f"{self.name} {self.key_id}".rstrip()


OWNER = Caller(name="owner", scopes=frozenset(Scope))
"""The user who has started the server: the key of the file or the environment, the user's own
processes on a Unix socket, and everybody where no key is required."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request. `started` and `first_token` are of the monotonic clock; `charge` counts tokens
    against the key's limit as they come; `error_code` is that of the error it was answered with."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    trace_id: str | None = None
    caller: Caller | None = None
    peer: str = "tcp"
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    first_token: float | None = None
    charge: Callable[[int], None] | None = None
    error_code: str | None = None

    @property
    def has_tokens(self) -> bool:
        """True when a model has read or written something for it."""
        return self.prompt_tokens > 0 or self.completion_tokens > 0


_current: ContextVar[RequestRecord | None] = ContextVar("localllm_request", default=None)


def current_record() -> RequestRecord | None:
    """Return the record of the request that this code runs for; None outside of requests."""
    return _current.get()


def use_record(record: RequestRecord) -> None:
    """Make `record` that of the running task, and of the tasks that it starts."""
    _current.set(record)


def current_caller() -> Caller:
    """Return who has sent the request that this code runs for; outside of requests the owner."""
    record = _current.get()
    return OWNER if record is None or record.caller is None else record.caller


def may_use(model: str) -> bool:
    """Tell whether the request's key allows the model of this name. Without a request: yes."""
    record = _current.get()
    caller = record.caller if record is not None else None
    return caller is None or caller.models is None or model in caller.models
