"""The models in memory, for every front end.

A `Runtime` joins the three rooms below it (machine, library, engine) and takes the decisions that
none of them can take alone: whether a load fits now, what to load again after a crash. No front
end starts an engine to generate with by itself.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import machine
from localllm.core.hardware import EngineBuild, HardwareInfo
from localllm.core.model.foreign import is_image_model
from localllm.core.sizing.fit import Fit, TooLarge
from localllm.core.speed.threads import size_class
from localllm.core.text import single_line
from localllm.engine.builds.candidates import RequestedEngine, requested_engine
from localllm.engine.client.client import Engine, ProcessEngine
from localllm.engine.client.exit_reason import ILLEGAL_INSTRUCTION
from localllm.engine.client.supervisor import SupervisedEngine
from localllm.engine.messages import (
    Architectures,
    Detokenized,
    DetokenizeRequest,
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
    Thinking,
    Tokenized,
    TokenizeRequest,
)
from localllm.engine.messages.validation import check_vision
from localllm.errors import (
    DoesNotFit,
    EngineCrashed,
    EngineUnavailable,
    GgufError,
    LoadFailed,
    NotFound,
)
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.library.files.settings import load as load_settings
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.engine_change import engine_change
from localllm.runtime.engine_support import architecture_of, find_unsupported
from localllm.runtime.load_plan import LoadPlan, plan_load
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.loading.gpu_tests import (
    GpuFailed,
    GpuTest,
    GpuVerdict,
    GpuVerdicts,
    blames_gpu,
)
from localllm.runtime.loading.permission import require_load
from localllm.runtime.loading.resident_model import ResidentModel
from localllm.runtime.loading.thread_counts import ThreadChoice, ThreadChoices
from localllm.runtime.local_machine import crash_advice
from localllm.runtime.memory_outlook import MemoryOutlook, held_memory

__all__ = ["Fit", "ResidentModel", "Runtime", "TooLarge"]

PROBE_TIMEOUT_S = 60.0
"""A dry run takes milliseconds, a first import from a cold disk seconds, a hung driver for ever."""
_RATED_TOKENS = 64
"""Fewer tokens say little about the rate of reading."""
_DEFAULT_SETTINGS = Settings()


@dataclass(frozen=True, slots=True)
class _LoadedModel:
    """A resident model as it was loaded first, and the supervisor of its engine."""

    first: ResidentModel
    supervisor: SupervisedEngine

    @property
    def resident(self) -> ResidentModel:
        return replace(self.first, loaded=self.supervisor.loaded)

    @property
    def engine(self) -> Engine:
        return self.supervisor.engine


async def _no_change() -> None:
    return None


class Runtime:
    """The models in memory, on a machine, a library and engines that are passed in: a test passes
    a FakeEngine and a fake machine."""

    def __init__(
        self,
        *,
        store: Store,
        detect: Callable[[EngineBuild | None], HardwareInfo],
        start_engine: Callable[[], Engine],
        settings: Settings = _DEFAULT_SETTINGS,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        engine_change: Callable[[], Awaitable[str | None]] = _no_change,
        thread_choices: ThreadChoices | None = None,
    ) -> None:
        """Take `settings` as the user's. `engine_change` returns a sentence, once, when another
        engine runs models than last time; `thread_choices` knows the threads that are best."""
        self.gpu_verdicts = GpuVerdicts()
        self.max_memory_bytes: int | None = None
        """The memory that all models together may take; None: no limit but what is free."""
        self.releasable_bytes: Callable[[], int] = int
        """Memory that is given back as soon as a load needs it."""
        self._reading_rates: dict[str, float] = {}
        self._thread_choices = thread_choices
        self.engine_change = engine_change
        self.store = store
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
        self._models: dict[str, _LoadedModel] = {}

    @property
    def default_thinking(self) -> Thinking:
        """How a model thinks when nothing is said, as the settings have it."""
        return Thinking.of_effort(self._settings.reasoning_effort)

    @classmethod
    def of_this_machine(cls, engine: RequestedEngine | None = None) -> "Runtime":
        """Make the runtime of the real machine, the user's library and real engines: of the build
        `engine`, or else the one that is chosen."""
        settings = load_settings()
        requested = engine or requested_engine(settings.engine)
        runtime = cls(
            store=Store.default(),
            detect=machine.detect,
            start_engine=lambda: ProcessEngine(
                log_dir=paths.log_dir(),
                crash_advice=advice,
                verdicts=paths.engine_verdicts_file(),
                requested=requested,
            ),
            settings=settings,
            engine_change=engine_change,
            thread_choices=ThreadChoices(paths.threads_file()),
        )
        runtime.gpu_verdicts = GpuVerdicts(paths.gpu_verdicts_file())
        advice = crash_advice(lambda: runtime._build)  # it is this class
        return runtime

    # --- the machine and the library ---

    async def hardware(self, *, fresh: bool = False) -> HardwareInfo:
        """Detect this machine and its engine's build; cached after the first call, unless
        `fresh`."""
        if fresh or self._hardware is None:
            self._hardware = await self._detect_now()
        return self._hardware

    def installed(self) -> tuple[InstalledModel, ...]:
        """List every installed model, by name."""
        return self.store.installed()

    def resolve(self, name: str) -> InstalledModel:
        """Find a model by path, installed name or unique prefix. Raises NotFound."""
        return self.store.resolve(name)

    async def adopt(self, path: Path) -> InstalledModel:
        """Make a GGUF file part of the library, where it is.

        Raises NotFound, GgufError, StoreError.
        """
        return await asyncio.to_thread(self.store.adopt, path)

    async def unsupported(self, model: InstalledModel) -> str | None:
        """Return why the installed llama.cpp cannot run this model at all, with what would help;
        None when it can, or nothing is known."""
        architecture = await asyncio.to_thread(architecture_of, model.path)
        names = () if architecture is None else (architecture,)
        return next(iter((await self.unsupported_architectures(names)).values()), None)

    async def unsupported_architectures(self, architectures: Iterable[str]) -> dict[str, str]:
        """Return those that the installed llama.cpp cannot run, each with what would help."""

        async def ask(names: tuple[str, ...]) -> Architectures:
            async with self._engine() as engine, asyncio.timeout(self._probe_timeout_s):
                return await engine.architectures(names)

        return await find_unsupported(architectures, ask=ask)

    async def plan(self, model: InstalledModel, choice: LoadChoice) -> LoadPlan:
        """Read the files of a load and decide its settings.

        Raises as `plan_load` does, and LoadFailed where a header cannot be used because llama.cpp
        does not know its architecture.
        """
        try:
            return await asyncio.to_thread(
                plan_load, model, choice, settings=self._settings, resolve=self.resolve
            )
        except GgufError as error:
            await self._require_runnable(model, error)
            raise

    async def outlook(self) -> MemoryOutlook:
        """Measure the memory that is free now, and what each resident model holds of it."""
        hardware = await self._detect_now()
        return MemoryOutlook(
            hardware=hardware,
            held={
                name: held_memory(each.first.fit, each.supervisor.loaded, running=each.engine.alive)
                for name, each in self._models.items()
            },
            reserve_bytes=self._settings.reserve_bytes,
            max_memory_bytes=self.max_memory_bytes,
            releasable_bytes=self.releasable_bytes()
            + sum(each.supervisor.host_cache_bytes for each in self._models.values()),
        )

    async def fit(self, plan: LoadPlan) -> Fit:
        """Compare what this load needs with what is free now, its companions included.

        The result is the fit of the first candidate that fits, else of the last.
        """
        return await self.fit_in(await self.outlook(), plan)

    async def fit_in(
        self, outlook: MemoryOutlook, plan: LoadPlan, *, unloading: Collection[str] = ()
    ) -> Fit:
        """Do what `fit` does in memory that was measured before, as if the models called
        `unloading` were gone."""
        try:
            return await asyncio.to_thread(outlook.fit, plan, unloading)
        except GgufError as error:  # a kind of model whose memory nobody can work out
            await self._require_runnable(plan.model, error)
            raise

    async def probe(self, model: InstalledModel, fit: Fit) -> Fit:
        """Let llama.cpp itself size this load (a dry run), in a process that has ended when this
        returns. Raises LoadFailed (also when no answer comes), EngineCrashed."""
        await asyncio.to_thread(require_load, model, None, fit.settings)
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
                if crash.reason == ILLEGAL_INSTRUCTION:  # whatever the settings are
                    raise
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
        self, plan: LoadPlan, *, force: bool = False, probed: Fit | None = None
    ) -> AsyncGenerator[LoadProgress | ResidentModel, None]:
        """Load a model in an engine of its own; the last value is the ResidentModel.

        One load at a time: the next one sees what this one has left. A model of the same name that
        is already resident is unloaded first. A load that would take most of what is free, or that
        the estimate is unsure of, is probed first, unless `force`; `probed` is the result of an
        earlier probe of it. A GPU that computes wrong numbers with this model, or ends the engine,
        is not used (gpu_tests.py).
        Raises PolicyRefused, TooLarge or another DoesNotFit (unless `force`), UsageError for
        settings that llama.cpp refuses, GgufError, LoadFailed, EngineCrashed.
        """
        async with self._loading:
            try:
                async with aclosing(self._load(plan, force=force, probed=probed)) as events:
                    async for event in events:
                        yield event
                return
            except GpuFailed as failed:
                failure = failed
            on_processor = self._load(plan.on_processor, force=force, failure=failure.verdict)
            try:
                async with aclosing(on_processor) as events:
                    async for event in events:
                        if isinstance(event, ResidentModel):  # so the processor is not to blame
                            self.gpu_verdicts.put(failure.test, failure.verdict)
                        yield event
            except TooLarge as large:
                raise DoesNotFit(
                    f"{failure.verdict.fault}. Without the GPU, {large} Or use the GPU all the "
                    "same with --trust-gpu."
                ) from large

    def thread_choice(self, model: InstalledModel, hardware: HardwareInfo) -> ThreadChoice | None:
        """Return the threads that were found best for models of this size; None before that."""
        choices = self._thread_choices
        return (
            None if choices is None else choices.known(hardware).get(size_class(model.size_bytes))
        )

    def resident(self) -> tuple[ResidentModel, ...]:
        """List the models in memory, without those whose engine has ended."""
        return tuple(each.resident for each in self._models.values() if each.engine.alive)

    def holds(self, name: str) -> bool:
        """Tell whether a model of this name was loaded and not unloaded since, even if its engine
        has crashed."""
        return name in self._models

    def crashed(self) -> tuple[ResidentModel, ...]:
        """List the models whose engine has ended, as they were in memory; the next request for one
        loads it again."""
        return tuple(each.resident for each in self._models.values() if not each.engine.alive)

    async def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Generate with the resident model `name`. Closing the iterator cancels.

        A model whose engine has crashed is loaded again first (engine/client/supervisor.py says
        when).
        Raises NotFound when no such model is resident, GenerationFailed classes, EngineCrashed.
        """
        loaded = self._loaded_model(name)
        check_vision(request, loaded.resident.vision_unavailable)
        engine = await loaded.supervisor.ready()
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    loaded.supervisor.record_success(event)
                    self._note_reading(name, event)
                yield event

    async def embed(self, name: str, request: EmbedRequest) -> Embedded:
        """Embed texts with the resident model `name`. Cancelling the call cancels the request.

        Raises as `generate` does; BadRequest for a model that was not loaded for it.
        """
        loaded = self._loaded_model(name)
        embedded = await (await loaded.supervisor.ready()).embed(request)
        loaded.supervisor.record_success()
        return embedded

    async def rerank(self, name: str, request: RerankRequest) -> Reranked:
        """Score documents against a query. Raises as `embed` does."""
        loaded = self._loaded_model(name)
        reranked = await (await loaded.supervisor.ready()).rerank(request)
        loaded.supervisor.record_success()
        return reranked

    async def tokenize(self, name: str, request: TokenizeRequest) -> Tokenized:
        """Cut a text into tokens of the resident model `name`. Raises as `embed` does."""
        return await (await self._loaded_model(name).supervisor.ready()).tokenize(request)

    async def detokenize(self, name: str, request: DetokenizeRequest) -> Detokenized:
        """Write tokens of the resident model `name` as text. Raises as `embed` does."""
        return await (await self._loaded_model(name).supervisor.ready()).detokenize(request)

    async def apply_template(self, name: str, request: GenerateRequest) -> str:
        """Write the prompt of a request as text. Raises as `generate` does."""
        return await (await self._loaded_model(name).supervisor.ready()).apply_template(request)

    async def count_tokens(self, name: str, request: GenerateRequest) -> int:
        """Count the tokens of the prompt of a request. Raises as `generate` does."""
        loaded = self._loaded_model(name)
        check_vision(request, loaded.resident.vision_unavailable)
        return await (await loaded.supervisor.ready()).count_tokens(request)

    async def save_state(self, name: str, request: SaveState) -> StateSaved:
        """Save the KV cache of a conversation with the resident model `name` in a file.

        Raises NotFound when no such model is resident, StateFailed, EngineCrashed.
        """
        return await self._loaded_model(name).engine.save_state(request)

    async def restore_state(self, name: str, request: RestoreState) -> StateRestored:
        """Load the KV cache of a conversation from a file. Raises as `save_state` does."""
        return await self._loaded_model(name).engine.restore_state(request)

    def running_engine(self, name: str) -> Engine | None:
        """Return the engine of the resident model `name`; None when there is none that runs."""
        loaded = self._models.get(name)
        return loaded.engine if loaded is not None and loaded.engine.alive else None

    def reading_rate(self, name: str) -> float | None:
        """Return the tokens/s at which the model `name` has last read a prompt; None: not known."""
        return self._reading_rates.get(name)

    def _note_reading(self, name: str, end: Finished) -> None:
        if end.timings.prefill_tps and end.prompt_tokens - end.cached_tokens >= _RATED_TOKENS:
            self._reading_rates[name] = end.timings.prefill_tps

    async def cancel(self, name: str, request_id: str) -> None:
        """End a request; its stream ends with reason CANCELLED."""
        if (loaded := self._models.get(name)) is not None:
            await loaded.engine.cancel(request_id)

    def memory_bytes(self, name: str) -> int | None:
        """Measure the resident memory of the engine that holds `name`; None when there is none."""
        loaded = self._models.get(name)
        return loaded.engine.memory_bytes() if loaded is not None else None

    def silent_s(self, name: str) -> float:
        """Return the seconds since the engine of `name` has last given a sign of life while it
        should; 0 when it has nothing to do."""
        loaded = self._models.get(name)
        return loaded.engine.silent_s() if loaded is not None else 0.0

    async def crash(self, name: str) -> EngineCrashed | None:
        """Return the crash that ended the engine of `name`; None while it runs, or when nothing is
        known."""
        loaded = self._models.get(name)
        return await loaded.supervisor.crash() if loaded is not None else None

    async def unload(self, name: str) -> None:
        """Free a model; unknown names are ignored."""
        if (loaded := self._models.pop(name, None)) is not None:
            await loaded.supervisor.close()

    async def close(self) -> None:
        """Free every model and end every engine, those of loads and dry runs too."""
        await asyncio.gather(*(engine.close() for engine in tuple(self._starting)))
        await asyncio.gather(*(self.unload(name) for name in tuple(self._models)))

    # --- inside ---

    async def _load(
        self,
        plan: LoadPlan,
        *,
        force: bool,
        probed: Fit | None = None,
        failure: GpuVerdict | None = None,
    ) -> AsyncGenerator[LoadProgress | ResidentModel, None]:
        """Do what `load` does, in its turn. `failure`: why `plan` uses no GPU.

        Raises GpuFailed when its devices failed a test, now or before.
        """
        model = plan.model
        await asyncio.to_thread(require_load, model, plan.spec, plan.candidates[0])
        outlook = await self.outlook()
        fit = await self.fit_in(outlook, plan.forced if force else plan)
        if not force:
            fit = await self._require_fit(plan, fit, outlook, probed)
        test = None if plan.trust_gpu else GpuTest.of(model, fit, await self.hardware())
        known = self.gpu_verdicts.get(test) if test is not None else None
        if test is not None and known is not None:
            if not known.passed:
                raise GpuFailed(test, known)
            test = None
        await self.unload(model.name)
        engine = self._start_engine()
        self._starting.add(engine)
        try:
            request = replace(await self._request_of(plan, fit), test_devices=test is not None)
            fit = replace(fit, settings=request.settings)
            async with aclosing(engine.load(request)) as events:
                async for event in events:
                    if isinstance(event, LoadProgress):
                        yield event
                        continue
                    self._judge(test, event)
                    fit = await self._with_threads(plan, fit, event)
                    resident = ResidentModel(
                        model=model, fit=fit, loaded=event, gpu_failure=failure
                    )
                    self._models[model.name] = self._loaded_in(resident, engine)
                    yield resident
        except EngineCrashed as crash:
            if test is None or not blames_gpu(crash.reason):
                raise
            raise GpuFailed(test, test.verdict(crash=crash.reason)) from crash
        finally:
            self._starting.discard(engine)
            loaded = self._models.get(model.name)
            if loaded is None or loaded.engine is not engine:
                await engine.close()

    def _judge(self, test: GpuTest | None, loaded: Loaded) -> None:
        """Keep the verdict on a load's devices. Raises GpuFailed for one that did not pass."""
        if test is None or loaded.device_test is None:
            return
        verdict = test.verdict(loaded.device_test)
        if not verdict.passed:
            raise GpuFailed(test, verdict)
        self.gpu_verdicts.put(test, verdict)

    async def _require_fit(
        self, plan: LoadPlan, fit: Fit, outlook: MemoryOutlook, probed: Fit | None
    ) -> Fit:
        """Return the fit, probed if it wants to be. Raises DoesNotFit when there is no room."""
        if fit.wants_probe:
            if probed is not None and probed.probed is not None and probed.settings == fit.settings:
                fit = fit.with_probe(probed.probed)
            else:
                fit = await self.probe(plan.model, fit)
        if not fit.fits:
            raise TooLarge(plan.model.name, fit)
        if outlook.over_limit_bytes(plan, fit):
            raise DoesNotFit(outlook.limit_message(plan, fit))
        return fit

    def _loaded_model(self, name: str) -> _LoadedModel:
        if (loaded := self._models.get(name)) is None:
            raise NotFound(f"{name} is not loaded.")
        return loaded

    def _loaded_in(self, resident: ResidentModel, engine: Engine) -> _LoadedModel:
        supervisor = SupervisedEngine(
            engine,
            resident.loaded,
            name=resident.model.name,
            request=LoadRequest(path=str(resident.model.path), settings=resident.settings),
            start=self._start_engine,
            clock=self._clock,
        )
        return _LoadedModel(resident, supervisor)

    async def _request_of(self, plan: LoadPlan, fit: Fit) -> LoadRequest:
        """Make the request of a load; where nobody has said how many threads compute, with those
        that are known to be best, or those that it is to compare."""
        model, settings, counts = plan.model, fit.settings, tuple[int, ...]()
        if plan.candidates[0].threads is None and self._thread_choices is not None:
            hardware = await self.hardware()
            settings, counts = self._thread_choices.settled(settings, model.size_bytes, hardware)
        return LoadRequest(path=str(model.path), settings=settings, try_threads=counts)

    async def _with_threads(self, plan: LoadPlan, fit: Fit, loaded: Loaded) -> Fit:
        """Keep the threads that a load has found best, and note those that it uses."""
        if loaded.thread_trials and self._thread_choices is not None:
            self._thread_choices.keep(loaded, plan.model.size_bytes, await self.hardware())
        if loaded.threads is None:
            return fit
        batch = loaded.threads_batch
        return replace(
            fit, settings=replace(fit.settings, threads=loaded.threads, threads_batch=batch)
        )

    @asynccontextmanager
    async def _engine(self) -> AsyncGenerator[Engine, None]:
        """Start an engine for one request; it has ended afterwards."""
        engine = self._start_engine()
        self._starting.add(engine)
        try:
            yield engine
        finally:
            self._starting.discard(engine)
            await engine.close()

    async def _require_runnable(self, model: InstalledModel, error: GgufError) -> None:
        """Raise LoadFailed when this llama.cpp does not run the model's architecture at all: that
        says more than a key that is missing."""
        architecture = await asyncio.to_thread(architecture_of, model.path)
        if architecture is None or is_image_model(architecture):  # the error says that already
            return
        if (reason := await self.unsupported(model)) is not None:
            raise LoadFailed(f"{single_line(model.name)} cannot run here: {reason}") from error

    async def _detect_now(self) -> HardwareInfo:
        """Detect the machine as it is now. The engine's build does not change: it is described by
        the first engine that answers."""
        if self._build is None:
            try:
                async with self._engine() as engine, asyncio.timeout(self._probe_timeout_s):
                    self._build = await engine.describe()
            except (EngineUnavailable, EngineCrashed, TimeoutError):
                self._build = None  # detect() warns that no engine answers
        return await asyncio.to_thread(self._detect, self._build)
