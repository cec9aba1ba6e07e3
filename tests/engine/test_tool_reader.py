"""Answers are read: text, reasoning and calls, however they are cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.parsing import syntax
from localllm.engine.worker.parsing.call_section import (
    CallArguments,
    CallBegan,
    Part,
    Text,
    Thought,
    joined,
)
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
    Family,
)
from localllm.engine.worker.parsing.parser import TextReader
from tests.engine.tool_families import EXAMPLES, KOELN, Example, call, read, reader

ids = [example.template for example in EXAMPLES]
every_family = pytest.mark.parametrize("example", EXAMPLES, ids=ids)


def cut(text: str, places: list[int]) -> list[str]:
    bounds = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *bounds], [*bounds, len(text)], strict=True)]


@every_family
def test_every_family_is_read(example: Example) -> None:
    assert read(reader(example.family, example.fence), [example.answer]) == list(example.parts)


@every_family
def test_character_by_character_it_reads_the_same(example: Example) -> None:
    for trusted in (False, True):
        pieces = list(example.answer)
        parts = read(reader(example.family, example.fence, trusted=trusted), pieces)
        assert parts == list(example.parts)


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
def test_any_split_gives_the_same_parts(
    example: Example, answer: str, places: list[int], trusted: bool, thinking: bool
) -> None:
    def parts(pieces: list[str]) -> list[Part]:
        one = reader(example.family, example.fence, trusted=trusted, thinking=thinking)
        return read(one, pieces)

    assert parts(cut(answer, places)) == parts([answer])


@given(st.sampled_from(EXAMPLES), _answers)
def test_what_is_no_call_stays_text_to_the_last_character(example: Example, answer: str) -> None:
    parts = read(reader(example.family, example.fence), [answer])
    text = "".join(part.text for part in parts if isinstance(part, Text))
    if all(isinstance(part, Text) for part in parts) and example.fence is None:
        if example.family is HARMONY:
            return
        assert text == answer
    characters = iter(answer)  # nothing is said twice, nor in another order
    assert all(character in characters for character in text)


@given(st.text(alphabet='ab<>{}[]`"\n |', max_size=60), st.sampled_from(EXAMPLES))
def test_without_tools_and_reasoning_an_answer_is_what_it_is(text: str, example: Example) -> None:
    assert read(TextReader(example.family, None, {}), list(text)) == joined([Text(text)])


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
    (DEEPSEEK, f"{syntax.CALLS_BEGIN}{syntax.CALL_BEGIN}function"),
    (GEMMA4, "<|tool_call>call:now{a:<|"),
    (GEMMA4, "<|tool_call>call:now{a:yes}<tool_call|>"),
    (PLAIN, '[{"name": "now"}, 1'),
    (PLAIN, "```python\nprint(1)\n```"),
    (PLAIN, "[1] is a footnote."),
]


@pytest.mark.parametrize(("family", "answer"), MALFORMED)
def test_what_is_malformed_is_text_and_nothing_of_it_is_lost(family: Family, answer: str) -> None:
    said = f"Well, {answer} there." if not family.bare else f"{answer} there."
    parts = read(reader(family, None), list(said))
    if family is PLAIN and answer.startswith("[{"):  # the first call of the list is complete
        assert parts == [*call("now", "{}"), Text(", 1 there.")]
    else:
        assert parts == [Text(said)]


def test_a_call_that_is_cut_is_text_unless_a_grammar_vouches_for_it() -> None:
    cut = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Kö'
    assert read(reader(HERMES, None), [cut]) == [Text(cut)]
    trusted = reader(HERMES, None, trusted=True)
    assert read(trusted, list(cut)) == [CallBegan("get_weather"), CallArguments('{"city": "Kö')]


def test_with_a_grammar_arguments_come_piece_by_piece() -> None:
    one = reader(HERMES, None, trusted=True)
    assert one.push('<tool_call>\n{"name": "get_weather", "arguments": {"ci') == [
        CallBegan("get_weather"),
        CallArguments('{"ci'),
    ]
    assert one.push('ty": "K') == [CallArguments('ty": "K')]


def test_without_one_a_call_comes_when_it_is_complete() -> None:
    one = reader(HERMES, None)
    assert one.push('<tool_call>\n{"name": "get_weather", "arguments": {"city": "K"}') == []
    assert one.push("}") == list(call("get_weather", '{"city": "K"}'))


def test_trust_that_comes_in_the_middle_lets_go_what_was_held() -> None:
    one = reader(HERMES, None)
    assert one.push('<tool_call>\n{"name": "get_weather", "arguments": {"ci') == []
    assert one.calling == '<tool_call>\n{"name": "get_weather", "arguments": {"ci'
    one.trust()
    assert one.push("t") == [CallBegan("get_weather"), CallArguments('{"cit')]
    assert one.calling is None


def test_a_bare_object_is_a_call_for_sure_only_when_its_name_is_known() -> None:
    one = reader(LLAMA3, None)
    one.push('{"name": ')
    assert one.calling is None
    one.push('"now"')
    assert one.calling == '{"name": "now"'


def test_arguments_may_be_a_json_text_in_a_string() -> None:
    answer = '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"K\\"}"}</tool_call>'
    assert read(reader(HERMES, None), [answer]) == list(call("get_weather", '{"city": "K"}'))


def test_a_built_in_call_of_llama_3_is_read() -> None:
    answer = '<|python_tag|>get_weather.call(city="Köln )\\"", days="2")'
    arguments = '{"city": "Köln )\\"", "days": "2"}'
    assert read(reader(LLAMA3, None), [answer]) == list(call("get_weather", arguments))


def test_text_goes_on_after_a_call() -> None:
    answer = f'<tool_call>{{"name": "get_weather", "arguments": {KOELN}}}</tool_call>\n\nDone. '
    assert read(reader(HERMES, None), list(answer)) == [
        *call("get_weather", KOELN),
        Text("Done. "),
    ]


def test_reasoning_that_the_prompt_has_opened_ends_at_the_fence() -> None:
    one = reader(HERMES, THINK, thinking=True)
    assert read(one, list("\nHm,\nwell.\n</think>\n\nYes.\n")) == [
        Thought("Hm,\nwell."),
        Text("Yes.\n"),
    ]


def test_reasoning_that_never_ends_is_no_text() -> None:
    assert read(reader(HERMES, THINK), ["<think>\nand so on"]) == [Thought("and so on")]


def test_a_fence_in_the_middle_of_a_text_is_text() -> None:
    text = "Write <think> first."
    assert read(reader(HERMES, THINK), list(text)) == [Text(text)]


def test_an_answer_of_harmony_without_channels_is_text() -> None:
    assert read(reader(HARMONY, None), list("Just text.")) == [Text("Just text.")]


def test_a_call_of_harmony_to_nobody_is_text() -> None:
    answer = "<|channel|>commentary to=functions.nobody <|constrain|>json<|message|>{}"
    assert read(reader(HARMONY, None), list(answer)) == [Text(answer)]


def test_a_call_of_harmony_that_is_no_object_is_text() -> None:
    answer = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>[1]"
    assert read(reader(HARMONY, None), list(answer)) == [Text(answer)]


@pytest.mark.parametrize("text", ["<", "t", " <|sta", "\n"])
def test_what_could_have_become_a_header_of_harmony_is_text_in_the_end(text: str) -> None:
    assert read(reader(HARMONY, None), [text]) == [Text(text)]
