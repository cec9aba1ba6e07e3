"""The state of one model in the pool and of the requests for it, without the loads and timers that
change it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from localllm.core.text import single_line
from localllm.engine.client.supervisor import RestartBackoff
from localllm.errors import LoadFailed
from localllm.runtime.model_pool.pool_model import PoolModel


class Use:
    """A request that a model works for, or will when it is in memory.

    `max_tokens`: the most that it generates, None when nothing but the model or the context ends
    it.
    """

    def __init__(self, clock: Callable[[], float], max_tokens: int | None = None) -> None:
        self._clock = clock
        self._began = clock()
        self._max_tokens = max_tokens
        self._tokens = 0
        self._first_at: float | None = None

    def left_s(self, deadline_s: float | None) -> float | None:
        """Return what is left now of the seconds that the request may take; None: no limit."""
        if deadline_s is None:
            return None
        return max(0.001, deadline_s - (self._clock() - self._began))

    def count_token(self) -> None:
        """Note a token of the answer."""
        if self._first_at is None:
            self._first_at = self._clock()
        self._tokens += 1

    def remaining_s(self) -> float | None:
        """Estimate the seconds until it is done at the latest, by its own rate up to now; None when
        it has no limit, or no rate yet."""
        if self._max_tokens is None or self._first_at is None or self._tokens < 2:
            return None
        per_token_s = (self._clock() - self._first_at) / (self._tokens - 1)
        return max(0, self._max_tokens - self._tokens) * per_token_s


@dataclass(eq=False, slots=True)
class PoolEntry:
    """One model and the requests for it.

    `users` are the requests that it works for, or that its load is for; with one of them it is
    busy. Requests that come while its memory is promised to somebody else are `held_back`, and
    become users when the last of `holds` is released, which opens `gate`.
    `load` runs while it is loaded, `timer` while it is idle and will be unloaded at `expires_at`.
    """

    source: PoolModel
    keep_alive_s: float
    pinned: bool
    users: set[Use] = field(default_factory=set)
    held_back: set[Use] = field(default_factory=set)
    holds: set[object] = field(default_factory=set)
    gate: "asyncio.Future[None] | None" = None
    load: "asyncio.Task[None] | None" = None
    timer: "asyncio.Task[None] | None" = None
    expires_at: float | None = None
    uses: int = 0
    last_used: float | None = None
    resident_since: float = 0.0
    load_s: float = 1.0
    progress: float | None = None
    testing_devices: bool = False
    plan: str | None = None
    failure: str | None = None
    backoff: RestartBackoff = field(default_factory=RestartBackoff)

    @classmethod
    def of(cls, source: PoolModel) -> "PoolEntry":
        return cls(source=source, keep_alive_s=source.keep_alive_s, pinned=source.pinned)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def requests(self) -> int:
        return len(self.users) + len(self.held_back)

    def record_load(self, began: float, ended: float) -> None:
        """Note a load that has ended well."""
        self.load_s, self.resident_since = ended - began, ended
        self.failure = None
        self.backoff.reset()

    def record_failure(self, reason: str, now: float) -> None:
        """Note a load that has failed. One may fail by chance; a second one probably always does,
        and would unload others for nothing each time."""
        if self.failure is not None:
            self.backoff.record_start(now)
        self.failure = reason

    def check_backoff(self, now: float) -> None:
        """Raise LoadFailed while a load that has failed repeatedly is not tried again."""
        if self.failure is not None and (delay_s := self.backoff.delay_s(now)) > 0:
            raise LoadFailed(
                f"{single_line(self.name)} has failed to load more than once; it is tried again in "
                f"{delay_s:.0f} s. {self.failure}"
            )

    def add(self, use: Use) -> None:
        """Take a request: at once, or when the entry is not held any more."""
        (self.held_back if self.holds else self.users).add(use)

    def discard(self, use: Use) -> None:
        """Forget a request, which is done or has left."""
        self.users.discard(use)
        self.held_back.discard(use)

    def hold(self, owner: object) -> None:
        """Promise its memory to `owner`: new requests wait."""
        if self.gate is None:
            self.gate = asyncio.get_running_loop().create_future()
        self.holds.add(owner)

    def release(self, owner: object) -> None:
        """End the hold of `owner`. After the last one the requests that were held back are users,
        at once: another load finds it busy."""
        self.holds.discard(owner)
        if not self.holds and self.gate is not None:
            self.users |= self.held_back
            self.held_back.clear()
            self.gate.set_result(None)
            self.gate = None

    async def admitted(self, use: Use) -> None:
        """Wait until a request is held back no longer."""
        while use in self.held_back and self.gate is not None:
            await asyncio.shield(self.gate)
