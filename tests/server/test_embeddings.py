"""`/v1/embeddings`, as clients call it."""

import base64
from array import array

import openai
import pytest

from localllm.engine.fake import Script
from localllm.errors import BadRequest, ContextOverflow, EngineCrashed
from tests.server.server_under_test import MODEL, ServerUnderTest


async def test_the_official_client_gets_vectors(server: ServerUnderTest, script: Script) -> None:
    async with server.client() as client:
        answer = await client.embeddings.create(model=MODEL, input=["four", "sevenly"])
    assert [each.embedding for each in answer.data] == [[4, 1, 0, -1], [7, 1, 0, -1]]
    assert [each.index for each in answer.data] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (11, 11)
    assert answer.model == MODEL
    assert script.embeds[0].inputs == ("four", "sevenly")


async def test_floats_and_base64_hold_the_same_numbers(server: ServerUnderTest) -> None:
    body = {"model": MODEL, "input": "four"}
    plain = (await server.post("/v1/embeddings", body)).items
    coded = (await server.post("/v1/embeddings", body | {"encoding_format": "base64"})).items
    numbers = array("f", base64.b64decode(str(coded[0]["embedding"]))).tolist()
    assert numbers == plain[0]["embedding"] == [4, 1, 0, -1]


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("text", ("text",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
async def test_every_kind_of_input_reaches_the_engine(
    server: ServerUnderTest, script: Script, value: object, inputs: tuple[object, ...]
) -> None:
    body = {"model": MODEL, "input": value, "dimensions": 2, "truncate": True, "user": "me"}
    assert (await server.post("/v1/embeddings", body)).status == 200
    (request,) = script.embeds
    assert request.inputs == inputs
    assert (request.dimensions, request.truncate, request.normalize) == (2, True, True)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": ["a", 1]}, "input", "invalid_type"),
        ({"input": [1, -1]}, "input", "invalid_type"),
        ({"input": [1, True]}, "input", "invalid_type"),
        ({"input": [1, 2.5]}, "input", "invalid_type"),
        ({"input": [[1], ["a"]]}, "input", "invalid_type"),
        ({"input": {"image": "a"}}, "input", "invalid_type"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"model": "other"}, "model", "model_not_found"),
    ],
)
async def test_a_wrong_field_is_an_error_that_names_it(
    server: ServerUnderTest, script: Script, change: dict[str, object], param: str, code: str
) -> None:
    answer = await server.post("/v1/embeddings", {"model": MODEL, "input": "a"} | change)
    assert answer.status in (400, 404)
    assert answer.error == (param, code)
    assert not script.embeds


async def test_a_bad_request_of_the_engine_is_a_400(
    server: ServerUnderTest, script: Script
) -> None:
    script.generate_error = BadRequest("This model was loaded to answer, not for embeddings.")
    async with server.client() as client:
        with pytest.raises(openai.BadRequestError, match="loaded to answer"):
            await client.embeddings.create(model=MODEL, input="a")
        script.generate_error = ContextOverflow("input[0] has 9 tokens")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model=MODEL, input="a")
    assert (refused.value.param, refused.value.code) == ("input", "context_length_exceeded")


async def test_a_crash_is_logged_once_and_is_a_503(
    server: ServerUnderTest, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.generate_error = EngineCrashed("gone", reason="SIGSEGV")
    for _ in range(2):
        answer = await server.post("/v1/embeddings", {"model": MODEL, "input": "a"})
        assert answer.status == 503
    assert len([line for line in caplog.messages if "gone" in line]) == 1
