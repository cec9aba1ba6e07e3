"""`/v1/embeddings`, `/v1/rerank` and adapters, as clients ask for them."""

import base64
import json
from array import array
from dataclasses import dataclass

import openai
import pytest

from localllm.engine.fake import Script
from localllm.engine.messages import LoraScale
from localllm.errors import BadRequest, ContextOverflow, EngineCrashed
from tests.server.house import KEY, MODEL, House


@dataclass(frozen=True)
class Answer:
    status_code: int
    body: bytes

    @property
    def document(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.body)
        return document

    @property
    def items(self) -> list[dict[str, object]]:
        """What a list of vectors or a ranking holds."""
        found = json.loads(self.body)
        items: list[dict[str, object]] = found.get("data") or found["results"]
        return items

    @property
    def problem(self) -> tuple[str | None, str]:
        """The field at fault and the code."""
        error = json.loads(self.body)["error"]
        return error["param"], error["code"]


async def ask(house: House, line: str, body: bytes = b"") -> Answer:
    head = (
        f"{line} HTTP/1.1\r\nHost: {house.address.ip}:{house.address.port}\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    answer = await house.raw(head.encode() + body)
    headers, _, content = answer.partition(b"\r\n\r\n")
    return Answer(int(headers.split()[1]), content)


async def post(house: House, path: str, body: object) -> Answer:
    return await ask(house, f"POST {path}", json.dumps(body).encode())


async def test_the_official_client_gets_vectors(running: House, script: Script) -> None:
    async with running.client() as client:
        answer = await client.embeddings.create(model=MODEL, input=["four", "sevenly"])
    assert [each.embedding for each in answer.data] == [[4, 1, 0, -1], [7, 1, 0, -1]]
    assert [each.index for each in answer.data] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (11, 11)
    assert answer.model == MODEL
    assert script.embeds[0].inputs == ("four", "sevenly")


async def test_floats_and_base64_hold_the_same_numbers(running: House) -> None:
    body = {"model": MODEL, "input": "four"}
    plain = (await post(running, "/v1/embeddings", body)).items
    coded = (await post(running, "/v1/embeddings", body | {"encoding_format": "base64"})).items
    numbers = array("f", base64.b64decode(str(coded[0]["embedding"]))).tolist()
    assert numbers == plain[0]["embedding"] == [4, 1, 0, -1]


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("text", ("text",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
async def test_every_kind_of_input_reaches_the_engine(
    running: House, script: Script, given: object, inputs: tuple[object, ...]
) -> None:
    body = {"model": MODEL, "input": given, "dimensions": 2, "truncate": True, "user": "me"}
    assert (await post(running, "/v1/embeddings", body)).status_code == 200
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
        ({"input": {"text": "a"}}, "input", "invalid_type"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"task": "query"}, "task", "unknown_parameter"),
        ({"model": "other"}, "model", "model_not_found"),
    ],
)
async def test_nonsense_names_its_field(
    running: House, script: Script, change: dict[str, object], param: str, code: str
) -> None:
    answer = await post(running, "/v1/embeddings", {"model": MODEL, "input": "a"} | change)
    assert answer.status_code in (400, 404)
    assert answer.problem == (param, code)
    assert not script.embeds


async def test_what_the_engine_refuses_is_the_clients_error(running: House, script: Script) -> None:
    script.generate_error = BadRequest("This model was loaded to answer, not for embeddings.")
    async with running.client() as client:
        with pytest.raises(openai.BadRequestError, match="loaded to answer"):
            await client.embeddings.create(model=MODEL, input="a")
        script.generate_error = ContextOverflow("input[0] has 9 tokens")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model=MODEL, input="a")
    assert (refused.value.param, refused.value.code) == ("input", "context_length_exceeded")


async def test_a_crash_is_told_once_and_is_a_503(
    running: House, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.generate_error = EngineCrashed("gone", reason="SIGSEGV")
    for _ in range(2):
        answer = await post(running, "/v1/embeddings", {"model": MODEL, "input": "a"})
        assert answer.status_code == 503
    assert len([line for line in caplog.messages if "gone" in line]) == 1


async def test_documents_come_back_best_first(running: House, script: Script) -> None:
    body = {"model": MODEL, "query": "which", "documents": ["aa", {"text": "aaaa"}, "a", "bb"]}
    answer = await post(running, "/v1/rerank", body)
    assert [(each["index"], each["relevance_score"]) for each in answer.items] == [
        (1, 4.0), (0, 2.0), (3, 2.0), (2, 1.0),
    ]  # fmt: skip
    assert answer.document["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert answer.document["model"] == MODEL
    assert "document" not in answer.items[0]
    assert script.reranks[0].documents == ("aa", "aaaa", "a", "bb")


async def test_only_so_many_with_their_texts(running: House) -> None:
    body = {
        "model": MODEL, "query": "q", "documents": ["aa", "aaaa"], "top_n": 1,
        "return_documents": True,
    }  # fmt: skip
    answer = await post(running, "/v1/rerank", body)
    assert answer.items == [{"index": 1, "relevance_score": 4.0, "document": {"text": "aaaa"}}]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [{"text": "a", "image": "b"}]}, "documents[0].image"),
        ({"top_n": 0}, "top_n"),
    ],
)
async def test_a_ranking_that_cannot_be_names_its_field(
    running: House, script: Script, change: dict[str, object], param: str
) -> None:
    body = {"model": MODEL, "query": "q", "documents": ["a"]} | change
    answer = await post(running, "/v1/rerank", body)
    assert answer.status_code == 400
    assert answer.problem[0] == param
    assert not script.reranks


async def test_a_request_chooses_its_adapters(running: House, script: Script) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    for lora in (None, [], [{"id": 1, "scale": 0.5}]):
        answer = await post(running, "/v1/chat/completions", body | {"lora": lora})
        assert answer.status_code == 200
    assert [request.loras for request in script.requests] == [
        None, (), (LoraScale(id=1, scale=0.5),),
    ]  # fmt: skip
    wrong = await post(running, "/v1/chat/completions", body | {"lora": [{"id": -1, "scale": 1}]})
    assert wrong.problem[0] == "lora[0].id"


async def test_without_adapters_the_list_is_empty(running: House) -> None:
    answer = await ask(running, "GET /lora-adapters")
    assert (answer.status_code, answer.body) == (200, b"[]")
