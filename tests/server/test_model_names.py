"""The names and paths by which clients find a model: aliases, none at all, stray slashes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from starlette.types import Receive, Scope, Send

from localllm.engine.fake import Script
from localllm.library.store.installed import InstalledModel
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import PoolModel, PoolModels
from localllm.server.app import PlainPaths, RequestRules
from localllm.server.errors import ApiError
from localllm.server.served_models import ServedModels
from tests.server.bodies import MESSAGES, chat_body
from tests.server.server_under_test import (
    KEY,
    MODEL,
    ServerUnderTest,
    make_runtime,
    start_server,
)

ALIAS = "gpt-4o"


@pytest.fixture
async def aliased(script: Script, smollm2: Path, tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    aliases = {ALIAS: MODEL}
    async with start_server(script, smollm2, tmp_path / "data", aliases=aliases) as server:
        yield server


@pytest.fixture
async def strict(script: Script, smollm2: Path, tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    rules = RequestRules(strict=True)
    async with start_server(script, smollm2, tmp_path / "data", rules=rules) as server:
        yield server


async def test_an_alias_is_listed_and_answers_by_its_own_name(aliased: ServerUnderTest) -> None:
    client = aliased.client()
    assert [model.id async for model in client.models.list()] == [MODEL, ALIAS]
    assert (await client.models.retrieve(ALIAS)).id == ALIAS
    answer = await client.chat.completions.create(
        model=ALIAS, messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.model == ALIAS
    stream = await client.completions.create(model=ALIAS, prompt="a", stream=True)
    assert {chunk.model async for chunk in stream} == {ALIAS}
    assert (await client.embeddings.create(model=ALIAS, input="a")).model == ALIAS
    unknown = await aliased.post("/v1/chat/completions", chat_body(model="gpt-5"))
    assert unknown.status == 404
    assert f"{MODEL}, {ALIAS}" in json.loads(unknown.body)["error"]["message"]


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}])
async def test_the_model_can_be_left_out_when_there_is_one(
    server: ServerUnderTest, model: dict[str, object]
) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "q", "documents": ["a"]}),
    ):
        answer = await server.post(path, {**body, **model})
        assert (answer.status, answer.document["model"]) == (200, MODEL), path


async def test_of_several_models_one_must_be_named(
    script: Script, smollm2: Path, tmp_path: Path
) -> None:
    runtime = await make_runtime(script, smollm2, tmp_path)
    a, b = (
        PoolModel(model=InstalledModel(name=name, quant=None, path=smollm2, size_bytes=1))
        for name in "ab"
    )
    pool = ModelPool(runtime, PoolModels(runtime, (a, b), aliases={"c": "a", "b": "a"}))
    models = ServedModels(pool)
    with pytest.raises(ApiError, match="a, b, c") as raised:
        models.requested(None)
    assert (raised.value.status, raised.value.param) == (400, "model")
    assert [models.resolve(name) for name in ("a", "b", "c")] == ["a", "b", "a"]
    await runtime.close()


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/", "//v1//models", "/models/", "/v1/v1/models", "//models//"]
)
async def test_stray_slashes_and_another_prefix_find_the_models(
    server: ServerUnderTest, path: str
) -> None:
    answer = await server.request(f"GET {path}")
    assert answer.status == 200
    assert (await server.request(f"GET {path}", key=None)).status == 401
    assert (await server.request(f"GET {path}/{MODEL}/")).document["id"] == MODEL


@pytest.mark.parametrize("prefix", ["", "/v1", "//v1", "/v1/", "/v1/v1"])
async def test_clients_with_any_base_address_get_answers(
    server: ServerUnderTest, prefix: str
) -> None:
    client = AsyncOpenAI(base_url=f"{server.address.url}{prefix}", api_key=KEY, max_retries=0)
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "Hello, world."
    for path, body in (
        ("/completions/", {"prompt": "a"}),
        ("/embeddings/", {"input": "a"}),
    ):
        assert (await server.post(prefix + path, body)).status == 200


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank/", "/v1/reranking", "/reranking"])
async def test_a_ranking_is_found_where_llama_server_has_it(
    server: ServerUnderTest, path: str
) -> None:
    answer = await server.post(path, {"query": "q", "documents": ["a"]})
    assert answer.status == 200


@given(path=st.text(alphabet="/ab", max_size=12))
def test_a_plain_path_has_the_same_steps_and_single_slashes(path: str) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])

    async def nothing() -> dict[str, object]:
        raise AssertionError

    async def nowhere(message: object) -> None:
        raise AssertionError

    asyncio.run(PlainPaths(app)({"type": "http", "path": f"/{path}"}, nothing, nowhere))
    (plain,) = seen
    assert plain.startswith("/")
    assert "//" not in plain
    assert plain == "/" or not plain.endswith("/")
    assert [step for step in path.split("/") if step] == [s for s in plain.split("/") if s]


# --- strict ---


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperatur": 1}, "temperatur"),
        ({"": 1}, '[""]'),
        ({"u" * 99: 1}, "u" * 64 + "..."),
        ({"messages": [{"role": "user", "content": "hi", "opts": 1}]}, "messages[0].opts"),
        ({"stream_options": {"verbose": True}, "stream": True}, "stream_options.verbose"),
    ],
)
async def test_a_strict_server_refuses_the_unknown_and_names_it(
    strict: ServerUnderTest, fields: dict[str, object], param: str
) -> None:
    answer = await strict.post("/v1/chat/completions", chat_body(**fields))
    assert answer.status == 400
    assert answer.error == (param, "unknown_parameter")
    assert f"`{param}` is not known" in json.loads(answer.body)["error"]["message"]
    assert not strict.script.requests


async def test_a_strict_server_takes_what_changes_nothing_and_other_names(
    strict: ServerUnderTest,
) -> None:
    body = chat_body(
        messages=[{"role": "user", "content": "hi", "cache_control": {}, "id": 1}],
        metadata={"a": "b"},
        repetition_penalty=1.1,
        seed=-1,
        unknown=None,
    )
    assert (await strict.post("/v1/chat/completions", body)).status == 200
