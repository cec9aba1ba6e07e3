"""A machine with memory for so many models, scripted engines and a clock that a test moves."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.core.hardware import EngineBuild, HardwareInfo
from localllm.engine.fake import FakeEngine, Script
from localllm.engine.messages import Loaded, LoadProgress, LoadRequest
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import FOREVER, PoolModel, PoolModels
from localllm.runtime.runtime import Runtime
from tests.runtime.fake_machine import FakeMachine

CHOICE = LoadChoice(context=512, parallel=1, threads=1, mmap=False)


class FakeClock:
    """Time that passes when a test moves it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, woken))
        await woken

    async def advance(self, seconds: float) -> None:
        self._now += seconds
        for at, woken in self._sleepers:
            if at <= self._now and not woken.done():
                woken.set_result(None)
        await asyncio.sleep(0)


class NamedEngine(FakeEngine):
    """Plays the script of the model that it loads."""

    def __init__(self, machine: "PoolMachine") -> None:
        super().__init__(Script())
        self._machine = machine
        self.name: str | None = None

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        self.name = Path(request.path).stem
        self._machine.loads.append(self.name)
        assert len(self._machine.running) <= self._machine.room, self._machine.running
        self.script = self._machine.scripts.setdefault(self.name, Script())
        async for event in super().load(request):
            yield event


@dataclass
class PoolMachine(FakeMachine):
    """A machine on which `room` models of `model_bytes` fit; with `leaks`, what was loaded once is
    never free again. `loads` are the names of all loads, in their order. Conversations that are
    kept take `kept_bytes` of the memory."""

    room: float = 1.5
    model_bytes: int = 0
    leaks: bool = False
    max_memory_bytes: int | None = None
    scripts: dict[str, Script] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    kept_bytes: Callable[[], int] = int

    def start_engine(self) -> FakeEngine:
        engine = NamedEngine(self)
        self.engines.append(engine)
        return engine

    @property
    def running(self) -> list[str]:
        """The models whose engines run."""
        return [
            each.name
            for each in self.engines
            if isinstance(each, NamedEngine) and each.alive and each.name is not None
        ]

    def detect(self, build: EngineBuild | None) -> HardwareInfo:
        found = super().detect(build)
        if not self.model_bytes:
            return found
        used = len(self.loads) if self.leaks else len(self.running)
        free = max(0, int(self.model_bytes * (self.room - used)) - self.kept_bytes())
        return replace(found, ram=replace(found.ram, available_bytes=free))

    def runtime(self) -> Runtime:
        runtime = Runtime(
            store=Store(self.data_dir, find_starter=lambda: None),
            detect=self.detect,
            start_engine=self.start_engine,
            clock=self.clock.now,
        )
        runtime.max_memory_bytes = self.max_memory_bytes
        return runtime

    async def pool(
        self,
        file: Path,
        names: str = "abc",
        *,
        keep_alive_s: Mapping[str, float] | None = None,
        pinned: str = "",
    ) -> ModelPool:
        """Make a pool of models that are all the same file under these names."""
        runtime, given = self.runtime(), []
        for name in names:
            path = self.data_dir / f"{name}.gguf"
            path.symlink_to(file)
            given.append(
                PoolModel(
                    model=InstalledModel(name=name, quant=None, path=path, size_bytes=98_362_432),
                    choice=CHOICE,
                    keep_alive_s=(keep_alive_s or {}).get(name, FOREVER),
                    pinned=name in pinned,
                )
            )
        fit = await runtime.fit(await runtime.plan(given[0].model, CHOICE))
        self.model_bytes = fit.total_bytes
        return ModelPool(runtime, PoolModels(runtime, given), clock=self.clock)
