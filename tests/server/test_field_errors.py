"""Whatever is sent, a message names the field and speaks to people."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.server.dialects.jina.rerank import RerankBody
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.embeddings import EmbeddingRequest
from localllm.server.errors import ApiError
from localllm.server.request_body import validate
from localllm.server.schema import RequestModel
from tests.server.bodies import chat_body
from tests.server.server_under_test import MODEL

PYTHON_WORDS = (
    "Input should", "None", "True", "False", "dict", "list", "tuple", " str ", " int ", "valid ",
    "object has", "validation", "Error", "``", "<class", "pydantic", "field_",
)  # fmt: skip

ODD_VALUES: list[object] = [
    None, True, False, -2, 0, 10**60, 0.5, "", "x", "\0", [], [None], [[]], [{}], {}, {"": 1},
    {"type": 5}, {"type": []}, {"type": "function"}, {"type": "json_schema"}, {"role": "user"},
    {"name": []}, {"function": {"name": ""}}, {"1": "x"}, {"include_usage": "x"},
    [{"role": "assistant", "tool_calls": [{}]}], [{"type": "function", "function": 5}],
    [{"role": "user", "content": [{"type": "image_url"}]}], [{"id": 1.5, "scale": "x"}],
    [{"role": "user", "content": [{"type": {}}]}], [{"role": "user", "content": [{"type": "x"}]}],
    [{"role": "assistant", "content": 5, "function_call": 7}], [{"role": "tool", "content": 5}],
]  # fmt: skip
odd = st.sampled_from(ODD_VALUES)
MODELS: dict[type[RequestModel], dict[str, object]] = {
    ChatCompletionRequest: chat_body(),
    CompletionRequest: {"model": MODEL, "prompt": "a"},
    EmbeddingRequest: {"model": MODEL, "input": "a"},
    RerankBody: {"model": MODEL, "query": "q", "documents": ["a"]},
}


def field_names(model: type[RequestModel]) -> list[str]:
    return [*model.model_fields, "repetition_penalty", "n_predict", "texts"]


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_every_message_names_a_field_in_words_for_people(
    model: type[RequestModel], data: st.DataObject
) -> None:
    changes = data.draw(
        st.dictionaries(st.sampled_from(field_names(model)), odd, min_size=1, max_size=3)
    )
    try:
        validate(model, MODELS[model] | changes)
    except ApiError as error:
        message = str(error)
        assert error.param
        assert message.startswith(f"`{error.param}` ")
        assert message.endswith(".")
        for word in PYTHON_WORDS:
            assert word not in message.removeprefix(f"`{error.param}`"), message
