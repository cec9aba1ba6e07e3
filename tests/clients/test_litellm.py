"""litellm, as proxies and agents have it: each of its providers that speaks a dialect of ours."""

import json
import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its list of prices comes from the network
litellm = pytest.importorskip("litellm")

from tests.clients.conftest import Served

pytestmark = pytest.mark.clients

HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
        },
    },
}


@pytest.fixture(params=["openai/", "anthropic/", "ollama_chat/"])
def provider(request: pytest.FixtureRequest, served: Served) -> dict[str, object]:
    base = served.url + ("/v1" if request.param == "openai/" else "")
    return {"model": request.param + served.model, "api_base": base, "api_key": served.key}


def test_a_conversation_is_answered(provider: dict[str, object]) -> None:
    answer = litellm.completion(messages=HELLO, max_tokens=12, temperature=0, **provider)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.completion_tokens <= 12


def test_a_streamed_answer_is_the_whole_one(provider: dict[str, object]) -> None:
    options = {"messages": HELLO, "max_tokens": 12, "temperature": 0, **provider}
    whole = litellm.completion(**options).choices[0].message.content
    chunks = list(litellm.completion(stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_forced_tool_is_called(provider: dict[str, object]) -> None:
    if str(provider["model"]).startswith("ollama"):
        pytest.skip("Ollama's API cannot force a call")
    choice = {"type": "function", "function": {"name": "look_up"}}
    answer = litellm.completion(
        messages=HELLO, tools=[TOOL], tool_choice=choice, max_tokens=200, **provider
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "look_up"
    assert isinstance(json.loads(call.function.arguments)["word"], str)


def test_an_unknown_model_is_its_not_found_error(served: Served) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(
            model="openai/nothing",
            messages=HELLO,
            api_base=f"{served.url}/v1",
            api_key=served.key,
            max_retries=0,
        )


def test_a_model_that_answers_is_no_reranker(served: Served) -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.rerank(
            model=f"jina_ai/{served.model}",
            query="q",
            documents=["a"],
            api_base=f"{served.url}/v1/rerank",
            api_key=served.key,
            max_retries=0,
        )
