"""Bodies of chat requests, right and wrong, for more than one test module."""

from hypothesis import strategies as st

from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from tests.server.server_under_test import MODEL

MESSAGES: list[dict[str, object]] = [{"role": "user", "content": "hi"}]


def chat_body(**fields: object) -> dict[str, object]:
    return {"model": MODEL, "messages": MESSAGES} | fields


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
known_fields = st.sampled_from(list(ChatCompletionRequest.model_fields))
message_values = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "system", "tool"]) | json_values,
        "content": st.text() | json_values,
        "name": json_values,
    },
)
bodies = st.dictionaries(known_fields | st.text(max_size=8), json_values, max_size=6).flatmap(
    lambda extra: st.fixed_dictionaries(
        {},
        optional={
            "model": st.just(MODEL),
            "messages": st.lists(message_values, max_size=3) | json_values,
        },
    ).map(lambda base: base | extra)
)
