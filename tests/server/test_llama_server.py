"""llama-server's own endpoints, and vLLM's and TEI's forms of them."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.fake import Script
from localllm.engine.messages import SourceFile
from localllm.server.dialects.llama_server.line_limits import LineLimits
from tests.server.server_under_test import MODEL, ServerUnderTest

HELLO = {"messages": [{"role": "user", "content": "Hello there"}]}


async def test_a_text_becomes_tokens_and_comes_back(server: ServerUnderTest) -> None:
    answer = await server.post("/tokenize", {"content": "aä"})
    assert answer.document["tokens"] == [97, 195, 164]
    pieces = await server.post("/tokenize", {"content": "aä", "with_pieces": True})
    assert pieces.document["tokens"] == [
        {"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}, {"id": 164, "piece": [164]},
    ]  # fmt: skip
    back = await server.post("/detokenize", {"tokens": [97, 195, 164]})
    assert back.document == {"content": "aä", "prompt": "aä"}


async def test_vllm_s_forms_of_a_text_and_of_a_conversation(server: ServerUnderTest) -> None:
    body = {"model": MODEL, "prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    answer = await server.post("/tokenize", body)
    assert answer.document["count"] == 2
    assert answer.document["token_strs"] == ["a", "b"]
    assert isinstance(answer.document["max_model_len"], int)
    rendered = await server.post("/tokenize", HELLO)
    assert rendered.document["count"] == len("Hello there")
    info = (await server.request("GET /tokenizer_info")).document
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert info["chat_template"]


async def test_a_conversation_is_shown_as_its_prompt(
    server: ServerUnderTest, script: Script
) -> None:
    answer = await server.post("/apply-template", HELLO)
    assert answer.document == {"prompt": "Hello there"}
    assert not script.requests


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 1}, "content"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/apply-template", {}, "messages"),
        ("/completion", {"prompt": ""}, "prompt"),
        ("/completion", {"prompt": "a", "grammar": "root ::= 1"}, "grammar"),
        ("/completion", {"prompt": "a", "logit_bias": [[1]]}, "logit_bias"),
        ("/infill", {"input_prefix": "a"}, "input_suffix"),
        ("/infill", {"input_prefix": "a", "input_suffix": 1}, "input_suffix"),
    ],
)
async def test_what_cannot_be_read_names_its_field(
    server: ServerUnderTest, path: str, body: dict[str, object], param: str
) -> None:
    answer = await server.post(path, body)
    assert (answer.status, answer.error[0]) == (400, param)


async def test_an_editor_s_request_fills_in_the_middle(
    server: ServerUnderTest, script: Script
) -> None:
    body = {
        "input_prefix": "def f():\n", "input_suffix": "\n", "prompt": "    ret", "n_predict": 64,
        "input_extra": [{"text": "x = 1", "filename": "one.py", "time": 3}],
        "samplers": ["top_k", "infill"], "cache_prompt": True, "id_slot": 0,
        "response_fields": ["content", "timings/prompt_n", "truncated", "nothing/there"],
    }  # fmt: skip
    answer = await server.post("/infill", body)
    assert answer.document == {
        "content": "Hello, world.",
        "timings/prompt_n": 3,
        "truncated": False,
    }
    (request,) = script.requests
    assert (request.prompt, request.suffix) == ("def f():\n    ret", "\n")
    assert request.files == (SourceFile(name="one.py", text="x = 1"),)
    assert "samplers" in answer.head


async def test_a_prompt_can_be_read_ahead(server: ServerUnderTest, script: Script) -> None:
    body = {"input_prefix": "a", "input_suffix": "b", "n_predict": 0}
    answer = await server.post("/infill", body)
    assert answer.document["content"] == ""
    assert answer.document["tokens_predicted"] == 0
    assert script.requests[0].max_tokens == 1


async def test_a_completion_says_why_it_ended(server: ServerUnderTest) -> None:
    body = {"prompt": "a b", "n_predict": 2, "logit_bias": {"5": False}}
    answer = await server.post("/completion", body)
    document = answer.document
    assert (document["content"], document["stop_type"]) == ("Hello, ", "limit")
    assert (document["tokens_evaluated"], document["tokens_predicted"]) == (2, 2)
    assert server.script.requests[0].sampling.logit_bias == ((5, -100.0),)


async def test_a_streamed_completion_ends_with_its_timings(server: ServerUnderTest) -> None:
    answer = await server.post("/completion", {"prompt": "a", "stream": True})
    lines = [line[6:] for line in answer.body.splitlines() if line.startswith(b"data: ")]
    *pieces, last = (json.loads(line) for line in lines)
    assert "".join(piece["content"] for piece in pieces) == "Hello, world."
    assert [piece["stop"] for piece in pieces] == [False] * 4
    assert (last["stop"], last["content"], last["stop_type"]) == (True, "", "eos")
    assert last["timings"]["predicted_per_second"] == 40.0


async def test_code_ends_with_its_indentation(server: ServerUnderTest, script: Script) -> None:
    script.tokens = ("return 1\n", "    # on", "\n\n", "x = 2\n", "y")
    body = {"input_prefix": "a", "input_suffix": "b", "n_indent": 4}
    answer = await server.post("/infill", body)
    assert answer.document["content"] == "return 1\n    # on\n"
    assert answer.document["stop_type"] == "limit"
    assert await asyncio.wait_for(script.closed.get(), 5)


async def test_props_and_slots_show_no_prompt_and_no_folder(server: ServerUnderTest) -> None:
    props = (await server.request("GET /props")).document
    assert props["total_slots"] == 4
    assert str(props["model_path"]).endswith(".gguf")
    assert "/" not in str(props["model_path"])
    assert (props["bos_token"], props["eos_token"]) == ("<s>", "</s>")
    server.script.gate = asyncio.Semaphore(0)
    asking = asyncio.create_task(server.post("/completion", {"prompt": "secret"}))
    await server.script.opened.get()
    slots = await server.request("GET /slots")
    while b'"is_processing":true' not in slots.body:  # the request is on its way to the engine
        slots = await server.request("GET /slots")
    assert [slot["is_processing"] for slot in json.loads(slots.body)] == [True] + [False] * 3
    assert b"secret" not in slots.body
    for _ in range(9):
        server.script.gate.release()
    assert (await asking).status == 200
    assert (await server.request("GET /props?model=other")).status == 404


async def test_tei_s_form_of_a_ranking(server: ServerUnderTest) -> None:
    body = {"query": "q", "texts": ["", "aaaa"], "return_text": True}
    answer = await server.post("/rerank", body)
    assert json.loads(answer.body) == [
        {"index": 1, "score": pytest.approx(0.98201379), "text": "aaaa"},
        {"index": 0, "score": 0.5, "text": ""},
    ]
    raw = await server.post("/rerank", {"query": "q", "texts": ["aaaa"], "raw_scores": True})
    assert json.loads(raw.body) == [{"index": 0, "score": 4.0}]


@settings(max_examples=100)
@given(
    pieces=st.lists(st.text(alphabet="ab \t\n", max_size=6), max_size=12),
    indent=st.integers(0, 3),
)
def test_a_line_limit_keeps_whole_lines_and_takes_nothing_back(
    pieces: list[str], indent: int
) -> None:
    text = "".join(pieces)
    limits, sent, ended = LineLimits(min_indent=indent), "", False
    for piece in pieces:
        kept, ended = limits.add(piece)
        sent += kept
        assert text.startswith(sent)
        if ended:
            break
    if not ended:
        sent += limits.flush()
    first, *later = text.split("\n")
    expected = [first]
    for line in later:
        if line.strip(" \t") and len(line) - len(line.lstrip(" \t")) < indent:
            break
        expected.append(line)
    whole = "\n".join(expected)
    assert sent == whole if not ended else whole.startswith(sent.rstrip("\n \t"))
    assert ended == (len(expected) < len(text.split("\n")))


def test_a_time_limit_ends_at_a_line_break() -> None:
    now = 0.0
    limits = LineLimits(time_s=1.0, clock=lambda: now)
    assert limits.add("a = ") == ("a = ", False)
    now = 2.0
    assert limits.add("1") == ("1", False)
    assert limits.add(";\nb") == (";", True)
