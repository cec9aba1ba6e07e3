"""The Anthropic dialect: messages, their tokens and the models, in front of the served models."""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from localllm.server.dialects.anthropic.errors import ErrorResponse, error_body
from localllm.server.dialects.anthropic.messages_request import MessagesRequest
from localllm.server.dialects.anthropic.messages_response import (
    Message,
    MessageStreamEncoder,
    message,
)
from localllm.server.dialects.anthropic.models import (
    ModelInfo,
    ModelPage,
    ModelsQuery,
    page,
    read_query,
)
from localllm.server.dialects.protocol import Dialect
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choices
from localllm.server.generation.stream import stream_response
from localllm.server.openapi import Operation
from localllm.server.request_body import read_body
from localllm.server.schema import ApiModel, json_response, warning_headers
from localllm.server.served_models import ServedModels
from localllm.server.streaming import SSE_MEDIA_TYPE, cancel_on_disconnect

_PREFIXES = ("/v1", "", "/v1/v1", "/anthropic/v1", "/anthropic")
"""The address that a client was given ends with /v1 or does not, and the client adds it or does
not. Gateways have this API below /anthropic, so clients ask for it there."""

_OWN_PREFIX = "/anthropic"
"""Below it no other dialect has a path."""


class _VersionedRoute(APIRoute):
    """A route for requests that name a version of Anthropic's API, as all its clients do: the path
    itself is also one of OpenAI's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if any(name == b"anthropic-version" for name, _ in scope["headers"]):
            return super().matches(scope)
        return Match.NONE, {}


class MessageTokensCount(ApiModel):
    input_tokens: int


def _router(models: ServedModels) -> APIRouter:
    router, endpoints = APIRouter(), _Endpoints(models)
    for prefix in _PREFIXES:
        router.post(prefix + "/messages", response_model=None)(endpoints.messages)
        router.post(prefix + "/messages/count_tokens", response_model=None)(endpoints.count_tokens)
        route = APIRoute if prefix.startswith(_OWN_PREFIX) else _VersionedRoute
        for path, read in (
            ("/models", endpoints.list_models),
            ("/models/{name:path}", endpoints.retrieve_model),
        ):
            router.add_api_route(
                prefix + path,
                read,
                methods=["GET", "HEAD"],
                response_model=None,
                route_class_override=route,
            )
    return router


class _Endpoints:
    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def messages(self, request: Request) -> Response:
        body = await read_body(request, MessagesRequest)
        name = self._name(body.model)
        generate = body.generate_request()
        streams = [self._models.generate(name, generate)]
        choices = Choices(warnings=body.warnings)
        if body.stream:
            encoder = MessageStreamEncoder(body, name, generate.request_id, choices)
            return stream_response(encoder, choices, streams)
        await cancel_on_disconnect(request.receive, choices.read(streams))
        answer = message(body, name, generate.request_id, choices)
        return json_response(answer, headers=warning_headers(choices.warnings))

    async def count_tokens(self, request: Request) -> Response:
        body = await read_body(request, MessagesRequest)
        name = self._name(body.model)
        work = self._models.count_tokens(name, body.generate_request())
        count = await cancel_on_disconnect(request.receive, work)
        headers = warning_headers(body.warnings)
        return json_response(MessageTokensCount(input_tokens=count), headers=headers)

    async def list_models(self, request: Request) -> Response:
        return _answer(lambda: page(self._infos(), read_query(request.query_params)))

    async def retrieve_model(self, name: str) -> Response:
        def find() -> ModelInfo:
            self._name(name)
            infos = self._infos()
            return next(info for info in infos if info.id == name)

        return _answer(find)

    def _infos(self) -> list[ModelInfo]:
        return [
            ModelInfo.of(
                name,
                created=self._models.started_at,
                context=None if each.resident is None else each.resident.settings.context,
            )
            for each in self._models.listed()
            for name in (each.name, *each.aliases)
        ]

    def _name(self, model: str | None) -> str:
        """Return the name in a request's field `model`. Raises ApiError for one that is not here,
        with what to do about it: agents send the names of Anthropic's models."""
        name = self._models.requested(model)
        try:
            self._models.resolve(name)
        except ApiError as error:
            if error.code != "model_not_found":
                raise
            raise ApiError(
                f"{error} Give the client one of these names (Claude Code: the environment "
                "variables ANTHROPIC_MODEL and ANTHROPIC_DEFAULT_HAIKU_MODEL), or start the "
                "server with --alias NAME=MODEL for the name that the client sends.",
                status=error.status,
                code=error.code,
                param=error.param,
            ) from None
        return name


def _answer(read: Callable[[], ModelPage | ModelInfo]) -> Response:
    """Answer on a path that is OpenAI's too, whose envelope its errors would get."""
    try:
        return json_response(read())
    except ApiError as error:
        return Response(error_body(error), error.status, media_type="application/json")


def _paths(path: str) -> tuple[str, ...]:
    return tuple(prefix + path for prefix in _PREFIXES)


_OPERATIONS = (
    Operation(
        method="POST",
        paths=_paths("/messages"),
        summary="Answer a conversation.",
        body=MessagesRequest,
        answer=Message,
        media_types=(SSE_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=_paths("/messages/count_tokens"),
        summary="Count the tokens of a conversation.",
        body=MessagesRequest,
        answer=MessageTokensCount,
    ),
    Operation(
        method="GET",
        paths=_paths("/models"),
        summary="List the models that requests can name.",
        query=ModelsQuery,
        answer=ModelPage,
    ),
    Operation(
        method="GET",
        paths=_paths("/models/{name:path}"),
        summary="Describe one model.",
        answer=ModelInfo,
    ),
)

ANTHROPIC = Dialect(
    name="anthropic",
    router=_router,
    prefixes=("/v1/messages", "/messages", "/v1/v1/messages", _OWN_PREFIX),
    error_body=error_body,
    error=ErrorResponse,
    operations=_OPERATIONS,
)
