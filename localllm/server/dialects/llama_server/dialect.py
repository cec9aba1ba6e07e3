"""llama-server's own endpoints beside OpenAI's: tokens, rendered prompts, infill, its state.

Conversations here have OpenAI's form, and errors its envelope. Both come from outside, since no
dialect knows another.
"""

from collections.abc import Callable
from typing import Protocol

from fastapi import APIRouter, Request, Response

from localllm.engine.messages import GenerateRequest
from localllm.runtime.model_pool.listing import ModelListing
from localllm.server.dialects.llama_server.completion_request import (
    CompletionBody,
    InfillBody,
)
from localllm.server.dialects.llama_server.completion_response import (
    NativeCompletion,
    NativeStreamEncoder,
    native_response,
)
from localllm.server.dialects.llama_server.line_limits import limited
from localllm.server.dialects.llama_server.status import Props, SlotList, slots_of
from localllm.server.dialects.llama_server.tokens import (
    Detokenization,
    DetokenizeBody,
    ModelQuery,
    RenderedPrompt,
    Tokenization,
    TokenizeBody,
    TokenizerInfo,
)
from localllm.server.dialects.protocol import Dialect
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choices
from localllm.server.generation.request import schema_warnings
from localllm.server.generation.stream import stream_response
from localllm.server.openapi import Operation
from localllm.server.request_body import read_body, read_json, validate
from localllm.server.schema import RequestModel, json_response, warning_headers
from localllm.server.served_models import ServedModels
from localllm.server.streaming import SSE_MEDIA_TYPE, cancel_on_disconnect


class Conversation(Protocol):
    """A request with messages, checked."""

    @property
    def model(self) -> str | None: ...

    def generate_request(self) -> GenerateRequest: ...


ReadConversation = Callable[[dict[str, object]], Conversation]
WriteError = Callable[[ApiError], bytes]


def llama_server(
    read_conversation: ReadConversation, body: type[RequestModel], error_body: WriteError
) -> Dialect:
    """Make the dialect. `body` is what `read_conversation` reads."""
    return Dialect(
        name="llama-server",
        router=lambda models: _router(models, read_conversation, error_body),
        operations=(*_OPERATIONS, _apply_template(body)),
    )


def _router(models: ServedModels, read: ReadConversation, error_body: WriteError) -> APIRouter:
    router, endpoints = APIRouter(), _Endpoints(models, read, error_body)
    for path, answer in (
        ("/tokenize", endpoints.tokenize),
        ("/detokenize", endpoints.detokenize),
        ("/apply-template", endpoints.apply_template),
        ("/completion", endpoints.completion),
        ("/infill", endpoints.infill),
    ):
        router.post(path, response_model=None)(answer)
    for path, show in (
        ("/tokenizer_info", endpoints.tokenizer_info),
        ("/props", endpoints.props),
        ("/slots", endpoints.slots),
    ):
        router.add_api_route(path, show, methods=["GET", "HEAD"], response_model=None)
    return router


class _Endpoints:
    def __init__(
        self, models: ServedModels, read: ReadConversation, error_body: WriteError
    ) -> None:
        self._models = models
        self._read = read
        self._error_body = error_body

    async def tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        name = self._models.requested(body.model)
        text, add_special = body.content, body.add_special
        if body.messages is not None:
            conversation = self._read({"messages": body.messages, **(body.model_extra or {})})
            text = await self._rendered(request, name, conversation)
        elif body.prompt is not None:
            text = body.prompt
        elif text is None:
            raise ApiError(
                "`content` is required.", code="missing_required_parameter", param="content"
            )
        if add_special is None:
            add_special = body.content is None
        work = self._models.tokenize(
            name, text, add_special=add_special, parse_special=body.parse_special is not False
        )
        found = await cancel_on_disconnect(request.receive, work)
        return json_response(Tokenization.of(body, found, self._context(name)))

    async def detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        name = self._models.requested(body.model)
        work = self._models.detokenize(name, body.tokens)
        text = await cancel_on_disconnect(request.receive, work)
        return json_response(Detokenization(content=text, prompt=text))

    async def apply_template(self, request: Request) -> Response:
        body = await read_json(request)
        conversation = self._read(body)
        name = self._models.requested(conversation.model)
        return json_response(
            RenderedPrompt(prompt=await self._rendered(request, name, conversation))
        )

    async def _rendered(self, request: Request, name: str, conversation: Conversation) -> str:
        work = self._models.apply_template(name, conversation.generate_request())
        return await cancel_on_disconnect(request.receive, work)

    async def tokenizer_info(self, request: Request) -> Response:
        name = self._asked(request)
        await self._models.tokenize(name, "")  # it is in memory afterwards
        listing = self._listing(name)
        if listing is None or listing.resident is None:
            raise ApiError("The model is not in memory.", status=503, code="model_not_loaded")
        return json_response(TokenizerInfo.of(listing.resident.loaded))

    async def props(self, request: Request) -> Response:
        listing = self._listing(self._asked(request))
        if listing is None:  # its engine ended between the two
            raise ApiError("The model is not there.", status=404, code="model_not_found")
        return json_response(Props.of(listing))

    async def slots(self, request: Request) -> Response:
        asked = validate(ModelQuery, dict(request.query_params)).model
        name = None if asked is None else self._models.resolve(asked)
        found = [
            slot
            for listing in self._models.listed()
            if name in (None, listing.name)
            for slot in slots_of(listing, self._models.metrics.running_of(listing.name))
        ]
        return Response(SlotList(found).model_dump_json(), media_type="application/json")

    async def completion(self, request: Request) -> Response:
        return await self._answer(request, await read_body(request, CompletionBody), "prompt")

    async def infill(self, request: Request) -> Response:
        body = await read_body(request, InfillBody)
        return await self._answer(request, body, "input_prefix")

    async def _answer(
        self, request: Request, body: CompletionBody | InfillBody, prompt_field: str
    ) -> Response:
        name = self._models.requested(body.model)
        generate = body.generate_request()
        events = self._models.generate(name, generate, prompt_field=prompt_field)
        if (limits := body.line_limits) is not None:
            events = limited(events, limits)
        if body.stream:
            choices = Choices(warnings=schema_warnings(generate.grammar))
            encoder = NativeStreamEncoder(body, name, choices, self._error_body)
            return stream_response(encoder, choices, [events])
        choices = Choices()
        await cancel_on_disconnect(request.receive, choices.read([events]))
        return native_response(body, name, choices, warning_headers(choices.warnings))

    def _asked(self, request: Request) -> str:
        query = validate(ModelQuery, dict(request.query_params))
        return self._models.resolve(self._models.requested(query.model))

    def _listing(self, name: str) -> ModelListing | None:
        name = self._models.resolve(name)
        return next((each for each in self._models.listed() if each.name == name), None)

    def _context(self, name: str) -> int | None:
        listing = self._listing(name)
        resident = listing.resident if listing is not None else None
        return None if resident is None else resident.loaded.context


_OPERATIONS = (
    Operation(
        method="POST",
        paths=("/tokenize",),
        summary="Cut a text, or the prompt of a conversation, into tokens.",
        body=TokenizeBody,
        answer=Tokenization,
    ),
    Operation(
        method="POST",
        paths=("/detokenize",),
        summary="Write tokens as text.",
        body=DetokenizeBody,
        answer=Detokenization,
    ),
    Operation(
        method="POST",
        paths=("/completion",),
        summary="Continue a text.",
        body=CompletionBody,
        answer=NativeCompletion | dict[str, object],
        media_types=(SSE_MEDIA_TYPE,),
    ),
    Operation(
        method="POST",
        paths=("/infill",),
        summary="Fill in the middle of a text, with other files beside it.",
        body=InfillBody,
        answer=NativeCompletion | dict[str, object],
        media_types=(SSE_MEDIA_TYPE,),
    ),
    Operation(
        method="GET",
        paths=("/tokenizer_info",),
        summary="Describe the tokenizer of a model.",
        query=ModelQuery,
        answer=TokenizerInfo,
    ),
    Operation(
        method="GET",
        paths=("/props",),
        summary="Describe a model and what a request has by default.",
        query=ModelQuery,
        answer=Props,
    ),
    Operation(
        method="GET",
        paths=("/slots",),
        summary="List the places for answers, without their prompts.",
        query=ModelQuery,
        answer=SlotList,
    ),
)


def _apply_template(conversation: type[RequestModel]) -> Operation:
    return Operation(
        method="POST",
        paths=("/apply-template",),
        summary="Write the prompt of a conversation as text.",
        body=conversation,
        answer=RenderedPrompt,
    )
