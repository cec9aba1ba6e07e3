"""The engine as its parent sees it: one model, one child process, streams of events.

`Engine` is what the runtime depends on; `ProcessEngine` is the real one and `fake.FakeEngine`
the scripted one.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from localllm.core.hardware import EngineBuild
from localllm.engine.events import (
    GenerateEvent,
    GenerateRequest,
    Loaded,
    LoadProgress,
    LoadRequest,
    Probed,
    ProbeRequest,
)


class Engine(Protocol):
    """One model in one process.

    Every method may raise EngineCrashed when the process is gone; all requests in flight get
    it. A crashed engine stays crashed: start a new one.
    """

    @property
    def pid(self) -> int | None:
        """The child's process id, None when it does not run."""

    @property
    def alive(self) -> bool: ...

    async def describe(self) -> EngineBuild:
        """Say what the installed llama.cpp can use. Raises EngineUnavailable."""

    def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | Loaded, None]:
        """Load a model; the last event is `Loaded`. Raises LoadFailed, EngineUnavailable."""

    async def probe(self, request: ProbeRequest) -> Probed:
        """Ask llama.cpp what a load would allocate. Raises LoadFailed."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Answer one request; the last event is `Finished`.

        Closing the iterator (`aclose`) cancels the request. Raises GenerationFailed classes.
        """

    async def cancel(self, request_id: str) -> None:
        """End a request; its stream ends with `Finished(reason=CANCELLED)`."""

    def memory_bytes(self) -> int | None:
        """Resident memory of the process (RSS, shared pages of the mapped file included)."""

    async def close(self) -> None:
        """End the process and free everything it holds. Safe to call twice."""
