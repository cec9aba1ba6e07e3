"""The local API as one ASGI application: the routes of all dialects behind the guards.

It closes nothing, and loads what a request names: whoever made the pool does the rest (`localllm
serve`), so that a model that does not load at the start is an exit status and not a failed HTTP
server. There is no schema page: the usual
ones load their scripts from other machines.
"""

import functools
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm import __version__
from localllm.core.text import single_line
from localllm.errors import LocalLLMError
from localllm.runtime.model_pool.listing import ModelState
from localllm.runtime.model_pool.pool import ModelPool
from localllm.server.access.guard import KeyGuard, LimitGuard
from localllm.server.access.key_ring import KeyRing
from localllm.server.access.scopes import plain_path
from localllm.server.admin import ADMIN_OPERATIONS, Stop, admin_router
from localllm.server.batch.routes import batch_dialect
from localllm.server.batch.service import BatchService, call_app
from localllm.server.dialects.anthropic.dialect import ANTHROPIC
from localllm.server.dialects.jina.rerank import JINA
from localllm.server.dialects.llama_server.dialect import llama_server
from localllm.server.dialects.ollama.dialect import OLLAMA
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.dialect import OPENAI
from localllm.server.dialects.openai.errors import ErrorResponse, error_body
from localllm.server.dialects.protocol import Dialect, ErrorResponses
from localllm.server.errors import ApiError, api_error, unexpected_error
from localllm.server.monitoring.access_log import AccessLog
from localllm.server.monitoring.activity import Activity
from localllm.server.monitoring.memory import MemoryCollector
from localllm.server.monitoring.metrics import CONTENT_TYPE, ServerMetrics
from localllm.server.monitoring.middleware import MonitoringMiddleware
from localllm.server.monitoring.tracing import Tracer
from localllm.server.openapi import Described, Operation, encode, openapi_document
from localllm.server.page.routes import page_router
from localllm.server.request_body import validate
from localllm.server.schema import ApiModel
from localllm.server.security import CorsMiddleware, ErrorMiddleware, HostGuard, HostPolicy
from localllm.server.served_models import ServedModels
from localllm.server.unknown_fields import UnknownFields

Handler = Callable[[Request, Exception], Coroutine[None, None, Response]]

LLAMA_SERVER = llama_server(
    lambda document: validate(ChatCompletionRequest, document), ChatCompletionRequest, error_body
)

DIALECTS: tuple[Dialect, ...] = (
    ANTHROPIC,  # before OPENAI: of /v1/models it takes those requests that name its version
    OPENAI,
    OLLAMA,
    JINA,
    LLAMA_SERVER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """What requests may have. `strict`: a field that is not known is an error."""

    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may come in: to which names of this machine, with which keys, from which web pages
    (origins as `cors_origin` writes them)."""

    hosts: HostPolicy
    keys: KeyRing
    cors_origins: Collection[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """What watches the requests. `log`, `tracer` and `activity` None: there is none."""

    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    log: AccessLog | None = None
    tracer: Tracer | None = None
    activity: Activity | None = None


def create_app(
    pool: ModelPool,
    *,
    access: Access,
    monitoring: Monitoring | None = None,
    deadline_s: float | None = None,
    rules: RequestRules | None = None,
    batches: BatchService | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
    stop: Stop | None = None,
) -> ASGIApp:
    """Make the API of the models of `pool`.

    `deadline_s`: the time limit of every answer, None: no limit. `batches` None: there are no files
    and batches. `stop`: what `/admin/stop` does.
    """
    rules, monitoring = rules or RequestRules(), monitoring or Monitoring()
    metrics = monitoring.metrics
    models = ServedModels(pool, deadline_s, metrics, monitoring.activity)
    metrics.add_collector(
        MemoryCollector(lambda: models.resident, models.memory_bytes, models.kept)
    )
    if batches is not None:
        dialects = (*dialects, batch_dialect(batches))
    error_response = ErrorResponses(dialects, default=error_body, default_model=ErrorResponse)
    page = page_router(access.keys.pages)
    app = _make_routes(models, dialects, error_response, stop, page)
    limited = LimitGuard(PlainPaths(app))
    if batches is not None:
        batches.connect(
            call_app(ErrorMiddleware(limited, error_response=error_response)),
            access.keys.caller_of,
        )
    # The guards see the path as it was sent: only that of OPEN_PATHS itself needs no key.
    keyed = KeyGuard(limited, keys=access.keys)
    guarded = HostGuard(keyed, policy=access.hosts, origins=access.cors_origins)
    answering = ErrorMiddleware(guarded, error_response=error_response)
    named = UnknownFields(answering, strict=rules.strict)
    return MonitoringMiddleware(
        CorsMiddleware(named, origins=access.cors_origins),
        metrics=metrics,
        log=monitoring.log,
        tracer=monitoring.tracer,
        activity=monitoring.activity,
    )


def create_routes(pool: ModelPool) -> ASGIApp:
    """Make the API of the models of `pool` for this process alone: without the guards."""
    error_response = ErrorResponses(DIALECTS, default=error_body, default_model=ErrorResponse)
    app = _make_routes(ServedModels(pool, None, ServerMetrics()), DIALECTS, error_response)
    return ErrorMiddleware(PlainPaths(app), error_response=error_response)


def _make_routes(
    models: ServedModels,
    dialects: Sequence[Dialect],
    error_response: ErrorResponses,
    stop: Stop | None = None,
    page: APIRouter | None = None,
) -> FastAPI:
    """Make the routes of all dialects, and of the chat page if there is one, without the guards."""
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A slash too many is taken off (`PlainPaths`): a redirect is built from the Host header.
        redirect_slashes=False,
        # FastAPI can export what it sees, on a word in the environment: nothing leaves here.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers=_exception_handlers(error_response),
    )
    if page is not None:  # before OLLAMA: of / it takes the requests of browsers
        app.include_router(page)
    app.include_router(_status_router(models))
    app.include_router(admin_router(models, stop))
    app.include_router(_description_router(dialects))
    for dialect in dialects:
        app.include_router(dialect.router(models))
    return app


class PlainPaths:
    """The middleware that takes stray slashes out of a path (`plain_path`)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = plain_path(scope["path"])
        await self._app(scope, receive, send)


def _exception_handlers(error_response: ErrorResponses) -> dict[int | type[Exception], Handler]:
    """Make the handlers of what routes raise, and of what matches no route."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, LocalLLMError)
        return error_response(api_error(error), request.scope["path"])

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        message = (
            f"{request.method} on this path is not part of this API. It has, among others, "
            "GET /v1/models and POST /v1/chat/completions."
        )
        refused = ApiError(message, status=error.status_code, code=code, headers=error.headers)
        return error_response(refused, request.scope["path"])

    async def disconnected(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def unexpected(request: Request, error: Exception) -> Response:
        return error_response(unexpected_error(), request.scope["path"])

    return {
        LocalLLMError: known,
        HTTPException: no_route,
        ClientDisconnect: disconnected,
        Exception: unexpected,
    }


class ModelStatus(ApiModel):
    id: str
    status: ModelState


class Health(ApiModel):
    status: Literal["ok", "degraded"]
    models: list[ModelStatus]


class LoraAdapter(ApiModel):
    """An adapter as llama-server lists it. `path` is the file's name alone: clients need not know
    the folders of this machine."""

    id: int
    path: str
    scale: float
    model: str


def _status_router(models: ServedModels) -> APIRouter:
    """Make the routes `/health`, which needs no key, `/lora-adapters` and `/metrics`."""
    routes = APIRouter()

    @routes.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Health:
        """Report the models in memory, and on their way there. A crashed one starts again with the
        next request for it."""
        states = {each.name: each.state for each in models.listed()}
        return Health(
            status="degraded" if ModelState.CRASHED in states.values() else "ok",
            models=[
                ModelStatus(id=name, status=state)
                for name, state in states.items()
                if state is not ModelState.UNLOADED
            ],
        )

    @routes.api_route("/lora-adapters", methods=["GET", "HEAD"])
    async def lora_adapters() -> list[LoraAdapter]:
        """List the adapters that requests can name in `lora`."""
        return [
            LoraAdapter(
                id=i,
                path=single_line(Path(lora.path).name),
                scale=lora.scale,
                model=each.name,
            )
            for each in models.listed()
            if each.resident is not None
            for i, lora in enumerate(each.resident.settings.loras)
        ]

    @routes.api_route("/metrics", methods=["GET", "HEAD"], include_in_schema=False)
    async def metrics() -> Response:
        """Write the counters for Prometheus. It asks no engine, and is no use of a model."""
        return Response(models.metrics.exposition(), media_type=CONTENT_TYPE)

    return routes


_STATUS_OPERATIONS = (
    Operation(
        method="GET",
        paths=("/health",),
        summary="Report whether the engines run. It needs no key.",
        answer=Health,
    ),
    Operation(
        method="GET",
        paths=("/lora-adapters",),
        summary="List the adapters that requests can name in `lora`.",
        answer=list[LoraAdapter],
    ),
    Operation(
        method="GET",
        paths=("/metrics",),
        summary="Write the counters for Prometheus.",
        media_types=(CONTENT_TYPE,),
    ),
)


def described_dialects(dialects: Sequence[Dialect]) -> tuple[Described, ...]:
    """Return all operations of the API, with the envelope of their errors."""
    errors = ErrorResponses(dialects, default=error_body, default_model=ErrorResponse)
    listed = (
        ("server", (*_STATUS_OPERATIONS, *ADMIN_OPERATIONS)),
        *((each.name, each.operations) for each in dialects),
    )
    return tuple(
        Described(name=name, operations=operations, error_at=errors.model_at)
        for name, operations in listed
    )


def _description_router(dialects: Sequence[Dialect]) -> APIRouter:
    """Make the route of the API's own description."""
    routes = APIRouter()

    @functools.cache
    def description() -> bytes:
        return encode(openapi_document(described_dialects(dialects), version=__version__))

    @routes.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def openapi() -> Response:
        """Describe every endpoint, with nothing to load from elsewhere."""
        return Response(description(), media_type="application/json")

    return routes
