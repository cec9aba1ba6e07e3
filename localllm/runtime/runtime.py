"""Models in memory: what both front ends hold.

A `Runtime` joins the three rooms below it (machine, library, engine) and adds the decisions that
none of them can take alone: does this model fit now, what was really allocated, what happens
after a crash.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import machine
from localllm.core.hardware import EngineBuild, HardwareInfo
from localllm.core.sizing.comparison import Comparison
from localllm.core.sizing.fit import Fit, TooLarge, fit_on
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement import HOST
from localllm.engine.client.client import Engine, ProcessEngine
from localllm.engine.client.supervisor import SupervisedEngine
from localllm.engine.messages import (
    Embedded,
    EmbedRequest,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Loaded,
    LoadProgress,
    LoadRequest,
    ProbeRequest,
    Reranked,
    RerankRequest,
    RestoreState,
    SaveState,
    StateRestored,
    StateSaved,
)
from localllm.engine.messages.validation import check_vision
from localllm.errors import EngineCrashed, EngineUnavailable, LoadFailed, NotFound
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.library.files.settings import load as load_settings
from localllm.library.store.companions import why_no_vision
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.load_plan import LoadPlan, plan_load
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.local_machine import usable_cores

__all__ = ["Fit", "ResidentModel", "Runtime", "TooLarge"]

PROBE_TIMEOUT_S = 60.0
"""A dry run takes milliseconds, a first import from a cold disk seconds, a hung driver for ever."""
_NOTHING_SET = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentModel:
    """A model in memory: what was asked, what was estimated, what was really allocated."""

    model: InstalledModel
    fit: Fit
    loaded: Loaded

    @property
    def settings(self) -> LoadSettings:
        """The settings it was loaded with."""
        return self.fit.settings

    @property
    def comparison(self) -> Comparison:
        """Estimate, dry run and read-back of this load."""
        return self.fit.compared(self.loaded.allocations, self.loaded.draft)

    @property
    def vision_unavailable(self) -> str | None:
        """Why it cannot see images, and what to do; None when it can."""
        return (
            None
            if self.loaded.vision
            else self.loaded.vision_unavailable or why_no_vision(self.model)
        )


@dataclass(frozen=True, slots=True)
class _Slot:
    """A resident model as it was loaded first, and what holds it."""

    first: ResidentModel
    supervised: SupervisedEngine

    @property
    def resident(self) -> ResidentModel:
        return replace(self.first, loaded=self.supervised.loaded)

    @property
    def engine(self) -> Engine:
        return self.supervised.engine


class Runtime:
    """Everything below is passed in: a test gives a FakeEngine and a made-up machine."""

    def __init__(
        self,
        *,
        store: Store,
        detect: Callable[[EngineBuild | None], HardwareInfo],
        start_engine: Callable[[], Engine],
        settings: Settings = _NOTHING_SET,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`settings` are the user's: how a model is loaded when nothing is said, and what of the
        memory is never planned for one."""
        self._store = store
        self._detect = detect
        self._start_engine = start_engine
        self._settings = settings
        self._probe_timeout_s = probe_timeout_s
        self._clock = clock
        self._loading = asyncio.Lock()
        self._starting: set[Engine] = set()
        """Engines that hold no resident model (yet): dry runs, and loads on their way."""
        self._build: EngineBuild | None = None
        self._hardware: HardwareInfo | None = None
        self._slots: dict[str, _Slot] = {}

    @classmethod
    def of_this_machine(cls) -> "Runtime":
        """The runtime of the real machine, the real library and real engines."""
        return cls(
            store=Store.default(),
            detect=machine.detect,
            start_engine=lambda: ProcessEngine(log_dir=paths.log_dir()),
            settings=load_settings(),
        )

    # --- the machine and the library ---

    async def hardware(self, *, fresh: bool = False) -> HardwareInfo:
        """This machine, engine build included; cached after the first call, unless `fresh`."""
        if fresh or self._hardware is None:
            self._hardware = await self._detect_now()
        return self._hardware

    def installed(self) -> tuple[InstalledModel, ...]:
        """Every installed model, by name."""
        return self._store.installed()

    def resolve(self, name: str) -> InstalledModel:
        """Find a model by path, installed name or unique prefix. Raises NotFound."""
        return self._store.resolve(name)

    async def adopt(self, path: Path) -> InstalledModel:
        """Make a GGUF file part of the library, where it is.

        Raises NotFound, GgufError, StoreError.
        """
        return await asyncio.to_thread(self._store.adopt, path)

    async def plan(self, model: InstalledModel, choice: LoadChoice) -> LoadPlan:
        """Read what a load needs and decide how it is done. Raises as `plan_load` does."""
        return await asyncio.to_thread(
            plan_load, model, choice, settings=self._settings, resolve=self.resolve
        )

    async def fit(self, plan: LoadPlan) -> Fit:
        """Compare what this load needs with what is free now, its companions included.

        It is the fit of the first candidate that fits, else of the last.
        """
        hardware = await self._detect_now()
        returned = self._returned(plan.model.name)
        host_bytes = returned.pop(HOST, 0)
        threads = usable_cores(hardware.cpu)
        for candidate in plan.candidates:
            fit = fit_on(
                plan.spec,
                replace(candidate, threads=candidate.threads or threads),
                hardware,
                draft=plan.draft,
                reserve_bytes=self._settings.reserve_bytes,
                returned_bytes=host_bytes,
                returned_gpu_bytes=returned,
            )
            if fit.fits:
                break
        return fit

    async def probe(self, model: InstalledModel, fit: Fit) -> Fit:
        """Ask llama.cpp itself what this load would allocate, in a process of its own that has
        ended when this returns. Raises LoadFailed (also when no answer comes), EngineCrashed."""
        request = ProbeRequest(path=str(model.path), settings=fit.settings)
        async with self._engine() as engine:
            try:
                async with asyncio.timeout(self._probe_timeout_s):
                    answer = await engine.probe(request)
            except TimeoutError:
                raise LoadFailed(
                    f"llama.cpp did not say within {self._probe_timeout_s:.0f} s what {model.name} "
                    "would allocate. Try again, or --force to load without asking."
                ) from None
            except EngineCrashed as crash:
                raise EngineCrashed(
                    f"llama.cpp itself ended ({crash.reason}) when asked what {model.name} would "
                    "allocate with these settings, so loading it would probably end the same way. "
                    f"Try --kv-type f16, a smaller --ctx or another quant. {crash}",
                    reason=crash.reason,
                    log_tail=crash.log_tail,
                ) from crash
        return fit.with_probe(answer.allocations)

    # --- models in memory ---

    async def load(
        self, plan: LoadPlan, *, force: bool = False
    ) -> AsyncGenerator[LoadProgress | ResidentModel, None]:
        """Load a model in an engine of its own; the last value is the ResidentModel.

        One load at a time: the next one sees what this one has left. A model of the same name that
        is already resident is unloaded first. A load that would take most of what is free, or that
        the estimate is unsure of, is asked of llama.cpp first, unless `force`.
        Raises TooLarge (a DoesNotFit, unless `force`), UsageError for settings that llama.cpp
        refuses, GgufError, LoadFailed, EngineCrashed.
        """
        model = plan.model
        async with self._loading:
            fit = await self.fit(plan.forced if force else plan)
            if fit.wants_probe and not force:
                fit = await self.probe(model, fit)
            if not fit.fits and not force:
                raise TooLarge(model.name, fit)
            await self.unload(model.name)
            engine = self._start_engine()
            self._starting.add(engine)
            try:
                async with aclosing(engine.load(_load_request(model, fit.settings))) as events:
                    async for event in events:
                        if isinstance(event, LoadProgress):
                            yield event
                            continue
                        resident = ResidentModel(model=model, fit=fit, loaded=event)
                        self._slots[model.name] = self._supervise(resident, engine)
                        yield resident
            finally:
                self._starting.discard(engine)
                slot = self._slots.get(model.name)
                if slot is None or slot.engine is not engine:
                    await engine.close()

    def resident(self) -> tuple[ResidentModel, ...]:
        """The models in memory, crashed ones left out."""
        return tuple(slot.resident for slot in self._slots.values() if slot.engine.alive)

    async def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Answer with the resident model `name`. Closing the iterator cancels.

        A model whose engine has crashed is loaded again first (engine/client/supervisor.py says
        when).
        Raises NotFound when no such model is resident, GenerationFailed classes, EngineCrashed.
        """
        slot = self._slot(name)
        check_vision(request, slot.resident.vision_unavailable)
        engine = await slot.supervised.ready()
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    slot.supervised.record_success()
                yield event

    async def embed(self, name: str, request: EmbedRequest) -> Embedded:
        """Turn texts into vectors with the resident model `name`. Being cancelled cancels.

        Raises as `generate` does; BadRequest for a model that was not loaded for it.
        """
        slot = self._slot(name)
        answer = await (await slot.supervised.ready()).embed(request)
        slot.supervised.record_success()
        return answer

    async def rerank(self, name: str, request: RerankRequest) -> Reranked:
        """Score documents against a query. Raises as `embed` does."""
        slot = self._slot(name)
        answer = await (await slot.supervised.ready()).rerank(request)
        slot.supervised.record_success()
        return answer

    async def save_state(self, name: str, request: SaveState) -> StateSaved:
        """Keep what the resident model `name` has computed of a conversation in a file.

        Raises NotFound when no such model is resident, StateFailed, EngineCrashed.
        """
        return await self._slot(name).engine.save_state(request)

    async def restore_state(self, name: str, request: RestoreState) -> StateRestored:
        """Bring it back. Raises as `save_state` does."""
        return await self._slot(name).engine.restore_state(request)

    async def cancel(self, name: str, request_id: str) -> None:
        """End a request; its stream ends with reason CANCELLED."""
        if (slot := self._slots.get(name)) is not None:
            await slot.engine.cancel(request_id)

    def memory_bytes(self, name: str) -> int | None:
        """Resident memory of the engine that holds `name`."""
        slot = self._slots.get(name)
        return slot.engine.memory_bytes() if slot is not None else None

    async def crash(self, name: str) -> EngineCrashed | None:
        """Why the engine that holds `name` is gone; None while it lives or nothing is known."""
        slot = self._slots.get(name)
        return await slot.supervised.crash() if slot is not None else None

    async def unload(self, name: str) -> None:
        """Free a model; unknown names are ignored."""
        if (slot := self._slots.pop(name, None)) is not None:
            await slot.supervised.close()

    async def close(self) -> None:
        """Free every model and end every engine, those of loads and dry runs too."""
        await asyncio.gather(*(engine.close() for engine in tuple(self._starting)))
        await asyncio.gather(*(self.unload(name) for name in tuple(self._slots)))

    # --- inside ---

    def _slot(self, name: str) -> _Slot:
        if (slot := self._slots.get(name)) is None:
            raise NotFound(f"{name} is not loaded.")
        return slot

    def _supervise(self, resident: ResidentModel, engine: Engine) -> _Slot:
        supervised = SupervisedEngine(
            engine,
            resident.loaded,
            name=resident.model.name,
            request=_load_request(resident.model, resident.settings),
            start=self._start_engine,
            clock=self._clock,
        )
        return _Slot(resident, supervised)

    @asynccontextmanager
    async def _engine(self) -> AsyncGenerator[Engine, None]:
        """An engine for one question, ended afterwards."""
        engine = self._start_engine()
        self._starting.add(engine)
        try:
            yield engine
        finally:
            self._starting.discard(engine)
            await engine.close()

    async def _detect_now(self) -> HardwareInfo:
        """The machine as it is now; the engine's build does not change and is asked for once."""
        if self._build is None:
            try:
                async with self._engine() as engine, asyncio.timeout(self._probe_timeout_s):
                    self._build = await engine.describe()
            except (EngineUnavailable, EngineCrashed, TimeoutError):
                self._build = None  # detect() warns that no engine answers
        return await asyncio.to_thread(self._detect, self._build)

    def _returned(self, name: str) -> dict[str, int]:
        """What unloading `name` gives back, by the engine's name of the device; the mapped weights
        on the host are page cache, free already."""
        slot = self._slots.get(name)
        if slot is None or not slot.engine.alive:
            return {}
        resident = slot.resident
        *gpus, host = resident.fit.placement.devices
        back = {gpu.engine_name: gpu.total_bytes for gpu in gpus if gpu.engine_name is not None}
        mapped = host.weights_bytes if resident.settings.mmap else 0
        draft = resident.fit.draft
        if draft is not None and not gpus:  # otherwise nobody knows which device has it
            back[HOST] = draft.total_bytes - (draft.weights_bytes if mapped else 0)
        return back | {HOST: back.get(HOST, 0) + host.total_bytes - mapped}


def _load_request(model: InstalledModel, settings: LoadSettings) -> LoadRequest:
    return LoadRequest(path=str(model.path), settings=settings)
