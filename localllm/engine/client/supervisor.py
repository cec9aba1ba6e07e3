"""A supervisor of one engine: restarts it with its model when it has crashed, with a backoff.

The backoff is computed from times that are passed in.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from localllm.engine.client.client import Engine
from localllm.engine.messages import Finished, Loaded, LoadRequest
from localllm.errors import EngineCrashed, EngineError, EngineUnavailable


class SupervisedEngine:
    """An engine that holds one model, or will again.

        running --crash--> crashed --ready(), backoff over--> restarting --loaded--> running
                              ^                                    |
                              +---------------failed---------------+

    `engine` is the present one, and `loaded` its answer to the load.
    """

    def __init__(
        self,
        engine: Engine,
        loaded: Loaded,
        *,
        name: str,
        request: LoadRequest,
        start: Callable[[], Engine],
        clock: Callable[[], float],
    ) -> None:
        """`engine` has answered `request` with `loaded`; `start` makes another one."""
        self.engine = engine
        self.loaded = loaded
        self._name = name
        self._request = request
        self._start = start
        self._clock = clock
        self._host_cache_bytes = 0
        self._backoff = RestartBackoff()
        self._restart: asyncio.Task[None] | None = None
        self._failure: str | None = None
        """The reason why the last restart has failed."""

    async def ready(self) -> Engine:
        """Return the engine, restarted if it has crashed.

        A restart belongs to no request: one that is cancelled meanwhile must not end it for the
        others, nor count as another crash. Raises EngineCrashed during the backoff, LoadFailed,
        EngineUnavailable.
        """
        if self._restart is None:
            if self.engine.alive:
                return self.engine
            self._restart = asyncio.create_task(self._restart_engine())
            self._restart.add_done_callback(self._restart_done)
        await asyncio.shield(self._restart)
        return self.engine

    def record_success(self, end: Finished | None = None) -> None:
        """Reset the backoff: an answer was finished, with this event."""
        self._backoff.reset()
        if end is not None and end.host_cache is not None:
            self._host_cache_bytes = end.host_cache.size_bytes

    @property
    def host_cache_bytes(self) -> int:
        """What the engine holds of conversations beside its slots, and gives back when the memory
        is needed; as of its newest answer."""
        return self._host_cache_bytes if self.engine.alive else 0

    async def crash(self) -> EngineCrashed | None:
        """Return the reason why the engine is gone; None while it lives or nothing is known."""
        if self.engine.alive:
            return None
        try:
            await self.engine.describe()  # a crashed engine answers everything with its crash
        except EngineCrashed as crash:
            return crash
        except EngineUnavailable:
            pass
        return None

    async def close(self) -> None:
        """End the engine, or its restart."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.wait((self._restart,))
        await self.engine.close()

    async def _restart_engine(self) -> None:
        if (delay_s := self._backoff.delay_s(self._clock())) > 0:
            raise await self._too_soon(delay_s)
        self._backoff.record_start(self._clock())
        self._failure = "it was interrupted"
        await self.engine.close()
        self.engine = self._start()
        try:
            async with aclosing(self.engine.load(self._request)) as events:
                async for event in events:
                    if isinstance(event, Loaded):
                        self.loaded, self._failure = event, None
        except EngineError as error:
            self._failure = str(error)
            raise
        finally:
            if self._failure is not None:  # a process without the model is of no use
                await self.engine.close()

    async def _too_soon(self, delay_s: float) -> EngineCrashed:
        crash = await self.crash()
        why = self._failure or (crash.reason if crash is not None else "for an unknown reason")
        return EngineCrashed(
            f"The engine of {self._name} has crashed again right after it was restarted ({why}). "
            f"It is started once more when it is asked in {delay_s:.0f} s or later. Or load the "
            "model again, with a smaller context or another quant.",
            reason="crashed again",
            retry_after_s=delay_s,
            log_tail=crash.log_tail if crash is not None else (),
        )

    def _restart_done(self, task: asyncio.Task[None]) -> None:
        self._restart = None
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have


_FIRST_BACKOFF_S = 30.0
_MAX_BACKOFF_S = 600.0


class RestartBackoff:
    """The exponential backoff of restarts.

    The first restart is at once. An engine that crashes again before it has finished an answer
    probably does so every time: the next restart has to wait 30 s, then twice as long each time, 10
    minutes at most, so that a server that nobody watches recovers from what passes by itself.
    """

    def __init__(self) -> None:
        self._restarts = 0
        self._not_before = 0.0

    def reset(self) -> None:
        """Let the next restart be at once: what crashes after an answer has another cause."""
        self._restarts = 0
        self._not_before = 0.0

    def record_start(self, now: float) -> None:
        """Note that the engine is being restarted."""
        backoff_s = min(_FIRST_BACKOFF_S * 2**self._restarts, _MAX_BACKOFF_S)
        self._restarts = min(self._restarts + 1, 16)
        self._not_before = now + backoff_s

    def delay_s(self, now: float) -> float:
        """Return the seconds until it may be restarted; 0: now."""
        return max(0.0, self._not_before - now)
