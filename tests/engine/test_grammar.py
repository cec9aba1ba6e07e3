"""Answers that must look like something do, whatever the model would rather say."""

import asyncio
import json
import re
from dataclasses import replace

import jsonschema
import pytest

from localllm.engine.client import ProcessEngine
from localllm.engine.events import FinishReason, Grammar, GrammarKind, Sampling
from localllm.errors import BadRequest
from tests.engine.answers import ask, collect
from tests.engine.schemas import SCHEMAS

pytestmark = pytest.mark.asyncio(loop_scope="module")

WILD = Sampling(temperature=1.2, seed=7)


async def answer(
    engine: ProcessEngine,
    name: str,
    grammar: Grammar,
    *,
    question: str = "Give me an example.",
    max_tokens: int = 300,
    sampling: Sampling = WILD,
) -> tuple[str, FinishReason]:
    request = ask(name, question, max_tokens=max_tokens, sampling=sampling)
    text, done, _ = await collect(engine, replace(request, grammar=grammar))
    return text, done.reason


def schema(document: object) -> Grammar:
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(document))


async def test_every_answer_validates_against_its_schema(engine: ProcessEngine) -> None:
    assert len(SCHEMAS) >= 40
    answers = await asyncio.gather(
        *(answer(engine, f"schema {name}", schema(each)) for name, each in SCHEMAS.items())
    )
    for (name, each), (text, reason) in zip(SCHEMAS.items(), answers, strict=True):
        assert reason is FinishReason.STOP, (name, text)
        jsonschema.validate(json.loads(text), each, format_checker=jsonschema.FormatChecker())


async def test_an_answer_that_is_cut_says_so(engine: ProcessEngine) -> None:
    text, reason = await answer(engine, "cut", schema(SCHEMAS["flags"]), max_tokens=5)
    assert reason is FinishReason.LENGTH
    assert text.startswith('{"flag')


async def test_any_json_object_is_one(engine: ProcessEngine) -> None:
    text, reason = await answer(
        engine, "object", Grammar(kind=GrammarKind.JSON_OBJECT), sampling=Sampling(temperature=0)
    )
    assert text.startswith("{")
    assert reason is FinishReason.LENGTH or isinstance(json.loads(text), dict)


async def test_a_choice_is_one_of_its_texts(engine: ProcessEngine) -> None:
    texts = ["yes", 'a "quoted" one', "two\nlines", "back\\slash"]
    grammar = Grammar(kind=GrammarKind.CHOICE, text=json.dumps(texts))
    answers = [
        await answer(engine, f"choice {seed}", grammar, sampling=Sampling(temperature=2, seed=seed))
        for seed in range(6)
    ]
    assert {reason for _, reason in answers} == {FinishReason.STOP}
    assert {text for text, _ in answers} <= set(texts)


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar(kind=GrammarKind.REGEX, text="[0-9]{3}-[a-z]{1,5}!"), "[0-9]{3}-[a-z]{1,5}!"),
        (Grammar(kind=GrammarKind.LARK, text='start: "x" /[0-9]{2}/ "y"?'), "x[0-9]{2}y?"),
        (Grammar(kind=GrammarKind.GBNF, text='root ::= ("a" | "b") "c"'), "[ab]c"),
    ],
)
async def test_the_whole_answer_follows_a_grammar(
    engine: ProcessEngine, grammar: Grammar, pattern: str
) -> None:
    text, reason = await answer(engine, f"kind {grammar.kind.value}", grammar)
    assert reason is FinishReason.STOP
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize(
    "narrowing",
    [
        {"typical_p": 0.3},
        {"top_n_sigma": 1.0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"mirostat": 2},
        {"dynatemp_range": 0.7},
        {"repeat_penalty": 1.5, "dry_multiplier": 1.0},
    ],
)
async def test_every_sampler_stage_keeps_to_the_grammar(
    engine: ProcessEngine, narrowing: dict[str, float]
) -> None:
    sampling = replace(WILD, **narrowing)  # type: ignore[arg-type]
    text, reason = await answer(
        engine, f"stage {narrowing}", schema(SCHEMAS["nested"]), sampling=sampling
    )
    assert reason is FinishReason.STOP
    jsonschema.validate(json.loads(text), SCHEMAS["nested"])


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (schema({"type": "nonsense"}), "nonsense"),
        (schema({"not": {"type": "string"}}), "not"),
        (schema([1]), "object"),
        (Grammar(kind=GrammarKind.JSON_SCHEMA, text='{"a":'), "json schema"),
        (Grammar(kind=GrammarKind.REGEX, text="(((("), "unclosed"),
        (Grammar(kind=GrammarKind.LARK, text="start: nothing"), "nothing"),
        (Grammar(kind=GrammarKind.GBNF, text="root ::= nothing"), "gbnf"),
        (Grammar(kind=GrammarKind.CHOICE, text="[]"), "list of texts"),
        (Grammar(kind=GrammarKind.CHOICE, text='["a", ""]'), "empty"),
        (Grammar(kind=GrammarKind.REGEX), "empty"),
        (Grammar(kind=GrammarKind.LARK, text="x" * (2**20 + 1)), "1048577"),
    ],
)
async def test_a_grammar_that_cannot_be_followed_is_refused_before_a_token(
    engine: ProcessEngine, grammar: Grammar, words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        await answer(engine, "refused", grammar)


async def test_a_length_that_a_grammar_contradicts_is_refused(engine: ProcessEngine) -> None:
    request = replace(ask("both", "Hi"), grammar=schema(SCHEMAS["text"]), min_tokens=5)
    with pytest.raises(BadRequest, match="min_tokens"):
        await collect(engine, request)
