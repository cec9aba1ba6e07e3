"""Ollama's API under /api, in front of the served models.

The part of it that uses models; what changes them on the disk is refused (`errors.py`).
"""

import time
from typing import Literal, TypeVar

from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from localllm.engine.messages import Embedded, EmbedRequest
from localllm.runtime.model_pool.listing import ModelListing
from localllm.server.dialects.ollama.answer import (
    AnswerStreamEncoder,
    AnswerWriter,
    DebugInfo,
    Piece,
)
from localllm.server.dialects.ollama.chat_request import ChatRequest
from localllm.server.dialects.ollama.embeddings import (
    EmbedAnswer,
    EmbedBody,
    EmbeddingsAnswer,
    EmbeddingsBody,
    vectors,
)
from localllm.server.dialects.ollama.errors import ErrorResponse, add_refusals, error_body
from localllm.server.dialects.ollama.fields import ModelFields, context_warnings
from localllm.server.dialects.ollama.generate_request import PromptRequest
from localllm.server.dialects.ollama.models import (
    ShowBody,
    Version,
    running,
    served_name,
    shown,
    tags,
)
from localllm.server.dialects.ollama.operations import OPERATIONS
from localllm.server.dialects.protocol import Dialect
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choices
from localllm.server.generation.request import schema_warnings
from localllm.server.generation.stream import stream_response
from localllm.server.request_body import read_body
from localllm.server.schema import RequestModel, json_response, warning_headers
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect

B = TypeVar("B", bound=RequestModel)


def _router(models: ServedModels) -> APIRouter:
    router, endpoints = APIRouter(), _Endpoints(models)
    for path, read in (
        ("/", endpoints.root),
        ("/api/version", endpoints.version),
        ("/api/tags", endpoints.tags),
        ("/api/ps", endpoints.ps),
    ):
        router.add_api_route(path, read, methods=["GET", "HEAD"], response_model=None)
    for path, answer in (
        ("/api/show", endpoints.show),
        ("/api/chat", endpoints.chat),
        ("/api/generate", endpoints.generate),
        ("/api/embed", endpoints.embed),
        ("/api/embeddings", endpoints.embeddings),
    ):
        router.post(path, response_model=None)(answer)
    add_refusals(router)
    return router


class _Endpoints:
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def root(self) -> Response:
        """Answer what clients look for to find the server."""
        return PlainTextResponse("Ollama is running")

    async def version(self) -> Response:
        return json_response(Version())

    async def tags(self) -> Response:
        return json_response(await tags(self._models.listed()))

    async def ps(self) -> Response:
        return json_response(await running(self._models.listed()))

    async def show(self, request: Request) -> Response:
        body = await _read(request, ShowBody)
        name = self._models.resolve(self._name(body))
        listing = self._listing(name)
        if listing is None:  # its engine ended between the two
            raise ApiError("The model is not there.", status=404, code="model_not_found")
        return json_response(await shown(listing, verbose=bool(body.verbose)))

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, await _read(request, ChatRequest))

    async def generate(self, request: Request) -> Response:
        return await self._answer(request, await _read(request, PromptRequest))

    async def _answer(self, request: Request, body: ChatRequest | PromptRequest) -> Response:
        name = self._name(body)
        writer = AnswerWriter(body.model or name, chat=isinstance(body, ChatRequest))
        if body.only_loads:
            reason = await self._load(request, name, body)
            return json_response(writer.write(Piece(), reason=reason))
        generate = body.generate_request()
        if body.debug_render_only:
            work = self._models.apply_template(name, generate, prompt_field=body.prompt_field)
            prompt = await cancel_on_disconnect(request.receive, work)
            images = sum(len(message.images) for message in generate.messages or ())
            shown_prompt = DebugInfo(rendered_template=prompt, image_count=images)
            return json_response(writer.write(Piece(), debug_info=shown_prompt))
        events = self._models.generate(
            name, generate, prompt_field=body.prompt_field, keep_alive=body.keep_alive
        )
        if body.streams:
            # A header goes before the answer, whose own words come too late for it.
            warnings = (*self._warnings(name, body), *schema_warnings(generate.grammar))
            choices = Choices(warnings=warnings)
            return stream_response(AnswerStreamEncoder(writer, choices), choices, [events])
        choices = Choices()
        await cancel_on_disconnect(request.receive, choices.read([events]))
        warnings = (*self._warnings(name, body), *choices.warnings)
        answer = writer.whole(choices, warnings)
        return json_response(answer, headers=warning_headers(warnings))

    async def embed(self, request: Request) -> Response:
        started = time.monotonic()
        body = await _read(request, EmbedBody)
        result = await self._vectors(request, body, body.embed_request(), "input")
        answer = EmbedAnswer(
            model=body.model or self._name(body),
            embeddings=vectors(result),
            total_duration=round(1e9 * (time.monotonic() - started)),
            prompt_eval_count=result.prompt_tokens if result is not None else 0,
        )
        return json_response(answer)

    async def embeddings(self, request: Request) -> Response:
        body = await _read(request, EmbeddingsBody)
        found = vectors(await self._vectors(request, body, body.embed_request(), "prompt"))
        return json_response(EmbeddingsAnswer(embedding=found[0] if found else []))

    async def _vectors(
        self, request: Request, body: ModelFields, embed: EmbedRequest | None, field: str
    ) -> Embedded | None:
        name = self._name(body)
        if embed is None:
            await self._load(request, name, body)
            return None
        work = self._models.embed(name, embed, prompt_field=field, keep_alive=body.keep_alive)
        return await cancel_on_disconnect(request.receive, work)

    async def _load(
        self, request: Request, name: str, body: ModelFields
    ) -> Literal["load", "unload"]:
        """Bring a model into memory, or out of it when it is not to be kept there."""
        if body.keep_alive == 0:
            await cancel_on_disconnect(request.receive, self._models.unload(name))
            return "unload"
        work = self._models.load(name, keep_alive=body.keep_alive)
        await cancel_on_disconnect(request.receive, work)
        return "load"

    def _name(self, body: ModelFields) -> str:
        return served_name(self._models.requested(body.model), self._models.listed())

    def _listing(self, name: str) -> ModelListing | None:
        return next((each for each in self._models.listed() if each.name == name), None)

    def _warnings(self, name: str, body: ChatRequest | PromptRequest) -> tuple[str, ...]:
        """Say what is known of the request before, or without, its answer."""
        listing = self._listing(self._models.resolve(name))
        resident = listing.resident if listing is not None else None
        context = resident.loaded.context if resident is not None else None
        return context_warnings(body.options.num_ctx, context)


async def _read(request: Request, model: type[B]) -> B:
    return await read_body(request, model, any_type=True)


OLLAMA = Dialect(
    name="ollama",
    router=_router,
    prefixes=("/api/",),
    error_body=error_body,
    error=ErrorResponse,
    operations=OPERATIONS,
)
