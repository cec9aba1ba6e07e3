"""The OpenAI dialect: its routes under /v1, in front of the served models."""

from fastapi import APIRouter, Request, Response

from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.chat_response import (
    ChatStreamEncoder,
    chat_completion,
)
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.completions_response import CompletionStreamEncoder, completion
from localllm.server.dialects.openai.embeddings import EmbeddingRequest, embedding_response
from localllm.server.dialects.openai.errors import ErrorResponse, error_body
from localllm.server.dialects.openai.operations import OPERATIONS, PREFIXES, Model, ModelList
from localllm.server.dialects.openai.responses.endpoints import ResponsesEndpoints
from localllm.server.dialects.protocol import Dialect
from localllm.server.generation.choices import Choices
from localllm.server.generation.request import schema_warnings
from localllm.server.generation.stream import stream_response
from localllm.server.request_body import read_body
from localllm.server.schema import json_response, warning_headers
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect


def _router(models: ServedModels) -> APIRouter:
    router, endpoints = APIRouter(), _Endpoints(models)
    responses = ResponsesEndpoints(models)
    for prefix in PREFIXES:
        responses.add_routes(router, prefix)
        for path, read in (
            ("/models", endpoints.list_models),
            ("/models/{name:path}", endpoints.retrieve_model),
        ):
            router.add_api_route(prefix + path, read, methods=["GET", "HEAD"])
        for path, answer in (
            ("/chat/completions", endpoints.chat_completions),
            ("/completions", endpoints.completions),
            ("/embeddings", endpoints.embeddings),
        ):
            router.post(prefix + path, response_model=None)(answer)
    return router


class _Endpoints:
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def list_models(self) -> ModelList:
        return ModelList(data=[self._model(name) for name in self._models.ids])

    async def retrieve_model(self, name: str) -> Model:
        self._models.resolve(name)
        return self._model(name)

    def _model(self, name: str) -> Model:
        return Model(id=name, created=self._models.started_at)

    async def chat_completions(self, request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        model = self._models.requested(body.model)
        generate = body.generate_request()
        streams = [self._models.generate(model, generate)]
        choices = Choices(n=generate.n)
        if body.stream:
            # A header goes before the answer, whose own words come too late for it.
            choices = Choices(n=generate.n, warnings=schema_warnings(generate.grammar))
            encoder = ChatStreamEncoder(body, model, generate.request_id, choices)
            return stream_response(encoder, choices, streams)
        await cancel_on_disconnect(request.receive, choices.read(streams))
        answer = chat_completion(body, model, generate.request_id, choices)
        return json_response(answer, headers=warning_headers(choices.warnings))

    async def completions(self, request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        model = self._models.requested(body.model)
        generate = body.generate_requests()
        streams = [self._models.generate(model, each, prompt_field="prompt") for each in generate]
        request_id, choices = generate[0].request_id, Choices(prompts=len(streams), n=body.n or 1)
        if body.stream:
            encoder = CompletionStreamEncoder(body, model, request_id, choices)
            return stream_response(encoder, choices, streams)
        await cancel_on_disconnect(request.receive, choices.read(streams))
        answer = completion(body, model, request_id, choices)
        return json_response(answer, headers=warning_headers(choices.warnings))

    async def embeddings(self, request: Request) -> Response:
        body = await read_body(request, EmbeddingRequest)
        model = self._models.requested(body.model)
        work = self._models.embed(model, body.embed_request(), prompt_field="input")
        result = await cancel_on_disconnect(request.receive, work)
        return json_response(embedding_response(body, model, result))


OPENAI = Dialect(
    name="openai",
    router=_router,
    prefixes=("/v1/",),
    error_body=error_body,
    error=ErrorResponse,
    operations=OPERATIONS,
)
