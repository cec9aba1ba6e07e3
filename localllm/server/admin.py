"""The endpoints that run the server: what is in memory, load, unload, stop. Scope `admin`.

`localllm ps`, `load`, `unload` and `stop` are their clients. `/models/load` and `/models/unload`
are the same for clients of llama-server's router mode.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from localllm import __version__
from localllm.runtime.model_pool.listing import ModelListing, ModelState
from localllm.server.errors import ApiError
from localllm.server.openapi import Operation
from localllm.server.request_body import read_body
from localllm.server.schema import ApiModel, ModelName, RequestModel, json_response
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect

MAX_KEEP_ALIVE_S = 1e9

Stop = Callable[[], None]
"""Begins to stop the server, as SIGTERM does."""


class AdminModel(ApiModel):
    """A model and its place in memory. `keep_alive_s` is -1 for ever; all others are as in
    `ModelListing`."""

    name: str
    aliases: list[str]
    quant: str | None
    state: ModelState
    size_bytes: int
    estimated_bytes: int | None
    memory_bytes: int | None
    context: int | None
    slots: int | None
    requests: int
    last_used_s: float | None
    keep_alive_s: float
    expires_in_s: float | None
    pinned: bool
    progress: float | None
    plan: str | None
    kept: str | None
    """Conversations of a model that was unloaded, which go on when it is loaded again."""

    @classmethod
    def of(cls, listing: ModelListing) -> "AdminModel":
        """Describe a model of the pool."""
        resident = listing.resident
        return cls(
            name=listing.name,
            aliases=list(listing.aliases),
            quant=listing.model.quant,
            state=listing.state,
            size_bytes=listing.model.size_bytes,
            estimated_bytes=listing.estimated_bytes,
            memory_bytes=listing.memory_bytes,
            context=None if resident is None else resident.loaded.context,
            slots=listing.slots,
            requests=listing.requests,
            last_used_s=listing.last_used_s,
            keep_alive_s=listing.keep_alive_s if math.isfinite(listing.keep_alive_s) else -1.0,
            expires_in_s=listing.expires_in_s,
            pinned=listing.pinned,
            progress=listing.progress,
            plan=listing.plan,
            kept=None if listing.kept is None else listing.kept.sentence,
        )


class AdminModels(ApiModel):
    version: str
    models: list[AdminModel]


class ModelBody(RequestModel):
    model: ModelName


class LoadBody(ModelBody):
    """`keep_alive` in seconds, negative: for ever; null leaves it, and `pin`, as they are."""

    keep_alive: (
        Annotated[float, Field(ge=-MAX_KEEP_ALIVE_S, le=MAX_KEEP_ALIVE_S, strict=False)] | None
    ) = None
    pin: bool | None = None


class StopBody(RequestModel):
    """Nothing: it is there so that no form of a web page can send it."""


class Unloaded(ApiModel):
    model: str
    unloaded: bool


class Done(ApiModel):
    success: Literal[True] = True


class Stopping(ApiModel):
    status: Literal["stopping"] = "stopping"


def admin_router(models: ServedModels, stop: Stop | None) -> APIRouter:
    """Make the routes. `stop` None: this server cannot be stopped by a request."""
    routes, endpoints = APIRouter(), _Endpoints(models, stop)
    routes.add_api_route(
        "/admin/models", endpoints.listed, methods=["GET", "HEAD"], response_model=None
    )
    for path, answer in (
        ("/admin/load", endpoints.load),
        ("/admin/unload", endpoints.unload),
        ("/models/load", endpoints.router_load),
        ("/models/unload", endpoints.router_unload),
        ("/admin/stop", endpoints.stop),
    ):
        routes.post(path, response_model=None)(answer)
    return routes


class _Endpoints:
    def __init__(self, models: ServedModels, stop: Stop | None) -> None:
        self._models = models
        self._stop = stop

    async def listed(self, request: Request) -> Response:
        """List every model that can be named."""
        models = [AdminModel.of(each) for each in self._models.listed()]
        return json_response(AdminModels(version=__version__, models=models))

    async def load(self, request: Request) -> Response:
        """Answer when the model is in memory. A client that leaves ends the load, unless others
        wait for it or it has begun."""
        body = await read_body(request, LoadBody)
        return json_response(AdminModel.of(await self._loaded(request, body)))

    async def router_load(self, request: Request) -> Response:
        await self._loaded(request, await read_body(request, LoadBody))
        return json_response(Done())

    async def _loaded(self, request: Request, body: LoadBody) -> ModelListing:
        work = self._models.load(body.model, keep_alive=body.keep_alive, pin=body.pin)
        return await cancel_on_disconnect(request.receive, work)

    async def unload(self, request: Request) -> Response:
        """Answer when the model's requests are done and its memory is free."""
        name, unloaded = await self._unloaded(request)
        return json_response(Unloaded(model=name, unloaded=unloaded))

    async def router_unload(self, request: Request) -> Response:
        await self._unloaded(request)
        return json_response(Done())

    async def _unloaded(self, request: Request) -> tuple[str, bool]:
        body = await read_body(request, ModelBody)
        name = self._models.resolve(body.model)
        return name, await cancel_on_disconnect(request.receive, self._models.unload(name))

    async def stop(self, request: Request) -> Response:
        """Begin to stop: answers that are being written still have a few seconds."""
        await read_body(request, StopBody)
        if self._stop is None:
            raise ApiError("This server is stopped by its program.", status=404, code="no_stop")
        self._stop()
        return json_response(Stopping())


ADMIN_OPERATIONS = (
    Operation(
        method="GET",
        paths=("/admin/models",),
        summary="List the models and what is known of them in memory.",
        answer=AdminModels,
    ),
    Operation(
        method="POST",
        paths=("/admin/load",),
        summary="Bring a model into memory; answers when it is there.",
        body=LoadBody,
        answer=AdminModel,
    ),
    Operation(
        method="POST",
        paths=("/admin/unload",),
        summary="Free a model's memory when its requests are done.",
        body=ModelBody,
        answer=Unloaded,
    ),
    Operation(
        method="POST",
        paths=("/models/load",),
        summary="As /admin/load, in the form of llama-server's router mode.",
        body=LoadBody,
        answer=Done,
    ),
    Operation(
        method="POST",
        paths=("/models/unload",),
        summary="As /admin/unload, in the form of llama-server's router mode.",
        body=ModelBody,
        answer=Done,
    ),
    Operation(
        method="POST",
        paths=("/admin/stop",),
        summary="Stop the server when the answers that are being written have ended.",
        body=StopBody,
        answer=Stopping,
    ),
)
