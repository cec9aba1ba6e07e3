"""The routes of `/v1/responses`."""

import json
import secrets
from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi import Response as HttpResponse
from pydantic import BeforeValidator, Field

from localllm.engine.messages import GenerateEvent
from localllm.server.dialects.openai.responses.documents import (
    InputItemList,
    InputTokens,
    Response,
    ResponseDeleted,
)
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.dialects.openai.responses.response import (
    PendingResponse,
    ResponseStreamEncoder,
)
from localllm.server.dialects.openai.responses.store import Item, ResponseStore
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choices, Events
from localllm.server.generation.request import new_request_id, schema_warnings
from localllm.server.generation.stream import stream_response
from localllm.server.request_body import read_json, validate
from localllm.server.request_record import current_caller
from localllm.server.schema import RequestModel, json_response, warning_headers
from localllm.server.served_models import ServedModels
from localllm.server.streaming import cancel_on_disconnect, merge_streams
from localllm.server.unknown_fields import note_unknown, unknown_fields


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class InputItemsQuery(RequestModel):
    """The query of `/v1/responses/ID/input_items`; `include` adds nothing, for all is there."""

    limit: Annotated[Annotated[int, Field(ge=1, le=100)], BeforeValidator(_number)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    include: object = None


class ResponsesEndpoints:
    def __init__(self, models: ServedModels, store: ResponseStore | None = None) -> None:
        self._models = models
        self._store = store or ResponseStore()

    def add_routes(self, router: APIRouter, prefix: str) -> None:
        path = f"{prefix}/responses"
        router.post(path, response_model=None)(self.create)
        router.post(path + "/input_tokens", response_model=None)(self.input_tokens)
        router.get(path + "/{response_id}", response_model=None)(self.retrieve)
        router.delete(path + "/{response_id}", response_model=None)(self.delete)
        router.post(path + "/{response_id}/cancel", response_model=None)(self.cancel)
        router.get(path + "/{response_id}/input_items", response_model=None)(self.input_items)

    async def create(self, request: Request) -> HttpResponse:
        owner = key_owner()
        document = await read_json(request)
        body, new_input = self._read(request, document, owner)
        model = self._models.requested(body.model)
        generate = body.generate_request(f"resp_{secrets.token_hex(24)}")
        streams = [self._models.generate(model, generate, prompt_field="input")]
        warnings = body.warnings()
        if body.stream:
            # A header goes before the answer, whose own words come too late for it.
            warnings += schema_warnings(generate.grammar)
        pending = PendingResponse(body, document, model, generate, Choices(warnings=warnings))

        def keep(response: Response) -> None:
            if body.store is not False:
                self._keep(response, owner, new_input)

        if body.stream:
            encoder = ResponseStreamEncoder(pending, keep)
            return stream_response(encoder, pending.choices, streams)
        await cancel_on_disconnect(request.receive, _read_all(pending, streams))
        response = pending.finished()
        keep(response)
        return json_response(response, headers=warning_headers(pending.choices.warnings))

    async def input_tokens(self, request: Request) -> HttpResponse:
        """Count what `usage.input_tokens` of the same request would be."""
        body, _ = self._read(request, await read_json(request), key_owner())
        model = self._models.requested(body.model)
        generate = body.generate_request(new_request_id("count"))
        work = self._models.count_tokens(model, generate, prompt_field="input")
        tokens = await cancel_on_disconnect(request.receive, work)
        return json_response(
            InputTokens(input_tokens=tokens), headers=warning_headers(body.warnings())
        )

    def _read(
        self, request: Request, document: dict[str, object], owner: str
    ) -> tuple[ResponseRequest, list[Item]]:
        """Check a request, and put the conversation that it goes on with before its input.

        The fields at fault are named as the client sent them, so its own input is checked first.
        """
        new_input = self._resolved(document.get("input"), owner)
        own = {**document, "input": new_input} if "input" in document else document
        body = validate(ResponseRequest, own)
        note_unknown(request.scope, unknown_fields(body))
        if body.input is None and body.previous_response_id is None:
            raise ApiError("`input` is required.", code="missing_required_parameter", param="input")
        items = [item for item in new_input if isinstance(item, dict)] if new_input else []
        if body.previous_response_id is None:
            return body, items
        previous = self._store.get(body.previous_response_id, owner)
        if previous is None:
            raise self._gone("previous_response_id", "previous_response_not_found")
        return validate(ResponseRequest, {**own, "input": [*previous.conversation, *items]}), items

    def _resolved(self, value: object, owner: str) -> list[object] | None:
        """Return the input as a list of items, references replaced by what they refer to."""
        if isinstance(value, str):
            value = {"role": "user", "content": value}
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            return value  # type: ignore[return-value]  # the check of the body names it
        items: list[object] = []
        for index, item in enumerate(value):
            if isinstance(item, str):
                items.append({"role": "user", "content": item})
            elif isinstance(item, dict) and (reference := _reference(item)) is not None:
                found = self._store.item(reference, owner)
                if found is None:
                    raise self._gone(f"input[{index}].id", "item_not_found")
                items.append(found)
            else:
                items.append(item)
        return items

    def _keep(self, response: Response, owner: str, new_input: list[Item]) -> None:
        output: list[Item] = [item.model_dump(mode="json") for item in response.output]
        named = [_named(item) for item in new_input]
        self._store.put(
            response.id,
            owner,
            response.encode(),
            previous_id=response.previous_response_id,
            new_input=named,
            output=output,
            size_bytes=len(json.dumps(named)) + len(json.dumps(output)),
        )

    def _gone(self, param: str, code: str) -> ApiError:
        minutes = self._store.max_age_s / 60
        return ApiError(
            f"`{param}` names nothing that is kept here. Responses are kept in memory alone, for "
            f"{minutes:.0f} minutes after their last use and as long as there is room: send the "
            "whole conversation in `input`.",
            status=404,
            code=code,
            param=param,
        )

    async def retrieve(self, request: Request, response_id: str) -> HttpResponse:
        if request.query_params.get("stream") in ("true", "1"):
            raise ApiError(
                "`stream` is not supported here: the response is complete.",
                code="unsupported_parameter",
                param="stream",
            )
        found = self._store.get(response_id, key_owner())
        if found is None:
            raise self._gone("response_id", "response_not_found")
        return HttpResponse(found.document, media_type="application/json")

    async def delete(self, request: Request, response_id: str) -> HttpResponse:
        if not self._store.delete(response_id, key_owner()):
            raise self._gone("response_id", "response_not_found")
        return json_response(ResponseDeleted(id=response_id))

    async def cancel(self, request: Request, response_id: str) -> HttpResponse:
        if self._store.get(response_id, key_owner()) is None:
            raise self._gone("response_id", "response_not_found")
        raise ApiError(
            "Only a response that was made with `background` can be cancelled, which this server "
            "does not support. One that is being made ends when its client closes the connection.",
            code="unsupported_parameter",
            param="response_id",
        )

    async def input_items(self, request: Request, response_id: str) -> HttpResponse:
        query = validate(InputItemsQuery, _query(request.query_params))
        found = self._store.get(response_id, key_owner())
        if found is None:
            raise self._gone("response_id", "response_not_found")
        items = list(found.input if query.order == "asc" else reversed(found.input))
        if query.after is not None:
            places = [index for index, item in enumerate(items) if item.get("id") == query.after]
            if not places:
                raise ApiError("`after` names no item.", code="invalid_value", param="after")
            items = items[places[0] + 1 :]
        page = items[: query.limit]
        return json_response(
            InputItemList(
                data=page,
                first_id=_id(page[0]) if page else None,
                last_id=_id(page[-1]) if page else None,
                has_more=len(items) > len(page),
            )
        )


def key_owner() -> str:
    """Return what tells the holders of keys apart, in whichever header a key came."""
    return current_caller().identity


def _named(item: Item) -> Item:
    """Write an item of the input as clients read it back: with a type, an id, and parts."""
    named: Item = {"type": "message", "id": f"msg_{secrets.token_hex(12)}", **item}
    if named["type"] == "message" and isinstance(named.get("content"), str):
        type_ = "output_text" if named.get("role") == "assistant" else "input_text"
        named["content"] = [{"type": type_, "text": named["content"]}]
    return named


def _reference(item: dict[str, object]) -> str | None:
    refers = item.get("type") == "item_reference" or item.keys() == {"id"}
    return _id(item) if refers else None


def _query(query: Mapping[str, str]) -> dict[str, object]:
    return {name.removesuffix("[]"): value for name, value in query.items()}


def _id(item: Item) -> str | None:
    id_ = item.get("id")
    return id_ if isinstance(id_, str) else None


async def _read_all(pending: PendingResponse, streams: list[Events]) -> None:
    """Add all events of an answer. Raises what its stream raises."""
    events = merge_streams(streams)
    async with aclosing(events):
        async for prompt, event in events:
            _add(pending, prompt, event)


def _add(pending: PendingResponse, prompt: int, event: GenerateEvent) -> None:
    for choice in pending.choices.assign(prompt, event):
        choice.stop_reason  # noqa: B018 - raises for one that was cancelled
    pending.output.add(event)
