"""A whole server on a real socket, with a scripted engine behind a real Runtime."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI
from starlette.types import ASGIApp

from localllm.core.hardware import Cpu, EngineBuild, HardwareInfo, Memory
from localllm.core.sizing.load import LoadSettings
from localllm.engine.client.client import Engine
from localllm.engine.fake import FakeEngine, Script
from localllm.library.store.store import InstalledModel, Store
from localllm.runtime.runtime import Runtime
from localllm.server.app import create_app
from localllm.server.listen import Address, Limits, StopSignals, bound_address, open_socket, serve
from localllm.server.security import HostPolicy

KEY = "a-key-that-only-the-tests-know"
MODEL = "tiny"


def detect(build: EngineBuild | None) -> HardwareInfo:
    return HardwareInfo(
        cpu=Cpu(name="Made-up CPU", cores_physical=2, cores_usable=2),
        ram=Memory(total_bytes=2**34, available_bytes=2**33),
        engine=build,
    )


async def make_runtime(
    script: Script, model: Path, data: Path, *, start_engine: Callable[[], Engine] | None = None
) -> Runtime:
    """A real Runtime that has loaded MODEL in a FakeEngine, unless another one is started."""
    runtime = Runtime(
        store=Store(data, find_starter=lambda: None),
        detect=detect,
        start_engine=start_engine or (lambda: FakeEngine(script)),
    )
    installed = InstalledModel(name=MODEL, quant=None, path=model, size_bytes=98_362_432)
    async for _ in runtime.load(installed, LoadSettings(parallel=4, threads=1)):
        pass
    return runtime


def make_app(runtime: Runtime, key: str | None = KEY) -> ASGIApp:
    return create_app(runtime, (MODEL,), hosts=HostPolicy.bound_to("127.0.0.1"), key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A server that runs: where it listens, and what stops it."""

    address: Address
    runtime: Runtime
    script: Script
    stop: StopSignals
    serving: asyncio.Task[None]

    def client(self, key: str = KEY) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.address.url}/v1", api_key=key, max_retries=0)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.address.ip, self.address.port)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes, read until the server closes the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        await writer.drain()
        try:
            return await reader.read()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def house(
    script: Script,
    model: Path,
    data: Path,
    *,
    limits: Limits | None = None,
    key: str | None = KEY,
    start_engine: Callable[[], Engine] | None = None,
) -> AsyncIterator[House]:
    runtime = await make_runtime(script, model, data, start_engine=start_engine)
    sock = open_socket(Address(ip="127.0.0.1", port=0))
    address, stop = bound_address(sock), StopSignals()
    serving = asyncio.create_task(
        serve(
            make_app(runtime, key),
            sock,
            stop,
            end_answers=runtime.close,
            limits=limits or Limits(grace_s=0.0),
        )
    )
    try:
        yield House(address=address, runtime=runtime, script=script, stop=stop, serving=serving)
    finally:
        stop.asked.set()
        await serving
        await runtime.close()
