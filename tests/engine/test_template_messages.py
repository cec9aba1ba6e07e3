"""Chat templates of every tool format: which it is, and conversations with tools as it has them."""

import dataclasses

import pytest

from localllm.engine.messages import (
    Message,
    Role,
    Thinking,
    Token,
    Tool,
    ToolCall,
    ToolCallArguments,
)
from localllm.engine.worker.parsing.formats import HARMONY, PLAIN, reasoning_tags_of, tool_format_of
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.errors import BadRequest
from tests.engine.tool_formats import EXAMPLES, Example, began, parse, parser_for, source

TOOLS = (
    Tool(
        name="get_weather",
        description="Says how the weather is.",
        parameters='{"type": "object", "properties": {"city": {"type": "string", '
        '"description": "Where"}}, "required": ["city"]}',
    ),
)
QUESTION = Message(role=Role.USER, content="Weather in Köln?")
CALLING = Message(
    role=Role.ASSISTANT,
    content="",
    reasoning="I must look.",
    tool_calls=(ToolCall(id="call_of_a_client", name="get_weather", arguments='{"city": "Köln"}'),),
)
RESULT = Message(role=Role.TOOL, content="12 degrees", tool_call_id="call_of_a_client")
CONVERSATION = (QUESTION, CALLING, RESULT)

every_template = pytest.mark.parametrize("example", EXAMPLES, ids=[e.template for e in EXAMPLES])


def template(example: Example) -> ChatTemplate:
    return ChatTemplate(source(example), bos_token="<s>", eos_token="</s>")


@every_template
def test_the_tool_format_and_the_tags_are_seen_in_the_template(example: Example) -> None:
    assert tool_format_of(source(example)) is example.tool_format
    assert reasoning_tags_of(source(example)) is example.tags


@pytest.mark.parametrize("text", ["", "{{ messages }}", "<tool_call>", "<|im_start|>{{ tools }}"])
def test_an_unknown_template_is_plain_and_does_not_reason(text: str) -> None:
    assert tool_format_of(text) is PLAIN
    assert reasoning_tags_of(text) is None


@every_template
def test_tools_are_described(example: Example) -> None:
    text = template(example).render((QUESTION,), TOOLS)
    for fragment in ("get_weather", "Says how", "city", "Weather in Köln?"):
        assert fragment in text


@every_template
def test_a_conversation_with_a_call_and_its_result_is_rendered(example: Example) -> None:
    text = template(example).render(CONVERSATION, TOOLS)
    order = [text.rindex(fragment) for fragment in ("Weather in Köln?", "12 degrees")]
    assert order == sorted(order)
    between = text[order[0] : order[1]]
    assert "get_weather" in between
    assert "Köln" in between[len("Weather in Köln?") :]


@every_template
def test_what_the_template_writes_for_a_call_is_parsed_as_that_call(example: Example) -> None:
    """Both ends agree: the parser of the format understands the rendered call."""
    text = template(example).render(CONVERSATION, TOOLS)
    question, result = text.rindex("Weather in Köln?"), text.rindex("12 degrees")
    written = text[question + len("Weather in Köln?") : result]
    trigger = " to=functions" if example.tool_format is HARMONY else '{"name"'
    if not example.tool_format.bare_starts and example.tool_format is not HARMONY:
        trigger = example.tool_format.triggers[0]
    written = written[written.index(trigger) :].split("<|call|>")[0]
    events = parse(parser_for(example.tool_format, None), [written])
    events = [event for event in events if not isinstance(event, Token)]
    assert events[0] == began("get_weather")
    assert isinstance(events[1], ToolCallArguments)
    assert events[1].text.replace(" ", "") == '{"city":"Köln"}'


@every_template
def test_a_conversation_without_tools_is_rendered_as_before(example: Example) -> None:
    answer = Message(role=Role.ASSISTANT, content="Cold.")
    text = template(example).render((QUESTION, answer, QUESTION))
    assert "get_weather" not in text
    assert text.index("Weather in Köln?") < text.index("Cold.") < text.rindex("Weather in Köln?")


@every_template
def test_two_results_in_a_row_are_rendered(example: Example) -> None:
    calls = (*CALLING.tool_calls, ToolCall(id="two", name="get_weather", arguments="{}"))
    two = dataclasses.replace(CALLING, tool_calls=calls)
    other = Message(role=Role.TOOL, content="a storm", tool_call_id="two")
    conversation = (QUESTION, two, RESULT, other)
    fitted = template(example).fit(conversation, TOOLS)
    text = template(example).render(fitted.messages, TOOLS)
    assert text.index("12 degrees") < text.index("a storm")


def test_earlier_reasoning_is_rendered_where_the_template_has_a_place_for_it() -> None:
    for name in ("Qwen-Qwen3-0.6B", "openai-gpt-oss-120b", "google-gemma-4-31B-it"):
        (example,) = (e for e in EXAMPLES if e.template == name)
        assert "I must look." in template(example).render(CONVERSATION, TOOLS)


def test_a_template_without_a_place_for_tools_has_them_in_its_system_message() -> None:
    chatml = ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    text = chatml.render((Message(role=Role.SYSTEM, content="Be brief."), QUESTION), TOOLS)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou can call these functions:")
    assert text.count("<|im_start|>system") == 1
    rendered = chatml.render(CONVERSATION, TOOLS)
    assert '{"name": "get_weather", "arguments": {"city": "Köln"}}' in rendered
    assert "Result of get_weather:\n12 degrees" in rendered


def test_a_template_without_a_system_role_has_them_in_the_first_question() -> None:
    (gemma,) = (e for e in EXAMPLES if e.template == "own-gemma-3")
    text = template(gemma).render((QUESTION,), TOOLS)
    assert text.startswith("<s><start_of_turn>user\nYou can call these functions:")
    assert text.count("<start_of_turn>user") == 1


def test_ids_have_the_form_that_mistral_insists_on() -> None:
    (nemo,) = (e for e in EXAMPLES if e.template.startswith("mistralai-Mistral-Nemo"))
    text = template(nemo).render(CONVERSATION, TOOLS)
    (called,) = (part.split('"')[0] for part in text.split('"id": "')[1:])
    (answered,) = (part.split('"')[0] for part in text.split('"call_id": "')[1:])
    assert called == answered
    assert len(called) == 9


def test_a_template_marked_for_training_is_used() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert ChatTemplate(source).render((QUESTION,)) == "Weather in Köln?"


def test_a_template_may_indent_a_little() -> None:
    assert ChatTemplate("{{ 'a'|indent(4, first=true) }}").render((QUESTION,)) == "    a"
    with pytest.raises(BadRequest):
        ChatTemplate("{{ 'a'|indent(10000000000, first=true) }}").render((QUESTION,))


def test_reasoning_is_switched_off_where_the_template_can() -> None:
    (qwen3,) = (e for e in EXAMPLES if e.template == "Qwen-Qwen3-0.6B")
    off = template(qwen3).thinking.plan(Thinking(enabled=False), {})
    text = template(qwen3).render((QUESTION,), options=off.options)
    assert text.endswith("<think>\n\n</think>\n\n")


BROKEN = (
    '{"city": "Kö',
    "not json",
    "[1]",
    "null",
    "",
    '{"a": ' * 2000 + "1" + "}" * 2000,
    '"',
    "{",
)


@pytest.mark.parametrize("arguments", BROKEN)
@every_template
def test_a_broken_call_is_shown_to_the_model_as_it_wrote_it(
    example: Example, arguments: str
) -> None:
    calls = (ToolCall(id="a", name="get_weather", arguments=arguments),)
    calling = dataclasses.replace(CALLING, tool_calls=calls)
    result = dataclasses.replace(RESULT, content="no such city", tool_call_id="a")
    text = template(example).render((QUESTION, calling, result, QUESTION), TOOLS)
    between = text[text.index("Weather in Köln?") : text.rindex("no such city")]
    assert "get_weather" in between
    assert arguments in between


@every_template
def test_half_a_call_beside_a_whole_one_is_no_reason_to_refuse(example: Example) -> None:
    calls = (*CALLING.tool_calls, ToolCall(id="b", name="", arguments='{"city": "Bo'))
    calling = dataclasses.replace(CALLING, tool_calls=calls)
    second = dataclasses.replace(RESULT, content="not JSON", tool_call_id="b")
    text = template(example).render((QUESTION, calling, RESULT, second, QUESTION), TOOLS)
    for fragment in ("Köln", '{"city": "Bo', "12 degrees", "not JSON"):
        assert fragment in text


@every_template
def test_a_result_that_nobody_asked_for_is_shown(example: Example) -> None:
    result = dataclasses.replace(RESULT, tool_call_id=None)
    assert "12 degrees" in template(example).render((QUESTION, result, QUESTION), TOOLS)
    assert "12 degrees" in template(example).render((QUESTION, result, QUESTION))
