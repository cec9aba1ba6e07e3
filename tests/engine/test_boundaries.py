"""Where the sections of a prompt begin: before the control token of each message."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import GenerateRequest, Message, Role
from localllm.engine.worker.prompt.boundaries import Section, find_sections, place_boundaries
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.prompt_builder import PromptBuilder
from tests.engine.test_prompt_builder import CONTROL, CharacterVocabulary

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}<assistant><think>\n"
)
VOCABULARY = CharacterVocabulary()
WORDS = frozenset(word.encode() for word in CONTROL)


def _message(role: Role, text: str) -> Message:
    return Message(role=role, content=text)


def test_each_message_and_the_answer_begin_at_a_control_token() -> None:
    builder = PromptBuilder(VOCABULARY, ChatTemplate(TEMPLATE), context=512)
    messages = (
        _message(Role.SYSTEM, "Be brief."),
        _message(Role.USER, " user "),
        _message(Role.ASSISTANT, "Ünïcode: <user>"),
        _message(Role.USER, "?"),
    )
    prompt = builder.build(GenerateRequest(request_id="1", messages=messages))
    found = [(prompt.tokens[each.position], each.section) for each in prompt.boundaries]
    assert found == [
        (CONTROL["<system>"], Section.SYSTEM),
        (CONTROL["<user>"], Section.USER),
        (CONTROL["<assistant>"], Section.ASSISTANT),
        (CONTROL["<user>"], Section.USER),
        (CONTROL["<assistant>"], Section.ANSWER),
    ]
    assert len({each.position for each in prompt.boundaries}) == len(prompt.boundaries)


def test_a_prompt_without_a_conversation_has_no_boundaries() -> None:
    builder = PromptBuilder(VOCABULARY, None, context=512)
    assert builder.build(GenerateRequest(request_id="1", prompt="<user>Well?")).boundaries == ()


def test_a_text_that_the_template_has_changed_has_no_boundary() -> None:
    messages = [(Role.USER, "loud"), (Role.TOOL, "")]
    spans = find_sections("<user>LOUD<assistant>", messages, None)
    assert [span.section for span in spans] == [Section.ANSWER]


def test_tokens_that_do_not_spell_the_text_have_no_boundaries() -> None:
    text = "<user>Well?"
    spans = find_sections(text, [(Role.USER, "Well?")], None)
    tokens = VOCABULARY.tokenize("<user>Well!", special=True)
    assert place_boundaries(text, spans, tokens, VOCABULARY.written, WORDS) == ()


@given(st.lists(st.tuples(st.sampled_from(Role), st.text(alphabet="us er<>é?", max_size=12))))
def test_boundaries_rise_and_stay_when_the_conversation_goes_on(
    messages: list[tuple[Role, str]],
) -> None:
    text = "".join(f"<{role.value}>{content}" for role, content in messages)

    def placed(text: str, messages: list[tuple[Role, str]]) -> list[tuple[int, Section]]:
        tokens = VOCABULARY.tokenize(text, special=True)
        spans = find_sections(text, messages, None)
        boundaries = place_boundaries(text, spans, tokens, VOCABULARY.written, WORDS)
        assert all(0 <= each.position <= len(tokens) for each in boundaries)
        assert all(a.position < b.position for a, b in pairwise(boundaries))
        return [(each.position, each.section) for each in boundaries]

    before = placed(text, messages)
    after = placed(f"{text}<user>next", [*messages, (Role.USER, "next")])
    if before[-1][1] is Section.ANSWER:
        before = before[:-1]
    assert after[: len(before)] == before
