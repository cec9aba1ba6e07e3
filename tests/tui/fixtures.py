"""A fake machine, clock and library for the app; the runtime on them is the real one."""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from localllm.chat.history.history import History
from localllm.core.catalogue.catalogue import Entry
from localllm.core.hardware import Cpu, EngineBuild, HardwareInfo, Memory, NetworkAccess
from localllm.core.speed.estimate import Estimate
from localllm.engine.fake import FakeEngine, Script
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.files.settings import Settings
from localllm.library.http.ledger import NetworkLedger
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.machine.load import SystemLoad
from localllm.machine.readings import RamUse, Readings
from localllm.runtime.runtime import Fit, Runtime
from localllm.tui.app import LocalLLMApp
from localllm.tui.downloads import Downloads, DownloadSource
from localllm.tui.services import AppServices, Suggest, app_pool
from tests.tui.fake_hub_source import FakeHubSource
from tests.tui.fake_suggestions import FakeSuggestions

MIB, GIB = 2**20, 2**30


@dataclass
class FakeClock:
    """Stands still until a test moves it."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@cache
def entries_called(names: tuple[str, ...]) -> tuple[Entry, ...]:
    """The catalogue's entries of these names, read once: it takes a second."""
    return tuple(entry for entry in read_catalogue() if entry.name in names)


@dataclass
class AppFixture:
    """Everything that an app is given, for a test to change."""

    data_dir: Path
    starter: InstalledModel | None
    script: Script = field(default_factory=Script)
    clock: FakeClock = field(default_factory=FakeClock)
    engines: list[FakeEngine] = field(default_factory=list)
    available_bytes: int = 10 * GIB
    warnings: tuple[str, ...] = ()
    network: NetworkAccess | None = None
    engine_reason: str = ""
    engine_changed: str | None = None
    cpu_name: str = "Made-up 9000"
    suggest: Suggest = field(default_factory=FakeSuggestions)
    source: DownloadSource = field(default_factory=FakeHubSource)
    readings: Readings = field(
        default_factory=lambda: Readings(
            memory=RamUse(others_bytes=5 * GIB, ours_bytes=GIB, free_bytes=10 * GIB)
        )
    )
    settings: Settings = field(default_factory=Settings)
    conversations: History = field(default_factory=History.in_memory)
    catalogue: tuple[str, ...] = ("smollm2-135m", "gemma-3-4b", "qwen3-8b", "llama-3.3-70b")
    ledger: NetworkLedger = field(default_factory=NetworkLedger)

    @property
    def engine(self) -> FakeEngine:
        """The engine that was started last."""
        return self.engines[-1]

    @property
    def store(self) -> Store:
        return Store(self.data_dir, find_starter=lambda: self.starter)

    def detect(self, build: EngineBuild | None) -> HardwareInfo:
        return HardwareInfo(
            cpu=Cpu(name=self.cpu_name, cores_physical=8, cores_usable=16),
            ram=Memory(total_bytes=16 * GIB, available_bytes=self.available_bytes),
            engine=build and replace(build, reason=self.engine_reason, network=self.network),
            warnings=self.warnings,
        )

    async def engine_change(self) -> str | None:
        return self.engine_changed

    def start_engine(self) -> FakeEngine:
        self.engines.append(FakeEngine(self.script))
        return self.engine

    def app(self, runtime: type[Runtime] = Runtime) -> LocalLLMApp:
        running = runtime(
            store=self.store,
            detect=self.detect,
            start_engine=self.start_engine,
            settings=self.settings,
            engine_change=self.engine_change,
        )
        app = LocalLLMApp(
            lambda frame: AppServices(
                runtime=running,
                pool=app_pool(running),
                downloads=Downloads(self.source),
                settings=self.settings,
                suggest=self.suggest,
                catalogue=lambda: entries_called(self.catalogue),
                clock=self.clock,
                read_load=lambda _gpu: SystemLoad(cpu=0.97),
                expect=lambda _hardware, _resident: Estimate(low=4, likely=6, high=9),
                read_machine=lambda: self.readings,
                frame=frame,
                conversations=self.conversations,
                collections_dir=self.data_dir / "collections",
                ledger=self.ledger,
            )
        )
        app.animation_level = "none"
        return app


def fake_fit(real: Fit, *, need_bytes: int, free_bytes: int, advice: str | None = None) -> Fit:
    """Give a real fit the numbers that a test wants."""
    weights_bytes = need_bytes // 2
    kv_bytes = need_bytes - weights_bytes
    share = replace(
        real.placement.host,
        weights_bytes=weights_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=0,
        overhead_bytes=0,
        free_bytes=free_bytes,
        fits=need_bytes <= free_bytes,
    )
    return replace(
        real,
        footprint=replace(
            real.footprint,
            weights_bytes=weights_bytes,
            kv_bytes=kv_bytes,
            recurrent_bytes=0,
            compute_bytes=0,
            output_bytes=0,
            overhead_bytes=0,
        ),
        placement=replace(real.placement, devices=(share,)),
        advice=advice,
    )
