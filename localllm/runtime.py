"""Models in memory: what both front ends hold.

A `Runtime` joins the three rooms below it (machine, library, engine) and adds the decisions that
none of them can take alone: does this model fit now, what was really allocated, what happens
after a crash.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from localllm.core.footprint import Footprint
from localllm.core.hardware import EngineBuild, HardwareInfo
from localllm.core.load import LoadSettings
from localllm.engine.client import Engine
from localllm.engine.events import GenerateEvent, GenerateRequest, Loaded, LoadProgress
from localllm.library.store import InstalledModel, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a load would need against what is free. `advice` is the smallest change that would
    help when it does not fit, else None."""

    footprint: Footprint
    free_bytes: int
    fits: bool
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentModel:
    """A model in memory: what was asked, what was estimated, what was really allocated."""

    model: InstalledModel
    settings: LoadSettings
    fit: Fit
    loaded: Loaded


class Runtime:
    """The contract of the front ends (bodies follow)."""

    def __init__(
        self,
        *,
        store: Store,
        detect: Callable[[EngineBuild | None], HardwareInfo],
        start_engine: Callable[[], Engine],
    ) -> None:
        """Everything below is passed in: a test gives a FakeEngine and a made-up machine."""
        raise NotImplementedError

    @classmethod
    def of_this_machine(cls) -> "Runtime":
        """The runtime of the real machine, the real library and real engines."""
        raise NotImplementedError

    async def hardware(self) -> HardwareInfo:
        """This machine, engine build included; cached after the first call."""
        raise NotImplementedError

    def installed(self) -> tuple[InstalledModel, ...]:
        """Every installed model, by name."""
        raise NotImplementedError

    def resolve(self, name: str) -> InstalledModel:
        """Find a model by path, installed name or unique prefix. Raises NotFound."""
        raise NotImplementedError

    async def fit(self, model: InstalledModel, settings: LoadSettings) -> Fit:
        """Compare what this load needs with what is free now. Raises GgufError."""
        raise NotImplementedError

    def load(
        self, model: InstalledModel, settings: LoadSettings, *, force: bool = False
    ) -> AsyncGenerator[LoadProgress | ResidentModel, None]:
        """Load a model in an engine of its own; the last value is the ResidentModel.

        A model of the same name that is already resident is unloaded first.
        Raises DoesNotFit (unless `force`), GgufError, LoadFailed, EngineCrashed.
        """
        raise NotImplementedError

    def resident(self) -> tuple[ResidentModel, ...]:
        """The models in memory, crashed ones left out."""
        raise NotImplementedError

    def generate(self, name: str, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Answer with the resident model `name`. Closing the iterator cancels.

        Raises NotFound when no such model is resident, GenerationFailed classes, EngineCrashed.
        """
        raise NotImplementedError

    async def cancel(self, name: str, request_id: str) -> None:
        """End a request; its stream ends with reason CANCELLED."""
        raise NotImplementedError

    def memory_bytes(self, name: str) -> int | None:
        """Resident memory of the engine that holds `name`."""
        raise NotImplementedError

    async def unload(self, name: str) -> None:
        """Free a model; unknown names are ignored."""
        raise NotImplementedError

    async def close(self) -> None:
        """Free every model and end every engine."""
        raise NotImplementedError
