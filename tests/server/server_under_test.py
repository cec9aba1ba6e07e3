"""A whole server on a real socket, with a scripted engine behind a real Runtime."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI
from starlette.types import ASGIApp

from localllm.core.hardware import Cpu, EngineBuild, HardwareInfo, Memory
from localllm.engine.client.client import Engine
from localllm.engine.fake import FakeEngine, Script
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import FOREVER, NO_NAMES, PoolModel, PoolModels
from localllm.runtime.runtime import Runtime
from localllm.server.access.key_ring import KeyRing
from localllm.server.app import DIALECTS, Access, Monitoring, RequestRules, create_app
from localllm.server.batch.service import BatchService
from localllm.server.dialects.protocol import Dialect
from localllm.server.listen import (
    Address,
    ConnectionLimits,
    StopSignals,
    bound_address,
    open_socket,
    serve,
)
from localllm.server.security import HostPolicy

KEY = "a-key-that-only-the-tests-know"
MODEL = "tiny"
CHOICE = LoadChoice(parallel=4, threads=1)


def detect(build: EngineBuild | None) -> HardwareInfo:
    return HardwareInfo(
        cpu=Cpu(name="Made-up CPU", cores_physical=2, cores_usable=2),
        ram=Memory(total_bytes=2**34, available_bytes=2**33),
        engine=build,
    )


async def make_runtime(
    script: Script,
    model: Path,
    data: Path,
    *,
    start_engine: Callable[[], Engine] | None = None,
    choice: LoadChoice = CHOICE,
) -> Runtime:
    """A real Runtime that has loaded MODEL in a FakeEngine, unless another one is started."""
    runtime = Runtime(
        store=Store(data, find_starter=lambda: None),
        detect=detect,
        start_engine=start_engine or (lambda: FakeEngine(script)),
    )
    installed = InstalledModel(name=MODEL, quant=None, path=model, size_bytes=98_362_432)
    plan = await runtime.plan(installed, choice)
    async for _ in runtime.load(plan):
        pass
    return runtime


def make_pool(runtime: Runtime, aliases: Mapping[str, str] = NO_NAMES) -> ModelPool:
    """A pool of the models that a runtime has loaded, which loads no other."""
    given = [
        PoolModel(model=each.model, choice=CHOICE, keep_alive_s=FOREVER)
        for each in runtime.resident()
    ]
    return ModelPool(runtime, PoolModels(runtime, given, aliases=aliases))


def make_app(
    runtime: Runtime,
    key: str | KeyRing | None = KEY,
    dialects: Sequence[Dialect] = DIALECTS,
    hosts: HostPolicy | None = None,
    cors_origins: frozenset[str] = frozenset(),
    rules: RequestRules | None = None,
    monitoring: Monitoring | None = None,
    aliases: Mapping[str, str] = NO_NAMES,
    batches: BatchService | None = None,
) -> ASGIApp:
    access = Access(
        hosts=hosts or HostPolicy.bound_to("127.0.0.1"),
        keys=key if isinstance(key, KeyRing) else KeyRing(key),
        cors_origins=cors_origins,
    )
    return create_app(
        make_pool(runtime, aliases),
        access=access,
        monitoring=monitoring,
        rules=rules,
        dialects=dialects,
        batches=batches,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    status: int
    head: str
    body: bytes

    @property
    def document(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.body)
        return document

    @property
    def items(self) -> list[dict[str, object]]:
        """The vectors of embeddings, or the results of a reranking."""
        document = json.loads(self.body)
        items: list[dict[str, object]] = document.get("data") or document["results"]
        return items

    @property
    def error(self) -> tuple[str | None, str]:
        """The field at fault and the code, in OpenAI's envelope."""
        error = json.loads(self.body)["error"]
        return error["param"], error["code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUnderTest:
    """A running server on a socket."""

    address: Address
    runtime: Runtime
    script: Script
    stop: StopSignals
    serving: asyncio.Task[None]

    def client(self, key: str = KEY) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.address.url}/v1", api_key=key, max_retries=0)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.address.ip, self.address.port)

    async def request(self, line: str, body: bytes = b"", *, key: str | None = KEY) -> HttpResponse:
        """Send a request whose first line begins with `line`, a method and a path."""
        authorization = "" if key is None else f"Authorization: Bearer {key}\r\n"
        head = (
            f"{line} HTTP/1.1\r\nHost: {self.address.ip}:{self.address.port}\r\n{authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        response = await self.raw(head.encode() + body)
        headers, _, content = response.partition(b"\r\n\r\n")
        return HttpResponse(status=int(headers.split()[1]), head=headers.decode(), body=content)

    async def post(self, path: str, body: object) -> HttpResponse:
        return await self.request(f"POST {path}", json.dumps(body).encode())

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
async def start_server(
    script: Script,
    model: Path,
    data: Path,
    *,
    limits: ConnectionLimits | None = None,
    key: str | KeyRing | None = KEY,
    start_engine: Callable[[], Engine] | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
    hosts: HostPolicy | None = None,
    cors_origins: frozenset[str] = frozenset(),
    rules: RequestRules | None = None,
    monitoring: Monitoring | None = None,
    aliases: Mapping[str, str] = NO_NAMES,
    batches: BatchService | None = None,
    choice: LoadChoice = CHOICE,
) -> AsyncIterator[ServerUnderTest]:
    """Run a server whose engine plays `script`, unless `start_engine` makes another one."""
    runtime = await make_runtime(script, model, data, start_engine=start_engine, choice=choice)
    sock = open_socket(Address(ip="127.0.0.1", port=0))
    address, stop = bound_address(sock), StopSignals()
    app = make_app(runtime, key, dialects, hosts, cors_origins, rules, monitoring, aliases, batches)
    serving = asyncio.create_task(
        serve(
            app,
            (sock,),
            stop,
            abort_requests=runtime.close,
            limits=limits or ConnectionLimits(shutdown_grace_s=0.0),
        )
    )
    try:
        yield ServerUnderTest(
            address=address, runtime=runtime, script=script, stop=stop, serving=serving
        )
    finally:
        stop.should_exit.set()
        await serving
        await runtime.close()
