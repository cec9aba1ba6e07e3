"""A fake machine with scripted engines, and the real runtime on it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from localllm.core.hardware import Cpu, EngineBuild, HardwareInfo, Memory
from localllm.engine.fake import FakeEngine, Script
from localllm.library.files.settings import Settings
from localllm.library.store.store import Store
from localllm.runtime.loading.thread_counts import ThreadChoices
from localllm.runtime.runtime import PROBE_TIMEOUT_S, Runtime

GIB = 2**30


@dataclass
class FakeMachine:
    """A machine whose free memory, clock and settings a test sets; `engines` are all that its
    runtimes have started, each with a script of its own."""

    data_dir: Path
    available_bytes: int = 8 * GIB
    now_s: float = 1000.0
    settings: Settings = field(default_factory=Settings)
    probe_timeout_s: float = PROBE_TIMEOUT_S
    script: Callable[[], Script] = Script
    thread_choices: ThreadChoices | None = None
    engines: list[FakeEngine] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def start_engine(self) -> FakeEngine:
        self.engines.append(FakeEngine(self.script()))
        self.started.set()
        return self.engines[-1]

    def detect(self, build: EngineBuild | None) -> HardwareInfo:
        return HardwareInfo(
            cpu=Cpu(name="Made up", cores_physical=6, cores_usable=4),
            ram=Memory(total_bytes=16 * GIB, available_bytes=self.available_bytes),
            engine=build,
        )

    def runtime(self) -> Runtime:
        return Runtime(
            store=Store(self.data_dir),
            detect=self.detect,
            start_engine=self.start_engine,
            settings=self.settings,
            probe_timeout_s=self.probe_timeout_s,
            clock=lambda: self.now_s,
            thread_choices=self.thread_choices,
        )
