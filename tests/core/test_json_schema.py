"""Schemas of clients: what a grammar follows of them, and the check of the rest."""

import json
import re
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from localllm.core.json_schema import (
    Unenforced,
    check,
    normalize,
    shape_of,
    split_pattern,
    tool_parameters,
)
from tests.core.json_schemas import FROM_CLIENTS, Writer, json_values, writers


def search(keyword: str, wanted: str, text: str) -> bool | None:
    """Match by `re`: the patterns of these tests mean the same to it."""
    return re.search(wanted, text) is not None if keyword == "pattern" else None


def accepts(schema: object, value: object) -> bool:
    """Whether a value follows a schema, as the reference implementation has it."""
    typed: Any = schema
    return bool(jsonschema.Draft202012Validator(typed).is_valid(value))


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_no_json_value_is_too_odd(value: object) -> None:
    normalized = normalize(value)
    json.dumps(normalized.schema)
    json.dumps(shape_of(normalized.schema))
    json.dumps(tool_parameters(value))
    check(value, value, search)


@settings(max_examples=300, deadline=None)
@given(writers)
def test_the_normalized_schema_accepts_what_the_schema_accepts(
    writer: Writer,
) -> None:
    schema, value = writer.document(), writer.value()
    normalized = normalize(schema)
    assume(accepts(schema, value))
    assert accepts(normalized.schema, value)
    assert accepts(shape_of(normalized.schema), value)


@settings(max_examples=300, deadline=None)
@given(writers)
def test_the_normalized_schema_is_the_schema_when_nothing_is_left_out(
    writer: Writer,
) -> None:
    schema, value = writer.document(), writer.value()
    normalized = normalize(schema)
    # Beside constants, arrays and objects are not looked at.
    assume(not normalized.unenforced and "enum" not in json.dumps(normalized.schema))
    assert accepts(normalized.schema, value) == accepts(schema, value)


@settings(max_examples=300, deadline=None)
@given(writers)
def test_a_second_pass_changes_nothing_and_leaves_nothing_out(writer: Writer) -> None:
    once = normalize(writer.document(circles=True))
    definitions = once.schema.get("$defs", {}) if isinstance(once.schema, dict) else {}
    assert isinstance(definitions, dict)
    assume(not any(each is True or "$ref" in each for each in definitions.values()))
    again = normalize(once.schema)
    assert again.schema == once.schema
    assert not again.unenforced


@settings(max_examples=300, deadline=None)
@given(writers)
def test_the_check_agrees_with_the_reference(writer: Writer) -> None:
    schema, value = writer.document(), writer.value()
    verdict = check(schema, value, search)
    expected = accepts(schema, value)
    if verdict.violation is not None:
        assert not expected
    elif not verdict.unchecked:
        assert expected


@pytest.mark.filterwarnings("ignore:Possible .*set:FutureWarning")  # `[` in a class
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            *("^(?=.*[0-9])[ab0-9]+$", "^(?!a)(?=b)", "^(?=a)b|c", "(?<!a)b", "^a\\b", "[^]a"),
            *("^[[a&&b]+$", "^{a}$", "^\\cA$", "a(?=b){0,1}c", "^(?!(a|b))c?"),
        ]
    ),
    st.text(alphabet="abc019[&{}\x01", max_size=5),
)
def test_a_pattern_without_its_assertions_matches_at_least_what_it_did(
    pattern: str, text: str
) -> None:
    parts = split_pattern(pattern)
    assert parts is not None

    def matches(each: str) -> bool:
        return re.search(each.replace("[^]", "(?s:.)").replace("\\cA", "\\x01"), text) is not None

    wanted = matches(pattern)
    found = all(map(matches, (parts.core, *parts.required)))
    assert found or not wanted
    if parts.exact:
        assert wanted == (found and not any(map(matches, parts.excluded)))


@pytest.mark.parametrize(
    "pattern", ["(a)\\1", "(?<x>a)\\k<x>", "[]a", "(?=a", "[a", "\\", "a" * 5000]
)
def test_a_pattern_that_cannot_be_written_is_said_to_be_none(pattern: str) -> None:
    assert split_pattern(pattern) is None


def left_out(schema: object) -> list[str]:
    return [str(each) for each in normalize(schema).unenforced]


def test_schemas_of_clients_are_followed_whole_but_for_what_no_grammar_can() -> None:
    found = {name: left_out(each) for name, each in FROM_CLIENTS.items()}
    assert {name: each for name, each in found.items() if each} == {
        "zod 3": ["`uniqueItems` at #/definitions/Answer/properties/tags"],
        "zod 4": ["`pattern` at #/properties/mail"],
        "a condition": ["`if`"],
        "a password": ["`pattern`"],
    }


def test_odd_words_are_read_as_they_are_meant() -> None:
    assert normalize(FROM_CLIENTS["Gemini's capitals"]).schema == {
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"]},
            "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            "unit": {"enum": ["1", "2"]},
        },
        "required": ["name"],
    }
    tuple_ = normalize(FROM_CLIENTS["a tuple of draft-07"]).schema
    assert isinstance(tuple_, dict)
    assert tuple_["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    password = normalize(FROM_CLIENTS["a password"]).schema
    assert isinstance(password, dict)
    assert password["pattern"] == "^.{8,20}$"
    assert len(password["allOf"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems", ""),
        ({"properties": {"a/b": {"not": {"type": "null"}}}}, "not", "/properties/a~1b"),
        ({"type": "date"}, "type", ""),
        ({"items": {"format": "phone"}}, "format", "/items"),
        ({"$ref": "https://example.org/schema"}, "$ref", ""),
        ({"$ref": "#"}, "$ref", ""),
        ({"type": "number", "multipleOf": 3.141592653589793}, "multipleOf", ""),
        ({"type": "object", "properties": [1]}, "properties", ""),
        ({"required": ["a"], "properties": {}, "additionalProperties": False}, "required", ""),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames", ""),
        ({"anyOf": "a"}, "anyOf", ""),
        ("text", "schema", ""),
    ],
)
def test_what_is_left_out_is_named(schema: object, keyword: str, pointer: str) -> None:
    assert normalize(schema).unenforced == (Unenforced(keyword=keyword, pointer=pointer),)


def test_of_constants_that_a_double_does_not_hold_the_types_are_left() -> None:
    found = normalize({"enum": [-(2**63), 2**63 - 1]})
    assert found.schema == {"type": "integer"}
    assert [each.keyword for each in found.unenforced] == ["enum"]
    assert normalize({"enum": [2**60, "a"]}).schema == {"type": ["integer", "string"]}


def test_a_probe_that_refuses_costs_one_keyword() -> None:
    schema = {"type": "string", "pattern": "^a$", "format": "email", "maxLength": 9}
    found = normalize(schema, lambda fragment: "pattern" not in fragment)
    assert found.schema == {"type": "string", "format": "email", "maxLength": 9}
    assert [each.keyword for each in found.unenforced] == ["pattern"]


def nested(depth: int) -> object:
    schema: object = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(800),
        {
            "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)},
            "$ref": "#/$defs/d0",
        },
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}] * 200}}, "$ref": "#/$defs/a"},
        {
            "$defs": {
                f"d{i}": {"properties": {"x": {"$ref": f"#/$defs/d{i + 1}", "type": "object"}}}
                for i in range(300)
            },
            "$ref": "#/$defs/d0",
        },
        {"anyOf": [{"properties": {f"p{i}": {"enum": list(range(50))}}} for i in range(3000)]},
        {"type": "string", "pattern": "(" * 4000},
        {"type": "string", "pattern": "^" + "(?=a)" * 800},
        {"enum": [[[[i]]] for i in range(15000)]},
        {"minItems": 10**30, "maxLength": 10**4000, "minimum": 10**4000, "multipleOf": 1e-320},
        {"oneOf": [{"enum": [f"{i}{j}" for j in range(100)]} for i in range(64)]},
    ],
)  # fmt: skip
def test_a_hostile_schema_costs_a_moment(schema: object) -> None:
    started = time.process_time()
    normalized = normalize(schema)
    json.dumps(normalized.schema)
    check(schema, {"x": {"a": "a" * 50}}, lambda *_: None)
    tool_parameters(schema)
    assert time.process_time() - started < 3.0


def test_a_check_that_takes_too_long_is_given_up() -> None:
    schema = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 9}}, "$ref": "#/$defs/a"}
    assert check(schema, 1, search).unchecked == ("a part that is too large to check",)


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"items": {"uniqueItems": True}}, [[1, 1.0]], "/0 has an item twice"),
        ({"properties": {"a": {"not": {"const": 1}}}}, {"a": 1}, "/a follows what it must not"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 1, "more than one alternative"),
        ({"propertyNames": {"pattern": "^a"}}, {"b": 1}, "/b has a name that is not allowed"),
        (FROM_CLIENTS["a password"], "Aa1aaaa!!", "the value does not have its pattern"),
        (FROM_CLIENTS["a condition"], {"kind": "a"}, "lacks 'x'"),
        ({"type": "number", "multipleOf": 0.1}, 0.35, "no multiple"),
        ({"type": "STRING", "nullable": True}, 1, "not of the type string or null"),
    ],
)
def test_a_violation_is_said_with_its_place(schema: object, value: object, words: str) -> None:
    violation = check(schema, value, search).violation
    assert violation is not None
    assert words in violation


def test_what_cannot_be_checked_is_named() -> None:
    schema = {"type": "object", "properties": {"a": {"format": "phone", "pattern": "(a)\\1"}}}
    verdict = check(schema, {"a": "x"}, lambda *_: None)
    assert verdict.violation is None
    assert verdict.unchecked == ("pattern '(a)\\\\1'", "format 'phone'")


def test_tool_parameters_are_tidied_for_templates() -> None:
    schema = {
        "type": "",
        "properties": {
            "a": {"type": "STRING", "enum": None, "description": None, "default": None},
            "b": {"type": ["INTEGER", "null"], "items": None, "required": True},
            "c": {"anyOf": [], "properties": None},
        },
        "required": None,
    }
    assert tool_parameters(schema) == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "default": None},
            "b": {"type": ["integer", "null"]},
            "c": {},
        },
    }
    nothing = {"type": "object", "properties": {}}
    odd: tuple[object, ...] = (None, [], True, "x", {"type": "array"}, {"properties": []})
    assert [tool_parameters(each) for each in odd] == [nothing] * len(odd)
