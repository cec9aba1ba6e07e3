"""How a request steers the model's thinking, in the words of many servers."""

import pytest

from localllm.engine.messages import Effort, Role, Thinking
from tests.server.server_under_test import MODEL, ServerUnderTest
from tests.server.test_chat import HELLO
from tests.server.test_chat_request import request

OFF, ON = Thinking(enabled=False), Thinking(enabled=True)


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"reasoning_effort": None}, Thinking()),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "minimal"}, Thinking(effort=Effort.MINIMAL)),
        ({"reasoning_effort": "xhigh"}, Thinking(effort=Effort.XHIGH)),
        ({"reasoning_effort": "max"}, Thinking(effort=Effort.XHIGH)),
        ({"reasoning_effort": "default"}, Thinking()),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, Thinking(effort=Effort.LOW)),
        ({"reasoning": {"max_tokens": 100.0}}, Thinking(enabled=True, budget=100)),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning": False}, OFF),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}},
         Thinking(enabled=True, budget=1024)),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking": True}, ON),
        ({"think": "high"}, Thinking(effort=Effort.HIGH)),
        ({"think": False}, OFF),
        ({"enable_thinking": False}, OFF),
        ({"thinking_budget": 50}, Thinking(budget=50)),
        ({"reasoning_budget": -1}, Thinking()),
        ({"thinking_budget_tokens": 0}, Thinking(budget=0)),
        ({"enable_thinking": True, "reasoning_effort": "low", "thinking_budget": 9},
         Thinking(enabled=True, effort=Effort.LOW, budget=9)),
        ({"reasoning_effort": "none", "think": False, "enable_thinking": False}, OFF),
    ],
)  # fmt: skip
def test_every_name_of_the_switch_is_understood(
    fields: dict[str, object], thinking: Thinking
) -> None:
    assert request(**fields).generate_request().thinking == thinking


def test_variables_of_the_template_are_passed_on() -> None:
    made = request(chat_template_kwargs={"enable_thinking": False, "mood": ["é", 1]})
    assert (
        made.generate_request().template_options == '{"enable_thinking": false, "mood": ["é", 1]}'
    )


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, None),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
        ({"add_generation_prompt": False}, None),
    ],
)
def test_a_last_message_of_the_assistant_is_continued_unless_the_request_says_no(
    fields: dict[str, object], continues: bool | None
) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "So"}]
    made = request(messages=messages, **fields).generate_request()
    assert made.continue_final_message is continues
    assert made.messages is not None
    assert made.messages[-1].role is Role.ASSISTANT


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
async def test_an_answer_leaves_its_reasoning_out_where_it_is_not_wanted(
    server: ServerUnderTest, fields: dict[str, object]
) -> None:
    server.script.reasoning = ("I ", "think.")
    create = server.client().chat.completions.create
    shown = await create(model=MODEL, messages=HELLO)
    hidden = await create(model=MODEL, messages=HELLO, extra_body=fields)
    assert "reasoning_content" in (shown.choices[0].message.model_extra or {})
    assert "reasoning_content" not in (hidden.choices[0].message.model_extra or {})
    assert hidden.choices[0].message.content == shown.choices[0].message.content
    stream = await create(model=MODEL, messages=HELLO, stream=True, extra_body=fields)
    async for chunk in stream:
        for choice in chunk.choices:
            assert "reasoning_content" not in (choice.delta.model_extra or {})
