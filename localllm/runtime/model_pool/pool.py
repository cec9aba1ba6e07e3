"""Many models in one memory: loaded when a request names them, unloaded when another needs the
place or nothing has asked for them in a while.

The order of things is what keeps it fair and free of deadlocks:

- One load at a time, in the order in which they were asked for (`_loading`). All requests for a
  model share its load.
- A request counts as a user of its model from the moment it comes, also while the model is loaded.
  So a load that has just ended is for its requests, and not a victim of the next load in line.
- A load that waits for a busy model holds it: requests that come later wait behind the load, or two
  busy clients would keep a third waiting for ever. When the load is done they are users at once,
  and their model is the next to be loaded.
- Only who has the load lock unloads.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager

from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.engine.messages import LoadProgress
from localllm.errors import DeadlineExceeded, EngineCrashed, LocalLLMError, QueueFull
from localllm.runtime.memory_outlook import MemoryOutlook
from localllm.runtime.model_pool.admission import Admission, Probes, decide, shortfall
from localllm.runtime.model_pool.entry import PoolEntry, Use
from localllm.runtime.model_pool.eviction import Candidate, CannotFit, WaitFor
from localllm.runtime.model_pool.listing import LoadState, ModelListing, ModelState
from localllm.runtime.model_pool.observer import PoolObserver
from localllm.runtime.model_pool.pool_model import FOREVER, PoolModel, PoolModels
from localllm.runtime.model_pool.timing import Clock, LoadTimes, SystemClock
from localllm.runtime.model_pool.warm_swap import SwapRoom, WarmSwap
from localllm.runtime.runtime import ResidentModel, Runtime

logger = logging.getLogger("localllm.pool")

MAX_WAIT_S = 60.0
"""A load waits so long for busy models; one that would have to wait longer is refused at once."""

MAX_WAITING = 512
"""Requests that wait for models, in all; each holds a connection and its body."""

_MEMORY_RETURN_S = 5.0
"""A driver frees a device's memory a moment after the process has ended."""


class ModelPool:
    """The models that requests can name, as many of them in memory as fit.

    `warm_swap` keeps the conversations of models that are unloaded for their next load.
    """

    def __init__(
        self,
        runtime: Runtime,
        models: PoolModels,
        *,
        clock: Clock | None = None,
        warm_swap: WarmSwap | None = None,
    ) -> None:
        self.runtime = runtime
        self.models = models
        self.warm_swap = warm_swap
        self.observer: PoolObserver | None = None
        self._clock = clock or SystemClock()
        self._times = LoadTimes()
        self._entries: dict[str, PoolEntry] = {}
        self._loading = asyncio.Lock()
        self._change: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # --- requests ---

    @asynccontextmanager
    async def acquire(
        self,
        model: str,
        *,
        keep_alive: float | None = None,
        max_tokens: int | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[Use]:
        """Keep the model called `model` in memory, and load it first if need be.

        `keep_alive`: seconds that it stays after its last request, from now on; negative: for ever,
        None: as before. `max_tokens` of the request bound how long others have to wait for it.
        `deadline_s`: the longest to wait. A load that others wait for, or that has begun, goes on
        when this is cancelled: a client that tries again finds the model.
        Raises NotFound, InsufficientMemory, QueueFull, DeadlineExceeded, and what planning and
        loading raise.
        """
        entry = self._entry(self.models.find(model))
        if not self._ready(entry) and self._waiting() >= MAX_WAITING:
            raise QueueFull(f"{MAX_WAITING} requests wait for models already. Try again later.")
        if keep_alive is not None:
            entry.keep_alive_s = FOREVER if keep_alive < 0 else keep_alive
        use = Use(self._clock.now, max_tokens)
        entry.add(use)
        self._stop_timer(entry)
        try:
            try:
                async with asyncio.timeout(deadline_s):
                    await self._until_resident(entry, use)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{single_line(entry.name)} was not in memory within the {deadline_s:.0f} s "
                    "that a request may take."
                ) from None
            entry.uses += 1
            yield use
        finally:
            entry.discard(use)
            entry.last_used = self._clock.now()
            self._left(entry)

    async def _until_resident(self, entry: PoolEntry, use: Use) -> None:
        while True:
            await entry.admitted(use)
            if self._resident(entry):  # held or not: this is one of its users
                return
            await self._loaded(entry)

    async def load(
        self,
        model: str,
        *,
        keep_alive: float | None = None,
        pin: bool | None = None,
        cancellable: bool = False,
    ) -> ModelListing:
        """Bring a model into memory, as a request would. Raises what `acquire` raises.

        `cancellable`: the load ends with this call, unless others wait for it.
        """
        entry = self._entry(self.models.find(model))
        if pin is not None:
            entry.pinned = pin
        try:
            async with self.acquire(entry.name, keep_alive=keep_alive):
                pass
        except asyncio.CancelledError:
            if cancellable and entry.load is not None and not entry.requests:
                entry.load.cancel()
            raise
        return self._listing(entry.source, self._loaded_models())

    async def unload(self, model: str) -> bool:
        """Free a model when its requests are done; those that come meanwhile wait, and load it
        again. False when it was not in memory. Raises NotFound."""
        entry = self._entry(self.models.find(model))
        if not self._resident(entry):
            return False
        owner = object()
        entry.hold(owner)
        self._stop_timer(entry)
        try:
            while entry.users:
                await self._wait_for_change()
            async with self._loading:
                if not self._resident(entry):
                    return False
                if self.warm_swap is not None:  # somebody wants the memory
                    self.warm_swap.drop(entry.name)
                await self._free((entry,))
                if self.observer is not None:
                    self.observer.unloaded(entry.name)
                logger.info("%s is unloaded.", single_line(entry.name))
                return True
        finally:
            self._release((entry,), owner)

    @asynccontextmanager
    async def alone(self, model: str) -> AsyncIterator[None]:
        """Have the memory without a model in it while the block runs, which may load `model` by
        itself; requests wait behind it. Raises NotFound.

        Models are unloaded when their requests are done, and loaded again by the next ones.
        """
        entry = self._entry(self.models.find(model))
        loaded = (self._entry_of(name, each) for name, (each, _) in self._loaded_models().items())
        held = list({id(each): each for each in (entry, *loaded)}.values())
        owner = object()
        for each in held:
            each.hold(owner)
            self._stop_timer(each)
        try:
            while any(each.users for each in held):
                await self._wait_for_change()
            async with self._loading:
                await self._free(each for each in held if self._resident(each))
                try:
                    yield
                finally:
                    if self.runtime.holds(entry.name):
                        await self.runtime.unload(entry.name)
        finally:
            self._release(held, owner)

    # --- what is there ---

    def listed(self) -> tuple[ModelListing, ...]:
        """List every model that can be named. Nothing is loaded, waited for or counted as used."""
        loaded, models = self._loaded_models(), self.models.all()
        known = {model.name for model in models}
        models += tuple(
            self._entry_of(name, resident).source
            for name, (resident, _) in loaded.items()
            if name not in known
        )
        return tuple(self._listing(model, loaded, models) for model in models)

    def waiting_for(self, model: str) -> str | None:
        """Say what a request for the model of exactly this name waits for; None when it is in
        memory."""
        entry = self._entries.get(model)
        if entry is None or self._ready(entry):
            return None
        if entry.progress is not None:
            return f"loading {model}: {entry.progress:.0%}"
        return entry.plan if entry.load is not None and entry.plan else f"waiting for {model}"

    def load_state(self, model: str) -> LoadState | None:
        """Say how far the load of the model of exactly this name is; None while none runs."""
        entry = self._entries.get(model)
        if entry is None or entry.load is None:
            return None
        return LoadState(
            progress=entry.progress,
            testing_devices=entry.testing_devices,
            plan=entry.plan or "",
        )

    def keep_idle_times(self) -> None:
        """Begin to count the idle time of models that were loaded before the pool was made."""
        for name, (resident, _) in self._loaded_models().items():
            self._left(self._entry_of(name, resident))

    async def close(self) -> None:
        """End every load and every engine; requests that wait get EngineCrashed ("closed")."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await self.runtime.close()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self.warm_swap is not None:
            self.warm_swap.close()

    # --- state ---

    def _entry(self, model: PoolModel) -> PoolEntry:
        entry = self._entries.get(model.name)
        if entry is None:
            entry = self._entries[model.name] = PoolEntry.of(model)
            entry.resident_since = self._clock.now()
        elif entry.load is None:
            entry.source = model  # its file may be another one since
        return entry

    def _entry_of(self, name: str, resident: ResidentModel) -> PoolEntry:
        """Return the entry of a model in memory, which may have left the library since."""
        known = self._entries.get(name)
        if known is not None:
            return known
        return self._entry(self.models.exact(name) or PoolModel(model=resident.model))

    def _loaded_models(self) -> dict[str, tuple[ResidentModel, bool]]:
        """Map the models that the runtime holds to whether their engine runs."""
        return {
            **{each.model.name: (each, True) for each in self.runtime.resident()},
            **{each.model.name: (each, False) for each in self.runtime.crashed()},
        }

    def _resident(self, entry: PoolEntry) -> bool:
        return self.runtime.holds(entry.name)

    def _ready(self, entry: PoolEntry) -> bool:
        """Tell whether requests can be sent to it; one that has crashed is restarted by them."""
        return self._resident(entry) and not entry.holds

    def _waiting(self) -> int:
        return sum(each.requests for each in self._entries.values() if not self._ready(each))

    def _listing(
        self,
        model: PoolModel,
        loaded: dict[str, tuple[ResidentModel, bool]],
        models: tuple[PoolModel, ...] = (),
    ) -> ModelListing:
        entry = self._entries.get(model.name) or PoolEntry.of(model)
        resident, running = loaded.get(model.name, (None, False))
        if resident is not None:
            state = ModelState.READY if running else ModelState.CRASHED
        else:
            state = ModelState.LOADING if entry.load is not None else ModelState.UNLOADED
        now, expires_at = self._clock.now(), entry.expires_at
        return ModelListing(
            name=model.name,
            model=resident.model if resident is not None else model.model,
            aliases=self.models.aliases_of(model.name, models),
            state=state,
            resident=resident if running else None,
            keep_alive_s=entry.keep_alive_s,
            expires_in_s=max(0.0, expires_at - now) if expires_at is not None else None,
            pinned=entry.pinned,
            memory_bytes=self.runtime.memory_bytes(model.name) if running else None,
            estimated_bytes=resident.fit.with_draft_bytes if resident is not None else None,
            last_used_s=now - entry.last_used if entry.last_used is not None else None,
            requests=entry.requests,
            slots=resident.loaded.parallel if resident is not None else None,
            progress=entry.progress,
            plan=entry.plan,
            kept=self.warm_swap.kept(model.name) if self.warm_swap is not None else None,
        )

    def _left(self, entry: PoolEntry) -> None:
        """Do what follows when a request has left a model."""
        if entry.users:
            return
        self._notify()
        if entry.requests or entry.holds or entry.pinned or not self._resident(entry):
            return
        if entry.keep_alive_s != FOREVER and not self._closed and entry.timer is None:
            entry.expires_at = self._clock.now() + entry.keep_alive_s
            entry.timer = self._spawn(self._expire(entry))

    def _release(self, entries: Iterable[PoolEntry], owner: object) -> None:
        for entry in entries:
            entry.release(owner)
            self._left(entry)

    def _stop_timer(self, entry: PoolEntry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = entry.expires_at = None

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _notify(self) -> None:
        """Wake whoever waits for a change."""
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    async def _wait_for_change(self, limit_s: float = FOREVER) -> None:
        """Wait until a model has become idle, or a request has left, `limit_s` at the longest."""
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
        waits: list[asyncio.Future[None]] = [asyncio.shield(self._change)]
        if limit_s != FOREVER:
            waits.append(asyncio.ensure_future(self._clock.sleep(limit_s)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)

    # --- loads ---

    async def _loaded(self, entry: PoolEntry) -> None:
        """Wait for the load of a model, which is begun unless it runs."""
        if self._closed:
            raise EngineCrashed("The server is stopping.", reason="closed")
        if entry.load is None:
            entry.load = self._spawn(self._load(entry))

            def done(task: asyncio.Task[None]) -> None:
                entry.load = entry.progress = None
                entry.testing_devices = False
                if not task.cancelled():
                    task.exception()  # whoever waits has it; nobody may
                self._left(entry)

            entry.load.add_done_callback(done)
        try:
            await asyncio.shield(entry.load)
        except asyncio.CancelledError:
            if self._closed and not _cancelling():
                raise EngineCrashed("The server is stopping.", reason="closed") from None
            raise

    async def _load(self, entry: PoolEntry) -> None:
        entry.check_backoff(self._clock.now())
        owner = object()
        probes: Probes = []
        async with self._loading:
            try:
                plan = await self.runtime.plan(entry.source.model, entry.source.choice)
                began, admission = self._clock.now(), None
                while entry.users and not self._resident(entry):
                    residents = self._candidates(entry)
                    admission = await decide(self.runtime, plan, residents, self._times, probes)
                    entry.plan = admission.sentence
                    if await self._hold_victims(entry, admission, owner, began):
                        await self._swap(entry, admission, owner)
                        return
            finally:
                self._release(self._entries.values(), owner)

    def _candidates(self, loading: PoolEntry) -> tuple[Candidate, ...]:
        now = self._clock.now()
        found = []
        for name, (resident, _) in self._loaded_models().items():
            entry = self._entry_of(name, resident)
            if entry is loading:
                continue
            remaining = [each.remaining_s() for each in entry.users]
            known = [each for each in remaining if each is not None]
            since = entry.resident_since if entry.last_used is None else entry.last_used
            found.append(
                Candidate(
                    name=name,
                    idle_s=max(0.0, now - since),
                    load_s=entry.load_s,
                    uses=entry.uses,
                    busy=bool(entry.users),
                    remaining_s=max(known) if known and len(known) == len(remaining) else None,
                    pinned=entry.pinned,
                )
            )
        return tuple(found)

    async def _hold_victims(
        self, entry: PoolEntry, admission: Admission, owner: object, began: float
    ) -> bool:
        """Hold the models that give way; True when all of them are idle. Waits for a busy one, and
        then the decision has to be taken again. Raises InsufficientMemory."""
        decision = admission.decision
        if not entry.users:  # nobody waits for it any more
            return False
        if isinstance(decision, CannotFit):
            if not entry.source.force:
                raise admission.refusal()
            return True
        if isinstance(decision, WaitFor):
            left_s = MAX_WAIT_S - (self._clock.now() - began)
            if left_s <= 0 or (decision.wait_s is not None and decision.wait_s > left_s):
                raise admission.refusal()
            victims = [self._entries[name] for name in decision.busy]
            if not all(owner in each.holds for each in victims):
                logger.info("%s", admission.sentence)
            for each in victims:
                each.hold(owner)
            if all(each.users for each in victims):
                await self._wait_for_change(left_s)
            return False
        victims = [self._entries[name] for name in admission.gone]
        if any(each.users for each in victims):  # since it was decided
            return False
        for each in victims:
            each.hold(owner)
            self._stop_timer(each)
        return True

    async def _swap(self, entry: PoolEntry, admission: Admission, owner: object) -> None:
        """Unload what gives way, see that its memory comes back, and load."""
        logger.info("%s", admission.sentence)
        began = self._clock.now()
        victims = [self._entries[name] for name in sorted(admission.gone)]
        room = SwapRoom.beside(admission.outlook, admission.fit, admission.gone | {entry.name})
        if self.warm_swap is not None:
            self.warm_swap.make_room(room, entry.name)
            if self.warm_swap.kept(entry.name) is not None:
                entry.hold(owner)  # requests that come now begin when the conversations are back
        if victims:
            await self._free(victims, room, loading=entry.name)
            if self.observer is not None:
                for each in victims:
                    self.observer.evicted(each.name)
            now = await self._await_memory(admission, [each.name for each in victims])
            if self.warm_swap is not None:  # what has really come back
                self.warm_swap.make_room(SwapRoom.beside(now, admission.fit, ()), entry.name)
        await self._bring_in(entry, admission)
        if self.warm_swap is not None:
            await self.warm_swap.give_back(entry.name)
        logger.info(
            "%s is loaded, in %s.",
            single_line(entry.name),
            format_duration(self._clock.now() - began),
        )

    async def _bring_in(self, entry: PoolEntry, admission: Admission) -> None:
        entry.progress = 0.0
        force = entry.source.force and isinstance(admission.decision, CannotFit)
        loads = self.runtime.load(admission.plan, force=force, probed=admission.fit)
        started = self._clock.now()
        try:
            async with aclosing(loads) as events:
                async for event in events:
                    if isinstance(event, LoadProgress):
                        entry.progress = event.fraction
                        entry.testing_devices = event.testing_devices
        except LocalLLMError as error:
            entry.record_failure(str(error), self._clock.now())
            if self.observer is not None:
                seconds = self._clock.now() - started
                self.observer.load_finished(entry.name, seconds, failed=True)
            raise
        entry.record_load(started, self._clock.now())
        if self.observer is not None:
            self.observer.load_finished(entry.name, self._clock.now() - started)
        self._times.record(entry.source.model, entry.load_s)

    async def _free(
        self,
        entries: Iterable[PoolEntry],
        room: SwapRoom | None = None,
        loading: str | None = None,
    ) -> None:
        """Unload models, and keep their conversations if there is `room`."""
        for entry in entries:
            if self.warm_swap is not None and room is not None:
                await self.warm_swap.keep(entry.name, room, loading)
            await self.runtime.unload(entry.name)
            entry.plan = None

    async def _await_memory(self, admission: Admission, gone: list[str]) -> MemoryOutlook:
        """Wait until the memory of the models that were unloaded is there; warn when it is not.
        Returns the memory as it is then."""
        before, until = admission.outlook, self._clock.now() + _MEMORY_RETURN_S
        while True:
            after = await self.runtime.outlook()
            missing = shortfall(before, after, gone)
            if missing is None or self._clock.now() >= until:
                break
            await self._clock.sleep(0.1)
        if missing is not None:
            logger.warning(
                "Only %s came back after unloading %s: another program has taken it, or the driver "
                "keeps it.",
                missing,
                ", ".join(map(single_line, gone)),
            )
        return after

    async def _expire(self, entry: PoolEntry) -> None:
        assert entry.expires_at is not None
        await self._clock.sleep(entry.expires_at - self._clock.now())
        async with self._loading:
            if entry.requests or entry.holds or not self._resident(entry):
                return
            entry.timer = entry.expires_at = None  # a request that comes now does not stop it
            owner = object()
            entry.hold(owner)
            try:
                before = await self.runtime.outlook()
                await self._free((entry,), SwapRoom.without(before, entry.name))
                if self.observer is not None:
                    self.observer.unloaded(entry.name)
                logger.info(
                    "%s is unloaded: nothing has asked for it in %s. %s.",
                    single_line(entry.name),
                    format_duration(entry.keep_alive_s),
                    _held(before, entry.name),
                )
            finally:
                self._release((entry,), owner)


def _held(outlook: MemoryOutlook, name: str) -> str:
    held = outlook.held.get(name)
    return f"It held {format_bytes(held.total_bytes)}" if held is not None else "It held nothing"


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
