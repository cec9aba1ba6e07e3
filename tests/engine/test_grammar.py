"""Answers that must look like something do, whatever the model would rather say."""

import asyncio
import json
import math
import re
from dataclasses import replace

import jsonschema
import llguidance
import pytest

from localllm.core.json_schema import check, normalize
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import FinishReason, Grammar, GrammarKind, Sampling
from localllm.engine.worker.sampling.schemas import check_string
from localllm.errors import BadRequest
from tests.core.json_schemas import FROM_CLIENTS
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


def strict(document: object) -> Grammar:
    return replace(schema(document), strict=True)


async def test_every_answer_validates_against_its_schema(engine: ProcessEngine) -> None:
    assert len(SCHEMAS) >= 40
    answers = await asyncio.gather(
        *(answer(engine, f"schema {name}", schema(each)) for name, each in SCHEMAS.items())
    )
    for (name, each), (text, reason) in zip(SCHEMAS.items(), answers, strict=True):
        assert reason is FinishReason.STOP, (name, text)
        jsonschema.validate(json.loads(text), each, format_checker=jsonschema.FormatChecker())


def can_begin(document: object, text: str) -> bool:
    """Whether an answer that follows this schema may begin so, character by character."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(
        tokenizer, llguidance.LLMatcher.grammar_from_json_schema(json.dumps(document))
    )
    beginning = list(text.encode())
    return bool(matcher.validate_tokens(beginning) == len(beginning))


async def test_a_beginning_is_told_from_what_is_none() -> None:
    assert can_begin(SCHEMAS["flags"], '{"flag_a": tr')
    assert not can_begin(SCHEMAS["flags"], '{"flag_b"')


@pytest.mark.parametrize("most", [1, 3, 8])
async def test_an_answer_that_is_cut_says_so_and_is_a_valid_beginning(
    engine: ProcessEngine, most: int
) -> None:
    answers = await asyncio.gather(
        *(
            answer(engine, f"cut {most} {name}", schema(each), max_tokens=most)
            for name, each in SCHEMAS.items()
        )
    )
    cut = 0
    for (name, each), (text, reason) in zip(SCHEMAS.items(), answers, strict=True):
        if reason is FinishReason.STOP:  # it was complete with its last token
            jsonschema.validate(json.loads(text), each)
        else:
            cut += 1
            assert reason is FinishReason.LENGTH
            whole = text.removesuffix("\ufffd")  # a character whose other half was not drawn
            assert can_begin(each, whole), (name, text)
    assert cut >= {1: 35, 3: 30, 8: 10}[most]


async def test_a_stop_string_ends_an_answer_before_its_grammar_does(engine: ProcessEngine) -> None:
    request = replace(ask("stop", "Hi", max_tokens=60), grammar=schema(SCHEMAS["flags"]))
    text, done, _ = await collect(engine, replace(request, stop=('"flag_c"',)))
    assert done.reason is FinishReason.STOP
    assert re.fullmatch(r'\{"flag_a": \w+, "flag_b": \w+, ', text)


async def test_a_stop_string_that_cannot_come_changes_nothing(engine: ProcessEngine) -> None:
    request = replace(ask("no stop", "Hi", max_tokens=99), grammar=schema(SCHEMAS["flags"]))
    text, done, _ = await collect(engine, replace(request, stop=("\n\n", "flag_z")))
    assert done.reason is FinishReason.STOP
    jsonschema.validate(json.loads(text), SCHEMAS["flags"])


async def test_the_last_token_that_is_allowed_may_complete_an_answer(
    engine: ProcessEngine,
) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="[a-z]{40}")
    text, reason = await answer(engine, "whole", grammar)
    assert (len(text), reason) == (40, FinishReason.STOP)
    request = replace(ask("exact", "Give me an example.", sampling=WILD), grammar=grammar)
    _, done, _ = await collect(engine, replace(request, max_tokens=300))
    tokens = done.completion_tokens
    again = replace(request, request_id="exact again", max_tokens=tokens)
    _, ended, _ = await collect(engine, again)
    assert (ended.reason, ended.completion_tokens) == (FinishReason.STOP, tokens)


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
        (strict({"type": "nonsense"}), "is strict, .* `type`"),
        (strict({"not": {"type": "string"}}), "is strict, .* `not`"),
        (strict({"allOf": [{"type": "string"}, {"type": "null"}]}), "cannot be followed|too much"),
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


@pytest.mark.parametrize("fields", [{"min_tokens": 5}, {"ignore_eos": True}])
async def test_a_length_that_a_grammar_contradicts_is_refused(
    engine: ProcessEngine, fields: dict[str, int]
) -> None:
    request = replace(ask("both", "Hi"), grammar=schema(SCHEMAS["text"]))
    with pytest.raises(BadRequest, match="ignore_eos and min_tokens"):
        await collect(engine, replace(request, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
async def test_no_number_goes_on_for_ever(engine: ProcessEngine, seed: int) -> None:
    """A bias makes the model repeat digits, as small ones do."""
    digits = tuple((token, 60.0) for token in range(33, 42))  # 1 to 9 in SmolLM2's vocabulary
    request = ask(
        f"digits {seed}",
        "Hi",
        max_tokens=80,
        sampling=Sampling(temperature=1.5, seed=seed, logit_bias=digits),
    )
    for kind in ("integer", "number"):
        grammar = schema({"type": "array", "items": {"type": kind}, "minItems": 1, "maxItems": 1})
        text, done, _ = await collect(
            engine, replace(request, request_id=f"{kind} {seed}", grammar=grammar)
        )
        assert done.reason is FinishReason.STOP, text
        (value,) = json.loads(text)
        assert abs(value) < 2**63 if kind == "integer" else math.isfinite(value)
        assert max(map(len, re.findall("[0-9]+", text))) > 10


async def test_no_string_is_white_space_for_ever(engine: ProcessEngine) -> None:
    spaces = ((216, 80.0),)  # " " in SmolLM2's vocabulary
    request = ask("blank", "Hi", max_tokens=150, sampling=Sampling(seed=1, logit_bias=spaces))
    text, _, _ = await collect(engine, replace(request, grammar=schema({"type": "string"})))
    first, *_ = re.findall(" +", text)
    assert 100 < len(first) <= 128
    assert text.partition(first)[2]


async def test_what_the_grammar_cannot_follow_is_checked_and_named(engine: ProcessEngine) -> None:
    holds = {"enum": ["yes"], "not": {"const": "no"}}
    breaks = {"enum": ["yes"], "not": {"const": "yes"}}
    uncheckable = {"enum": ["yes"], "format": "phone"}
    found: list[str] = []
    for name, each in (("holds", holds), ("breaks", breaks), ("phone", uncheckable)):
        request = replace(ask(name, "Hi", max_tokens=20), grammar=schema(each))
        text, done, _ = await collect(engine, request)
        assert (text, done.reason) == ('"yes"', FinishReason.STOP)
        found += done.warnings
    begin = "The grammar could not enforce {} of the schema of the answer: "
    assert found == [
        begin.format("`not`") + "it was checked, and holds.",
        begin.format("`not`") + "the value follows what it must not (`not`).",
        begin.format("`format`") + "not checked: format 'phone'.",
    ]
    long = schema({"type": "string", "minLength": 9, "not": {"const": "a"}})
    cut = replace(ask("cut", "Hi", max_tokens=1), grammar=long)
    _, done, _ = await collect(engine, cut)
    assert done.warnings == (begin.format("`not`") + "it was cut, and could not be checked.",)


@pytest.mark.parametrize("name", FROM_CLIENTS)
async def test_a_clients_schema_is_followed(engine: ProcessEngine, name: str) -> None:
    document = FROM_CLIENTS[name]
    text, reason = await answer(engine, f"client {name}", schema(document), max_tokens=60)
    if reason is FinishReason.STOP:
        assert check(normalize(document).schema, json.loads(text), check_string).violation is None


async def test_no_schema_ends_the_engine(engine: ProcessEngine) -> None:
    """llguidance 1.9 ends the process at the smallest int64 as a constant."""
    for i, each in enumerate(
        [
            {"const": -(2**63)},
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {"type": "array", "maxItems": 10**9, "items": {"type": "null"}},
            {"type": "object", "properties": {f"p{i}": {} for i in range(5000)}},
        ]
    ):
        await answer(engine, f"hostile {i}", schema(each), max_tokens=5)
    assert (await answer(engine, "after", schema({"const": 1})))[0] == "1"
