"""The OpenAI dialect: its routes under /v1, in front of the served models."""

from typing import Literal

from fastapi import APIRouter, Request, Response

from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.chat_response import (
    ChatStreamEncoder,
    chat_completion,
)
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.completions_response import CompletionStreamEncoder, completion
from localllm.server.dialects.openai.embeddings import EmbeddingRequest, embedding_response
from localllm.server.dialects.openai.errors import error_body
from localllm.server.dialects.protocol import Dialect
from localllm.server.generation.choices import Choices
from localllm.server.generation.stream import stream_response
from localllm.server.request_body import read_body
from localllm.server.schema import ApiModel, json_response, warning_headers
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect


class Model(ApiModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "localllm"


class ModelList(ApiModel):
    object: Literal["list"] = "list"
    data: list[Model]


def _router(models: ServedModels) -> APIRouter:
    router, endpoints = APIRouter(), _Endpoints(models)
    for path, read in (
        ("/v1/models", endpoints.list_models),
        ("/v1/models/{name:path}", endpoints.retrieve_model),
    ):
        router.add_api_route(path, read, methods=["GET", "HEAD"])
    router.post("/v1/chat/completions", response_model=None)(endpoints.chat_completions)
    router.post("/v1/completions", response_model=None)(endpoints.completions)
    router.post("/v1/embeddings", response_model=None)(endpoints.embeddings)
    return router


class _Endpoints:
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def list_models(self) -> ModelList:
        return ModelList(data=[self._model(name) for name in self._models.names])

    async def retrieve_model(self, name: str) -> Model:
        self._models.check_served(name)
        return self._model(name)

    def _model(self, name: str) -> Model:
        return Model(id=name, created=self._models.started_at)

    async def chat_completions(self, request: Request) -> Response:
        body = await read_body(request, ChatCompletionRequest)
        generate = body.generate_request()
        streams = [self._models.generate(body.model, generate)]
        choices = Choices(n=generate.n)
        if body.stream:
            encoder = ChatStreamEncoder(body, generate.request_id, choices)
            return stream_response(encoder, choices, streams)
        await cancel_on_disconnect(request.receive, choices.read(streams))
        answer = chat_completion(body, generate.request_id, choices)
        return json_response(answer, headers=warning_headers(choices.warnings))

    async def completions(self, request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        generate = body.generate_requests()
        streams = [
            self._models.generate(body.model, each, prompt_field="prompt") for each in generate
        ]
        request_id, choices = generate[0].request_id, Choices(prompts=len(streams), n=body.n or 1)
        if body.stream:
            encoder = CompletionStreamEncoder(body, request_id, choices)
            return stream_response(encoder, choices, streams)
        await cancel_on_disconnect(request.receive, choices.read(streams))
        answer = completion(body, request_id, choices)
        return json_response(answer, headers=warning_headers(choices.warnings))

    async def embeddings(self, request: Request) -> Response:
        body = await read_body(request, EmbeddingRequest)
        work = self._models.embed(body.model, body.embed_request(), prompt_field="input")
        result = await cancel_on_disconnect(request.receive, work)
        return json_response(embedding_response(body, result))


OPENAI = Dialect(name="openai", router=_router, prefixes=("/v1/",), error_body=error_body)
