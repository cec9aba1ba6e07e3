"""docs/api.md has every field that the vendors' own clients know, and says what happens to it.

Another dialect adds its requests to `REQUESTS`, and its tables to the page.
"""

import re
from collections.abc import Set
from dataclasses import dataclass, field

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import (
    BetaContentBlockParam,
    BetaRawMessageStreamEvent,
    BetaToolUnionParam,
)
from anthropic.types.beta import message_count_tokens_params as beta_count_tokens_params
from anthropic.types.beta import message_create_params as beta_create_params
from anthropic.types.beta.beta_raw_content_block_delta import BetaRawContentBlockDelta
from ollama import _types as ollama
from openai.types import (
    batch_create_params,
    completion_create_params,
    embedding_create_params,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import (
    input_token_count_params,
    response_create_params,
    response_input_param,
    response_stream_event,
    tool_param,
)
from pydantic import AliasChoices

from localllm.server.batch.routes import BatchRequest
from localllm.server.dialects.anthropic.content import Block
from localllm.server.dialects.anthropic.messages_request import MessagesRequest
from localllm.server.dialects.anthropic.tools import CLIENT_TOOL
from localllm.server.dialects.ollama.chat_request import ChatRequest
from localllm.server.dialects.ollama.embeddings import EmbedBody, EmbeddingsBody
from localllm.server.dialects.ollama.generate_request import PromptRequest
from localllm.server.dialects.ollama.models import ShowBody
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.embeddings import EmbeddingRequest
from localllm.server.dialects.openai.responses import items, tools
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.errors import ApiError
from localllm.server.request_body import validate
from localllm.server.schema import RequestModel
from localllm.server.unknown_fields import HARMLESS_FIELDS, unknown_fields
from tests.server.api_page import table
from tests.server.bodies import chat_body
from tests.server.sdk_fields import fields_of, literals_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentedRequest:
    """A request whose fields the page lists: the client's own types of it, our model, and a body
    to which fields can be added."""

    path: str
    types: tuple[object, ...]
    model: type[RequestModel]
    body: dict[str, object] = field(default_factory=dict)


REQUESTS = [
    DocumentedRequest(
        path="POST /v1/messages",
        types=(
            message_create_params.MessageCreateParamsNonStreaming,
            message_create_params.MessageCreateParamsStreaming,
            beta_create_params.MessageCreateParamsNonStreaming,
            beta_create_params.MessageCreateParamsStreaming,
            message_count_tokens_params.MessageCountTokensParams,
            beta_count_tokens_params.MessageCountTokensParams,
        ),
        model=MessagesRequest,
        body={"messages": [{"role": "user", "content": "hi"}]},
    ),
    DocumentedRequest(
        path="POST /v1/chat/completions",
        types=(
            chat_create_params.CompletionCreateParamsNonStreaming,
            chat_create_params.CompletionCreateParamsStreaming,
        ),
        model=ChatCompletionRequest,
        body=chat_body(),
    ),
    DocumentedRequest(
        path="POST /v1/responses",
        types=(
            response_create_params.ResponseCreateParamsNonStreaming,
            response_create_params.ResponseCreateParamsStreaming,
        ),
        model=ResponseRequest,
        body={"input": "hi"},
    ),
    DocumentedRequest(
        path="POST /v1/completions",
        types=(
            completion_create_params.CompletionCreateParamsNonStreaming,
            completion_create_params.CompletionCreateParamsStreaming,
        ),
        model=CompletionRequest,
        body={"prompt": "hi"},
    ),
    DocumentedRequest(
        path="POST /v1/embeddings",
        types=(embedding_create_params.EmbeddingCreateParams,),
        model=EmbeddingRequest,
        body={"input": "hi"},
    ),
    DocumentedRequest(
        path="POST /v1/batches",
        types=(batch_create_params.BatchCreateParams,),
        model=BatchRequest,
        body={"input_file_id": "file-1", "endpoint": "/v1/embeddings"},
    ),
    DocumentedRequest(path="POST /api/chat", types=(ollama.ChatRequest,), model=ChatRequest),
    DocumentedRequest(
        path="POST /api/generate", types=(ollama.GenerateRequest,), model=PromptRequest
    ),
    DocumentedRequest(path="POST /api/embed", types=(ollama.EmbedRequest,), model=EmbedBody),
    DocumentedRequest(
        path="POST /api/embeddings", types=(ollama.EmbeddingsRequest,), model=EmbeddingsBody
    ),
    DocumentedRequest(path="POST /api/show", types=(ollama.ShowRequest,), model=ShowBody),
]
BLOCKS_LEFT_OUT = literals_of(BetaContentBlockParam) - Block.OWN.keys()
RUN_BY_CLIENTS = {
    each for each in literals_of(BetaToolUnionParam) if each == "custom" or CLIENT_TOOL.match(each)
}
TOP_LEVEL = [
    (request, name, here)
    for request in REQUESTS
    for name, here in table(f"Fields of `{request.path}`").items()
    if re.fullmatch(r"\w+", name)
]
WORDS = {"works", "no effect", "ignored", "left out", "refused"}


def is_listed(path: str, rows: dict[str, str]) -> bool:
    """A field is listed by itself, or within an object of which all happens to be the same."""
    if path in rows:
        return True
    above = re.sub(r"(\.\w+|\[\])$", "", path)
    while above != path:
        if rows.get(above, "works") != "works":
            return True
        path, above = above, re.sub(r"(\.\w+|\[\])$", "", above)
    return False


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.path)
def test_every_field_of_the_client_is_on_the_page(request_: DocumentedRequest) -> None:
    rows = table(f"Fields of `{request_.path}`")
    assert {here for here in rows.values() if not here.startswith("as ")} <= WORDS
    fields = fields_of(*request_.types)
    assert len(fields) >= len(request_.body)
    assert sorted(path for path in fields if not is_listed(path, rows)) == []


@pytest.mark.parametrize(
    ("request_", "name", "here"), TOP_LEVEL, ids=[f"{each[0].path} {each[1]}" for each in TOP_LEVEL]
)
def test_what_the_page_says_of_a_field_is_so(
    request_: DocumentedRequest, name: str, here: str
) -> None:
    declared = name in declared_names(request_.model)
    body = {**request_.body, name: {"a": [1]}}
    match here:
        case "works":
            assert declared
            assert code_of(request_, body) != "unsupported_parameter"
        case "no effect":
            assert declared or name in HARMLESS_FIELDS
            assert name not in unknown_fields(validate(request_.model, body))
        case "ignored":
            assert list(unknown_fields(validate(request_.model, body))) == [name]
        case "refused":
            assert code_of(request_, body) == "unsupported_parameter"
        case _:
            raise AssertionError(f"a field is not {here!r}")


def code_of(request_: DocumentedRequest, body: dict[str, object]) -> str | None:
    """Return the code of the error that a body is refused with."""
    try:
        validate(request_.model, body)
    except ApiError as error:
        return error.code
    return None


def declared_names(model: type[RequestModel]) -> set[str]:
    """Return the names that a request can have its declared fields by."""
    names = set()
    for name, info in model.model_fields.items():
        alias = info.validation_alias
        choices = (
            alias.choices if isinstance(alias, AliasChoices) else [alias or info.alias or name]
        )
        names |= {str(choice) for choice in choices}
    return names


def test_fields_of_counting_are_those_of_responses() -> None:
    rows = table("Fields of `POST /v1/responses`")
    counted = fields_of(input_token_count_params.InputTokenCountParams)
    assert [path for path in sorted(counted) if not is_listed(path, rows)] == ["personality"]


@pytest.mark.parametrize(
    ("heading", "union", "groups"),
    [
        (
            "Items of `input`",
            response_input_param.ResponseInputItemParam,
            {"works": items.UNDERSTOOD, "left out": items.LEFT_OUT},
        ),
        (
            "Tools of responses",
            tool_param.ToolParam,
            {"works": tools.OFFERED | {"namespace"}, "left out": tools.LEFT_OUT},
        ),
        ("Events of a stream", response_stream_event.ResponseStreamEvent, {}),
        (
            "Content blocks",
            BetaContentBlockParam,
            {"works": frozenset(Block.OWN), "left out": BLOCKS_LEFT_OUT},
        ),
        (
            "Tools of messages",
            BetaToolUnionParam,
            {"works": RUN_BY_CLIENTS, "left out": literals_of(BetaToolUnionParam) - RUN_BY_CLIENTS},
        ),
        ("Events of messages", BetaRawMessageStreamEvent | BetaRawContentBlockDelta, {}),
    ],
)
def test_every_type_of_the_client_is_on_the_page(
    heading: str, union: object, groups: dict[str, Set[str]]
) -> None:
    rows = table(heading)
    types = literals_of(union)
    assert len(types) > 10
    assert types <= rows.keys()
    for here, names in groups.items():
        assert {name for name, word in rows.items() if word == here} <= names
        assert not {name for name, word in rows.items() if word != here} & names
