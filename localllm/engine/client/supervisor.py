"""Restart an engine that crashed, with its model, after a growing pause.

The pause is computed from times that are passed in.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from localllm.engine.client.client import Engine
from localllm.engine.messages import Loaded, LoadRequest
from localllm.errors import EngineCrashed, EngineError, EngineUnavailable


class SupervisedEngine:
    """The engine that holds one model. `engine` is the one of now, `loaded` what it said."""

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
        self._restarts = Restarts()
        self._restart: asyncio.Task[None] | None = None
        self._failure: str | None = None
        """Why the last restart has not led to an engine."""

    async def ready(self) -> Engine:
        """The engine, as soon as it runs. A restart belongs to no request: one that is given up
        meanwhile must not end it for the others, nor count as another crash.

        Raises EngineCrashed when it must wait (`Restarts`), LoadFailed, EngineUnavailable.
        """
        if self._restart is None:
            if self.engine.alive:
                return self.engine
            self._restart = asyncio.create_task(self._start_again())
            self._restart.add_done_callback(self._started_again)
        await asyncio.shield(self._restart)
        return self.engine

    def answered(self) -> None:
        """An answer was finished: the crashes before it are forgiven."""
        self._restarts.answered()

    async def crash(self) -> EngineCrashed | None:
        """Why the engine is gone; None while it lives or nothing is known."""
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

    async def _start_again(self) -> None:
        if (wait_s := self._restarts.wait_s(self._clock())) > 0:
            raise await self._too_soon(wait_s)
        self._restarts.begun(self._clock())
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

    async def _too_soon(self, wait_s: float) -> EngineCrashed:
        crash = await self.crash()
        why = self._failure or (crash.reason if crash is not None else "for an unknown reason")
        return EngineCrashed(
            f"The engine of {self._name} has crashed again right after it was restarted ({why}). "
            f"It is started once more when it is asked in {wait_s:.0f} s or later. Or load the "
            "model again, with a smaller context or another quant.",
            reason="crashed again",
            log_tail=crash.log_tail if crash is not None else (),
        )

    def _started_again(self, task: asyncio.Task[None]) -> None:
        self._restart = None
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have


_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0


class Restarts:
    """The first restart is at once. What crashes again before it has finished an answer probably
    does so every time: the next one has to wait 30 s, then twice as long each time, 10 minutes at
    most, so that a server that nobody watches recovers from what passes by itself."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._not_before = 0.0

    def answered(self) -> None:
        """An answer was finished: what crashes now is another story."""
        self._in_a_row = 0
        self._not_before = 0.0

    def begun(self, now: float) -> None:
        """The engine is being started again."""
        pause = min(_FIRST_PAUSE_S * 2**self._in_a_row, _LONGEST_PAUSE_S)
        self._in_a_row = min(self._in_a_row + 1, 16)
        self._not_before = now + pause

    def wait_s(self, now: float) -> float:
        """Seconds until it may be started again; 0: now."""
        return max(0.0, self._not_before - now)
