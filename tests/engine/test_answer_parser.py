"""Answers are parsed: text, reasoning and calls, however they are cut into tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import Event, Token, ToolCallBegan
from localllm.engine.worker.parsing import syntax
from localllm.engine.worker.parsing.formats import (
    DEEPSEEK,
    GEMMA4,
    GRANITE,
    HARMONY,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    PLAIN,
    QWEN_CODER,
    THINK,
    ToolFormat,
)
from localllm.engine.worker.parsing.parser import TaggedAnswerParser
from tests.engine.tool_formats import (
    EXAMPLES,
    KOELN,
    Example,
    arguments,
    began,
    call,
    parse,
    parser_for,
    push,
    reasoning,
    text,
)

ids = [example.template for example in EXAMPLES]
every_format = pytest.mark.parametrize("example", EXAMPLES, ids=ids)


def cut(text: str, places: list[int]) -> list[str]:
    bounds = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *bounds], [*bounds, len(text)], strict=True)]


@every_format
def test_every_format_is_parsed(example: Example) -> None:
    parser = parser_for(example.tool_format, example.tags)
    assert parse(parser, [example.answer]) == list(example.events)
    assert parser.complete_calls == len([e for e in example.events if isinstance(e, ToolCallBegan)])


@every_format
def test_character_by_character_it_is_the_same(example: Example) -> None:
    for constrained in (False, True):
        parser = parser_for(example.tool_format, example.tags, constrained=constrained)
        assert parse(parser, list(example.answer)) == list(example.events)
        calls = [e for e in example.events if isinstance(e, ToolCallBegan)]
        assert parser.complete_calls == len(calls)


_FRAGMENTS = sorted(
    {
        example.answer[a:b]
        for example in EXAMPLES
        for a in range(0, len(example.answer), 7)
        for b in (a + 3, a + 20, len(example.answer))
    }
)
_answers = st.lists(
    st.one_of(st.sampled_from(_FRAGMENTS), st.sampled_from(["{", "}", " ", "\n", "<", "[", "é🙂"])),
    max_size=8,
).map("".join)


@given(
    st.sampled_from(EXAMPLES),
    _answers,
    st.lists(st.integers(0, 10_000), max_size=20),
    st.booleans(),
    st.booleans(),
)
def test_any_split_gives_the_same_events(
    example: Example, answer: str, places: list[int], constrained: bool, opened: bool
) -> None:
    def events(pieces: list[str]) -> list[Event]:
        parser = parser_for(
            example.tool_format, example.tags, constrained=constrained, reasoning=opened
        )
        return parse(parser, pieces)

    assert events(cut(answer, places)) == events([answer])


@given(st.sampled_from(EXAMPLES), _answers)
def test_what_is_no_call_stays_text_to_the_last_character(example: Example, answer: str) -> None:
    events = parse(parser_for(example.tool_format, example.tags), [answer])
    answer_text = "".join(event.text for event in events if isinstance(event, Token))
    if all(isinstance(event, Token) for event in events) and example.tags is None:
        if example.tool_format is HARMONY:
            return
        assert answer_text == answer
    characters = iter(answer)  # nothing comes twice, nor in another order
    assert all(character in characters for character in answer_text)


@given(st.text(alphabet='ab<>{}[]`"\n |', max_size=60), st.sampled_from(EXAMPLES))
def test_without_tools_and_reasoning_an_answer_is_text(answer: str, example: Example) -> None:
    parser = TaggedAnswerParser(example.tool_format, None, {})
    assert parse(parser, list(answer)) == ([text(answer)] if answer else [])


MALFORMED = [
    (HERMES, '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
    (HERMES, '<tool_call>\n{"name": "now", "arguments": {"a": }}\n</tool_call>'),
    (HERMES, '<tool_call>\n{"name": "now", "arguments": [1]}\n</tool_call>'),
    (HERMES, '<tool_call>\n{"name": "now", "argu'),
    (HERMES, "<tool_call>"),
    (HERMES, '<tool_call>{"function": "now"}</tool_call>'),
    (QWEN_CODER, "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
    (QWEN_CODER, "<tool_call>\n<function=now>\n<param"),
    (GRANITE, '<|tool_call|>[{"name": "now", "arguments": {}'),
    (GRANITE, "<|tool_call|>[]"),
    (LLAMA3, '{"name": "unknown", "parameters": {}}'),
    (LLAMA3, '{"name": "Ann", "age": 4}'),
    (LLAMA3, "<|python_tag|>print(1)"),
    (MISTRAL, "[TOOL_CALLS] none of them"),
    (MISTRAL_ARGS, "[TOOL_CALLS]now[ARGS]{"),
    (MISTRAL_ARGS, "[TOOL_CALLS]unknown[ARGS]{}"),
    (DEEPSEEK, f"{syntax.DEEPSEEK_CALLS_BEGIN}{syntax.DEEPSEEK_CALL_BEGIN}function"),
    (GEMMA4, "<|tool_call>call:now{a:<|"),
    (GEMMA4, "<|tool_call>call:now{a:yes}<tool_call|>"),
    (PLAIN, '[{"name": "now"}, 1'),
    (PLAIN, "```python\nprint(1)\n```"),
    (PLAIN, "[1] is a footnote."),
]


@pytest.mark.parametrize(("tool_format", "answer"), MALFORMED)
def test_what_is_malformed_is_text_and_nothing_of_it_is_lost(
    tool_format: ToolFormat, answer: str
) -> None:
    answer_text = f"Well, {answer} there." if not tool_format.bare_starts else f"{answer} there."
    events = parse(parser_for(tool_format, None), list(answer_text))
    if tool_format is PLAIN and answer.startswith("[{"):  # the first call of the list is complete
        assert events == [*call("now", "{}"), text(", 1 there.")]
    else:
        assert events == [text(answer_text)]


def test_a_call_that_is_cut_is_text_unless_a_grammar_vouches_for_it() -> None:
    cut = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kö'
    assert parse(parser_for(HERMES, None), [cut]) == [text(cut)]
    constrained = parser_for(HERMES, None, constrained=True)
    assert parse(constrained, list(cut)) == [began("get_weather"), arguments('{"city": "Kö')]
    assert constrained.complete_calls == 0


def test_with_a_grammar_arguments_come_piece_by_piece() -> None:
    parser = parser_for(HERMES, None, constrained=True)
    assert push(parser, '<tool_call>\n{"name": "get_weather", "arguments": {"ci') == [
        began("get_weather"),
        arguments('{"ci'),
    ]
    assert push(parser, 'ty": "K') == [arguments('ty": "K')]


def test_without_one_a_call_comes_when_it_is_complete() -> None:
    parser = parser_for(HERMES, None)
    assert push(parser, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "K"}') == []
    assert push(parser, "}") == list(call("get_weather", '{"city": "K"}'))


def test_a_grammar_that_comes_in_the_middle_releases_what_was_held_back() -> None:
    parser = parser_for(HERMES, None)
    assert push(parser, '<tool_call>\n{"name": "get_weather", "arguments": {"ci') == []
    assert parser.call_prefix == '<tool_call>\n{"name": "get_weather", "arguments": {"ci'
    parser.constrain(True)
    assert push(parser, "t") == [began("get_weather"), arguments('{"cit')]
    assert parser.call_prefix is None


def test_a_bare_object_is_a_call_for_sure_only_when_its_name_is_known() -> None:
    parser = parser_for(LLAMA3, None)
    push(parser, '{"name": ')
    assert parser.call_prefix is None
    push(parser, '"now"')
    assert parser.call_prefix == '{"name": "now"'


def test_arguments_may_be_a_json_text_in_a_string() -> None:
    answer = '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"K\\"}"}</tool_call>'
    assert parse(parser_for(HERMES, None), [answer]) == list(call("get_weather", '{"city": "K"}'))


def test_a_built_in_call_of_llama_3_is_read() -> None:
    answer = '<|python_tag|>get_weather.call(city="Köln )\\"", days="2")'
    arguments = '{"city": "Köln )\\"", "days": "2"}'
    assert parse(parser_for(LLAMA3, None), [answer]) == list(call("get_weather", arguments))


def test_text_goes_on_after_a_call() -> None:
    answer = f'<tool_call>{{"name": "get_weather", "arguments": {KOELN}}}</tool_call>\n\nDone. '
    assert parse(parser_for(HERMES, None), list(answer)) == [
        *call("get_weather", KOELN),
        text("Done. "),
    ]


def test_reasoning_that_the_prompt_has_opened_ends_at_its_tag() -> None:
    parser = parser_for(HERMES, THINK, reasoning=True)
    assert parse(parser, list("\nHm,\nwell.\n</think>\n\nYes.\n")) == [
        reasoning("Hm,\nwell."),
        text("Yes.\n"),
    ]


def test_reasoning_that_never_ends_is_no_text() -> None:
    assert parse(parser_for(HERMES, THINK), ["<think>\nand so on"]) == [reasoning("and so on")]


def test_an_opening_tag_in_the_middle_of_a_text_is_text() -> None:
    answer = "Write <think> first."
    assert parse(parser_for(HERMES, THINK), list(answer)) == [text(answer)]


def test_an_answer_of_harmony_without_channels_is_text() -> None:
    assert parse(parser_for(HARMONY, None), list("Just text.")) == [text("Just text.")]


def test_a_call_of_harmony_to_nobody_is_text() -> None:
    answer = "<|channel|>commentary to=functions.nobody <|constrain|>json<|message|>{}"
    assert parse(parser_for(HARMONY, None), list(answer)) == [text(answer)]


def test_a_call_of_harmony_that_is_no_object_is_text() -> None:
    answer = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>[1]"
    assert parse(parser_for(HARMONY, None), list(answer)) == [text(answer)]


@pytest.mark.parametrize("end", ["", "<", " <|e"])
def test_a_call_of_harmony_that_is_cut_comes_once(end: str) -> None:
    header = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>"
    answer = header + '{"a": "b' + end
    assert parse(parser_for(HARMONY, None), [answer]) == [text(answer)]
    constrained = parser_for(HARMONY, None, constrained=True)
    assert parse(constrained, [answer]) == [began("now"), arguments('{"a": "b' + end)]


def test_an_object_without_a_name_adds_nothing_to_the_call_before_it() -> None:
    one_call = '{"name": "now", "arguments": {}}'
    parser = parser_for(LLAMA3, None, constrained=True)
    assert parse(parser, [f"{one_call}; {{}}"]) == [*call("now", "{}"), text("; {}")]


@pytest.mark.parametrize("answer", ["<", "t", " <|sta", "\n"])
def test_what_could_have_become_a_header_of_harmony_is_text_in_the_end(answer: str) -> None:
    assert parse(parser_for(HARMONY, None), [answer]) == [text(answer)]
