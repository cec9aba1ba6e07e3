"""From tokens to events: the parser sees control tokens, a call that has begun is constrained."""

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
from localllm.engine.worker.parsing.answer_events import AnswerEvents
from localllm.engine.worker.parsing.detokenizer import IncrementalDetokenizer
from localllm.engine.worker.parsing.formats import (
    HERMES,
    MISTRAL_ARGS,
    MISTRAL_THINK,
    PLAIN,
    THINK,
    ToolFormat,
)
from localllm.engine.worker.parsing.model_format import AnswerFormat, ModelFormat
from localllm.engine.worker.sampling.grammar import Constraint, GrammarCompiler
from tests.engine.stepped_scheduler import SteppedScheduler, settings
from tests.engine.tool_formats import SCHEMAS

TOOLS = tuple(Tool(name=name, parameters=json.dumps(each)) for name, each in SCHEMAS.items())
REQUEST = GenerateRequest(
    request_id="a", messages=(Message(role=Role.USER, content="Well?"),), tools=TOOLS
)


class CharacterVocabulary:
    """A vocabulary of control tokens, which have no bytes, and of single characters."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers

    def tokenize(self, text: str, *, special: bool, ends: bool = True) -> list[int]:
        if special and text in self._markers:
            return [self._markers.index(text)]
        return [1000 + ord(character) for character in text]

    def piece(self, token: int) -> bytes:
        return b"" if token < 1000 else chr(token - 1000).encode()


def events_of(
    answer: AnswerEvents, vocabulary: CharacterVocabulary, tokens: list[int]
) -> list[Event]:
    """The events of an answer of these tokens."""
    stream, events = IncrementalDetokenizer(), []
    for token in tokens:
        text = stream.push(vocabulary.piece(token) or answer.marker(token))
        events += answer.push(Token(request_id="a", text=text), token)
    return [*events, *answer.finish(Token(request_id="a", text=stream.finish()))]


def test_markers_that_are_control_tokens_are_parsed() -> None:
    words = CharacterVocabulary("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")
    answer = ModelFormat(MISTRAL_ARGS, MISTRAL_THINK, words).answer_format(REQUEST, []).new_events()
    tokens = [2, *words.tokenize("Hm", special=False), 3, 0]
    tokens += [*words.tokenize("now", special=False), 1, *words.tokenize("{}", special=False)]
    found = events_of(answer, words, tokens)
    assert "".join(e.text for e in found if isinstance(e, Reasoning)) == "Hm"
    assert [e.name for e in found if isinstance(e, ToolCallBegan)] == ["now"]
    assert "".join(e.text for e in found if isinstance(e, ToolCallArguments)) == "{}"
    assert "".join(e.text for e in found if isinstance(e, Token)) == ""
    assert sum(isinstance(e, Token) for e in found) == len(tokens)
    assert answer.finish_reason(FinishReason.STOP) is FinishReason.TOOL_CALLS
    assert answer.finish_reason(FinishReason.LENGTH) is FinishReason.LENGTH


def test_one_call_ends_an_answer_that_may_have_no_more() -> None:
    words = CharacterVocabulary()
    once = GenerateRequest(
        request_id="a", messages=REQUEST.messages, tools=TOOLS, parallel_tool_calls=False
    )
    answer = ModelFormat(HERMES, None, words).answer_format(once, []).new_events()
    one = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    found = events_of(answer, words, words.tokenize(one + one, special=False))
    assert sum(isinstance(e, ToolCallBegan) for e in found) == 1
    assert answer.ended


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(request_id="a", prompt="x"),
        GenerateRequest(request_id="a", messages=REQUEST.messages),
        GenerateRequest(
            request_id="a",
            messages=REQUEST.messages,
            tools=TOOLS,
            tool_choice=ToolChoice(mode=ToolMode.NONE),
        ),
    ],
)
def test_an_answer_without_tools_of_a_model_that_does_not_reason_is_text(
    request_: GenerateRequest,
) -> None:
    model_format = ModelFormat(PLAIN, None, CharacterVocabulary())
    assert model_format.answer_format(request_, []) == AnswerFormat()


def test_reasoning_that_the_prompt_has_opened_is_seen_in_its_last_tokens() -> None:
    words = CharacterVocabulary("<think>")
    model_format = ModelFormat(HERMES, THINK, words)
    newline = words.tokenize("\n", special=False)
    assert model_format.opens_reasoning([*words.tokenize("Yes?", special=False), 0, *newline])
    closed = [0, *words.tokenize("\n\n</think>\n\n", special=False)]
    assert not model_format.opens_reasoning(closed)


@pytest.fixture(scope="module")
def starter(shallow_smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(shallow_smollm2, settings())
    yield stepped
    stepped.close()


@pytest.fixture(scope="module")
def compiler(starter: SteppedScheduler) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(starter.model.vocab)
    yield compiler
    compiler.close()


def write(
    answer: AnswerEvents, stepped: SteppedScheduler, text: str
) -> tuple["Constraint | None", list[Event]]:
    """Push a text token by token; return what constrains the next one, and the events."""
    stream, constraint, found = IncrementalDetokenizer(), None, []
    for token in stepped.model.vocab.tokenize(text, special=False, ends=False):
        if constraint is not None:
            assert token in constraint.allowed()
        complete = constraint is not None and not constraint.accept(token)
        found += answer.push(
            Token(request_id="a", text=stream.push(stepped.model.vocab.piece(token))), token
        )
        constraint = answer.next_constraint(constraint, complete=complete, text=stream)
    return constraint, found


def begin(
    stepped: SteppedScheduler,
    compiler: GrammarCompiler,
    request: GenerateRequest = REQUEST,
    *,
    tool_format: ToolFormat = HERMES,
) -> AnswerEvents:
    """The events of an answer that is free to call, in the starter model's vocabulary."""
    answer_format = ModelFormat(tool_format, None, stepped.model.vocab).answer_format(request, [])
    assert answer_format.forced is None
    assert answer_format.lazy is not None
    answer = answer_format.new_events()
    (calls,) = compiler.start(answer_format.lazy)
    answer.attach(calls)
    return answer


def test_a_call_that_has_begun_is_constrained_to_its_schema_and_streams(
    starter: SteppedScheduler, compiler: GrammarCompiler
) -> None:
    answer = begin(starter, compiler)
    assert write(answer, starter, "Let me look. ")[0] is None
    constraint, found = write(
        answer, starter, '<tool_call>\n{"name": "get_weather", "arguments": {"'
    )
    assert constraint is not None
    assert [e.name for e in found if isinstance(e, ToolCallBegan)] == ["get_weather"]
    assert "".join(e.text for e in found if isinstance(e, ToolCallArguments)) == '{"'
    allowed = {starter.model.vocab.piece(int(token)) for token in constraint.allowed()}
    assert b"city" in allowed
    assert b"weeks" not in allowed
    assert b'"' not in allowed


def test_after_a_constrained_call_the_model_is_free_again_and_the_next_one_is_constrained(
    starter: SteppedScheduler, compiler: GrammarCompiler
) -> None:
    answer = begin(starter, compiler)
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    free, found = write(answer, starter, call + "\nSo.")
    assert free is None
    constraint, more = write(answer, starter, ' <tool_call>\n{"name": "now", "arguments": {}')
    assert constraint is not None
    assert [e.call for e in [*found, *more] if isinstance(e, ToolCallBegan)] == [0, 1]


def test_a_call_in_another_form_than_the_formats_is_not_constrained_but_parsed(
    starter: SteppedScheduler, compiler: GrammarCompiler
) -> None:
    answer = begin(starter, compiler, tool_format=PLAIN)
    free, found = write(answer, starter, '{"arguments": {}, "name": "now"}')
    assert free is None
    assert [e.name for e in found if isinstance(e, ToolCallBegan)] == ["now"]


def test_what_cannot_be_followed_of_a_schema_is_left_free_and_the_call_is_bound(
    starter: SteppedScheduler, compiler: GrammarCompiler
) -> None:
    odd = Tool(name="now", parameters='{"properties": {"a": {"not": {"type": "null"}}}}')
    request = GenerateRequest(request_id="a", messages=REQUEST.messages, tools=(odd,))
    answer = begin(starter, compiler, request)
    bound, found = write(answer, starter, '<tool_call>\n{"name": "now", "arguments": {"a": 1}')
    assert bound is not None
    assert bound.unenforced == {"now": ("`not` at #/properties/a",)}
    assert answer.calls_are_bound
    assert "".join(e.text for e in found if isinstance(e, ToolCallArguments)) == '{"a": 1}'
