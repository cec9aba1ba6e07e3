"""`/v1/rerank`, as clients call it."""

import pytest

from localllm.engine.fake import Script
from tests.server.server_under_test import MODEL, ServerUnderTest


async def test_documents_come_back_best_first(server: ServerUnderTest, script: Script) -> None:
    body = {"model": MODEL, "query": "which", "documents": ["aa", {"text": "aaaa"}, "a", "bb"]}
    answer = await server.post("/v1/rerank", body)
    assert [(each["index"], each["relevance_score"]) for each in answer.items] == [
        (1, 4.0), (0, 2.0), (3, 2.0), (2, 1.0),
    ]  # fmt: skip
    assert answer.document["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert answer.document["model"] == MODEL
    assert "document" not in answer.items[0]
    assert script.reranks[0].documents == ("aa", "aaaa", "a", "bb")


async def test_only_so_many_with_their_texts(server: ServerUnderTest) -> None:
    body = {
        "model": MODEL, "query": "q", "documents": ["aa", "aaaa"], "top_n": 1,
        "return_documents": True,
    }  # fmt: skip
    answer = await server.post("/v1/rerank", body)
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
    server: ServerUnderTest, script: Script, change: dict[str, object], param: str
) -> None:
    body = {"model": MODEL, "query": "q", "documents": ["a"]} | change
    answer = await server.post("/v1/rerank", body)
    assert answer.status == 400
    assert answer.error[0] == param
    assert not script.reranks
