"""From tokens to events: markers that write nothing are seen, a call that has begun is bound."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.engine.messages import (
    Event,
    FinishReason,
    GenerateRequest,
    Message,
    Reasoning,
    Role,
    Token,
    Tool,
    ToolCallArguments,
    ToolCallBegan,
    ToolChoice,
    ToolMode,
)
from localllm.engine.worker.parsing.answer_events import Speech
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.parsing.formats import (
    HERMES,
    MISTRAL_ARGS,
    MISTRAL_THINK,
    PLAIN,
    THINK,
    Family,
)
from localllm.engine.worker.parsing.model_format import Dialect
from localllm.engine.worker.sampling.grammar import Constraint, GrammarCompiler
from tests.engine.stepped_scheduler import SteppedScheduler, settings
from tests.engine.tool_families import SCHEMAS

TOOLS = tuple(Tool(name=name, parameters=json.dumps(each)) for name, each in SCHEMAS.items())
ASKED = GenerateRequest(
    request_id="a", messages=(Message(role=Role.USER, content="Well?"),), tools=TOOLS
)


class Words:
    """A vocabulary of markers, which write nothing, and of single characters."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]:
        if special and text in self._markers:
            return [self._markers.index(text)]
        return [1000 + ord(character) for character in text]

    def piece(self, token: int) -> bytes:
        return b"" if token < 1000 else chr(token - 1000).encode()


def heard(speech: Speech, words: Words, tokens: list[int]) -> list[Event]:
    """The events of an answer of these tokens."""
    text, found = IncrementalDetokenizer(), []
    for token in tokens:
        said = text.push(words.piece(token) or speech.piece(token))
        found += speech.say(Token(request_id="a", text=said))
    return [*found, *speech.say_rest(Token(request_id="a", text=text.finish()))]


def test_markers_that_write_nothing_are_seen() -> None:
    words = Words("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")
    manner = Dialect(MISTRAL_ARGS, MISTRAL_THINK, words).manner(ASKED, [])
    assert manner is not None
    speech = manner.speech()
    tokens = [2, *words.tokenize("Hm", special=False), 3, 0]
    tokens += [*words.tokenize("now", special=False), 1, *words.tokenize("{}", special=False)]
    found = heard(speech, words, tokens)
    assert "".join(e.text for e in found if isinstance(e, Reasoning)) == "Hm"
    assert [e.name for e in found if isinstance(e, ToolCallBegan)] == ["now"]
    assert "".join(e.text for e in found if isinstance(e, ToolCallArguments)) == "{}"
    assert "".join(e.text for e in found if isinstance(e, Token)) == ""
    assert sum(isinstance(e, Token) for e in found) == len(tokens)
    assert speech.reason(FinishReason.STOP) is FinishReason.TOOL_CALLS
    assert speech.reason(FinishReason.LENGTH) is FinishReason.LENGTH


def test_one_call_ends_an_answer_that_may_have_no_more() -> None:
    words = Words()
    once = GenerateRequest(
        request_id="a", messages=ASKED.messages, tools=TOOLS, parallel_tool_calls=False
    )
    manner = Dialect(HERMES, None, words).manner(once, [])
    assert manner is not None
    speech = manner.speech()
    one = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    found = heard(speech, words, words.tokenize(one + one, special=False))
    assert sum(isinstance(e, ToolCallBegan) for e in found) == 1
    assert speech.ended


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(request_id="a", prompt="x"),
        GenerateRequest(request_id="a", messages=ASKED.messages),
        GenerateRequest(
            request_id="a",
            messages=ASKED.messages,
            tools=TOOLS,
            tool_choice=ToolChoice(mode=ToolMode.NONE),
        ),
    ],
)
def test_an_answer_without_tools_of_a_model_that_does_not_reason_is_not_looked_into(
    request_: GenerateRequest,
) -> None:
    assert Dialect(PLAIN, None, Words()).manner(request_, []) is None


def test_a_fence_that_the_prompt_has_opened_is_seen_in_its_last_tokens() -> None:
    words = Words("<think>")
    dialect = Dialect(HERMES, THINK, words)
    newline = words.tokenize("\n", special=False)
    assert dialect.is_thinking([*words.tokenize("Yes?", special=False), 0, *newline])
    assert not dialect.is_thinking([0, *words.tokenize("\n\n</think>\n\n", special=False)])


@pytest.fixture(scope="module")
def starter(smollm2: Path) -> Iterator[SteppedScheduler]:
    driven = SteppedScheduler(smollm2, settings())
    yield driven
    driven.close()


def say(
    speech: Speech, driven: SteppedScheduler, answer: str
) -> tuple["Constraint | None", list[Event]]:
    """What binds the answer after it was said freely, token by token."""
    text, constraint, found = IncrementalDetokenizer(), None, []
    for token in driven.model.vocab.tokenize(answer, special=False, ends=False):
        if constraint is not None:
            assert token in constraint.allowed()
        complete = constraint is not None and not constraint.accept(token)
        found += speech.say(Token(request_id="a", text=text.push(driven.model.vocab.piece(token))))
        constraint = speech.next_constraint(constraint, complete=complete, text=text)
    return constraint, found


def begin(
    driven: SteppedScheduler, request: GenerateRequest = ASKED, *, family: Family = HERMES
) -> Speech:
    """The speech of a free answer in the starter model's vocabulary."""
    manner = Dialect(family, None, driven.model.vocab).manner(request, [])
    assert manner is not None
    assert manner.calls is not None
    speech = manner.speech()
    (speech.calls,) = GrammarCompiler(driven.model.vocab).start(manner.calls)
    return speech


def test_a_call_that_has_begun_is_bound_to_its_schema_and_streams(
    starter: SteppedScheduler,
) -> None:
    speech = begin(starter)
    assert say(speech, starter, "Let me look. ")[0] is None
    bound, found = say(speech, starter, '<tool_call>\n{"name": "get_weather", "arguments": {"')
    assert bound is not None
    assert [e.name for e in found if isinstance(e, ToolCallBegan)] == ["get_weather"]
    assert "".join(e.text for e in found if isinstance(e, ToolCallArguments)) == '{"'
    allowed = {starter.model.vocab.piece(int(token)) for token in bound.allowed()}
    assert b"city" in allowed
    assert b"weeks" not in allowed
    assert b'"' not in allowed


def test_after_a_bound_call_the_model_is_free_again_and_the_next_one_is_bound(
    starter: SteppedScheduler,
) -> None:
    speech = begin(starter)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    free, found = say(speech, starter, call + "\nSo.")
    assert free is None
    bound, more = say(speech, starter, ' <tool_call>\n{"name": "now", "arguments": {}')
    assert bound is not None
    assert [e.call for e in [*found, *more] if isinstance(e, ToolCallBegan)] == [0, 1]


def test_a_call_in_another_form_than_the_familys_is_not_bound_but_read(
    starter: SteppedScheduler,
) -> None:
    speech = begin(starter, family=PLAIN)
    free, found = say(speech, starter, '{"arguments": {}, "name": "now"}')
    assert free is None
    assert [e.name for e in found if isinstance(e, ToolCallBegan)] == ["now"]


def test_a_schema_that_cannot_be_followed_leaves_the_call_unbound(
    starter: SteppedScheduler,
) -> None:
    odd = Tool(name="now", parameters='{"properties": {"a": {"not": {}}}}')
    request = GenerateRequest(request_id="a", messages=ASKED.messages, tools=(odd,))
    speech = begin(starter, request)
    free, found = say(
        speech, starter, '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>'
    )
    assert free is None
    assert "".join(e.text for e in found if isinstance(e, ToolCallArguments)) == '{"a": 1}'
