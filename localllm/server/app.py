"""The local API as one ASGI application: routes in front of a `Runtime`, guards around them.

It loads and closes nothing: who made the runtime does (`localllm serve`), so that a model that
does not load is an exit status and not a failed HTTP server. There is no schema page: the usual
ones load their scripts from other machines.
"""

import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from localllm.core.text import single_line
from localllm.engine.messages import GenerateEvent, GenerateRequest
from localllm.errors import ContextOverflow, EngineCrashed, LocalLLMError
from localllm.runtime.runtime import Runtime
from localllm.server import lora
from localllm.server.dialects.jina.rerank import RerankBody, ranking
from localllm.server.dialects.openai import answer, completions
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.embeddings import EmbeddingsRequest, embeddings, too_long
from localllm.server.dialects.openai.request import ChatRequest
from localllm.server.errors import ApiError, api_error, ended_in_order
from localllm.server.request_body import read_body
from localllm.server.schema import Shape
from localllm.server.security import HostGuard, HostPolicy, KeyGuard, LastResort, unexpected
from localllm.server.sse import EventStream, unless_gone

logger = logging.getLogger("localllm.server")

T = TypeVar("T")


def create_app(
    runtime: Runtime,
    served: tuple[str, ...],
    *,
    hosts: HostPolicy,
    key: str | None,
    deadline_s: float | None = None,
) -> ASGIApp:
    """Make the API of the models named `served`, which `runtime` has loaded.

    `key` None asks for none: only for a server that no other machine reaches. `deadline_s`:
    seconds after which an answer that is not complete is given up, None: never.
    """
    api = Api(runtime, served, deadline_s)
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A path with a slash too many is a 404, not a redirect built from the Host header.
        redirect_slashes=False,
        # FastAPI can export what it sees, on a word in the environment: nothing leaves here.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={
            LocalLLMError: _problem,
            HTTPException: _http_problem,
            ClientDisconnect: _left,
            Exception: _unexpected,
        },
    )
    for path, endpoint in (
        ("/health", api.health),
        ("/v1/models", api.models),
        ("/v1/models/{name:path}", api.model),
        ("/lora-adapters", api.lora_adapters),
    ):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"])
    app.post("/v1/chat/completions", response_model=answer.Completion)(api.chat_completions)
    app.post("/v1/completions", response_model=None)(api.completions)
    app.post("/v1/embeddings", response_model=None)(api.embeddings)
    app.post("/v1/rerank", response_model=None)(api.rerank)
    return LastResort(HostGuard(KeyGuard(app, key=key), policy=hosts))


class ModelStatus(Shape):
    id: str
    status: Literal["ready", "crashed"]


class Health(Shape):
    status: Literal["ok", "degraded"]
    models: list[ModelStatus]


class Api:
    """The endpoints; one request does not wait for another, the engine batches them."""

    def __init__(
        self, runtime: Runtime, served: tuple[str, ...], deadline_s: float | None = None
    ) -> None:
        self._runtime = runtime
        self._deadline_s = deadline_s
        self._served = served
        self._started_at = int(time.time())
        self._reported: EngineCrashed | None = None

    async def health(self) -> Health:
        """Say which engines run. A crashed one starts again with the next request for it."""
        running = {resident.model.name for resident in self._runtime.resident()}
        return Health(
            status="ok" if running.issuperset(self._served) else "degraded",
            models=[
                ModelStatus(id=name, status="ready" if name in running else "crashed")
                for name in self._served
            ],
        )

    async def models(self) -> answer.ModelList:
        return answer.ModelList(data=[await self.model(name) for name in self._served])

    async def model(self, name: str) -> answer.ModelCard:
        self._check_served(name)
        return answer.ModelCard(id=name, created=self._started_at)

    async def lora_adapters(self) -> list[lora.AdapterCard]:
        """The adapters that requests can name in `lora`."""
        return [
            card
            for resident in self._runtime.resident()
            if resident.model.name in self._served
            for card in lora.cards(resident)
        ]

    async def embeddings(self, request: Request) -> Response:
        asked = await read_body(request, EmbeddingsRequest)
        self._check_served(asked.model)
        work = self._watched(asked.model, self._runtime.embed(asked.model, asked.embed_request()))
        try:
            found = await unless_gone(request.receive, work)
        except ContextOverflow as error:
            raise too_long(error, "input") from error
        return _json(embeddings(asked, found))

    async def rerank(self, request: Request) -> Response:
        asked = await read_body(request, RerankBody)
        self._check_served(asked.model)
        work = self._watched(asked.model, self._runtime.rerank(asked.model, asked.rerank_request()))
        try:
            found = await unless_gone(request.receive, work)
        except ContextOverflow as error:
            raise too_long(error, "documents") from error
        return _json(ranking(asked, found))

    async def chat_completions(self, request: Request) -> answer.Completion | EventStream:
        asked = await read_body(request, ChatRequest)
        self._check_served(asked.model)
        generate = asked.generate_request()
        events = self._events(asked.model, generate)
        if asked.stream:
            return EventStream(answer.chunks(asked, generate.request_id, events))
        whole = answer.completion(asked, generate.request_id, events)
        return await unless_gone(request.receive, whole)

    async def completions(self, request: Request) -> Response:
        asked = await read_body(request, CompletionRequest)
        self._check_served(asked.model)
        generate = asked.generate_requests()
        name, streams = generate[0].request_id, [self._events(asked.model, g) for g in generate]
        if asked.stream:
            return EventStream(completions.chunks(asked, name, streams))
        whole = completions.completion(asked, name, streams)
        return _json(await unless_gone(request.receive, whole))

    async def _events(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[GenerateEvent, None]:
        """The runtime's events; a crash is told to whoever watches the server, too."""
        request = replace(request, deadline_s=self._deadline_s)
        async with aclosing(self._runtime.generate(name, request)) as events:
            try:
                async for event in events:
                    yield event
            except EngineCrashed as crash:
                self._report(name, crash)
                raise

    async def _watched(self, name: str, work: Coroutine[None, None, T]) -> T:
        try:
            return await work
        except EngineCrashed as crash:
            self._report(name, crash)
            raise

    def _report(self, name: str, crash: EngineCrashed) -> None:
        """All requests that were in flight get the same crash: it is told once."""
        if crash is not self._reported and not ended_in_order(crash):
            self._reported = crash
            logger.warning("%s: %s", single_line(name), crash)

    def _check_served(self, name: str) -> None:
        if name not in self._served:
            raise ApiError(
                f"This server does not serve that model. It serves: {', '.join(self._served)}.",
                status=404,
                code="model_not_found",
                param="model",
            )


def _json(answered: Shape) -> Response:
    return Response(answered.encode(), media_type="application/json")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, LocalLLMError)
    return api_error(error).response()


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    message = f"{error.detail}: {request.method} on this path is not part of this API."
    return ApiError(message, status=error.status_code, code=code, headers=error.headers).response()


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unexpected(request: Request, error: Exception) -> Response:
    return unexpected().response()
