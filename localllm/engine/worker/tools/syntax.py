"""How each family of models writes calls: one generator a syntax, data for nothing else.

Each is started behind the text that announces its section (`Section.raw`) and follows the
family's chat template; what a model may do besides was seen in llama.cpp's parsers (common/chat*,
b11434) and is noted where it is allowed.
"""

import json
import re

from localllm.engine.worker.tools.json_text import (
    MAX_NAME_CHARS,
    SPACE,
    beyond_space,
    nested,
    string,
    until,
    word,
)
from localllm.engine.worker.tools.section import Characters, Malformed, Section

_NAME = ("name",)
_ARGUMENTS = ("arguments", "parameters")
_BESIDES = ("id", "type")
"""Keys of a call object that say nothing new."""
_MAX_LANGUAGE_CHARS = 16
_MAX_VALUE_CHARS = 2**24


def call_object(section: Section) -> Characters:
    """`{"name": "f", "arguments": {...}}`, behind its bracket; the arguments may come first, be a
    JSON text in a string, or be missing."""
    section.another()
    early: list[str] = []
    argued = False
    put = early.append
    character = yield from beyond_space()
    while character != "}":
        key = yield from string(character)
        if (yield from beyond_space()) != ":":
            raise Malformed
        character = yield from beyond_space()
        if key in _NAME:
            section.began((yield from string(character)))
            put = section.argue
            if early:
                section.argue("".join(early))
        elif key in _ARGUMENTS and not argued:
            argued = True
            if character == '"':
                put((yield from string(character)))
            else:
                yield from nested(character, put)
        elif key in _BESIDES:
            yield from string(character)
        else:
            raise Malformed
        character = yield from beyond_space()
        if character == ",":
            character = yield from beyond_space()
        elif character != "}":
            raise Malformed
    if not argued:
        section.argue("{}")
    section.ended()


def _call_array(section: Section) -> Characters:
    """`[{...}, {...}]`, behind its bracket."""
    while (yield from beyond_space()) == "{":
        yield from call_object(section)
        match (yield from beyond_space()):
            case "]":
                return
            case ",":
                section.another()
            case _:
                raise Malformed
    raise Malformed


def tags(section: Section) -> Characters:
    """Behind `<tool_call>`: JSON (Hermes, Qwen, Granite 4), an array of it (Granite 3.1), or
    Qwen3-Coder's `<function=f>`; then `</tool_call>`."""
    match (yield from beyond_space()):
        case "{":
            yield from call_object(section)
        case "[":
            yield from _call_array(section)
        case "<":
            yield from word("function=")
            yield from _function_tag(section)
        case _:
            raise Malformed
    if (yield from beyond_space()) != "<":
        raise Malformed
    yield from word("/tool_call>")


def _function_tag(section: Section) -> Characters:
    """`<parameter=p>` newline, the value, newline `</parameter>`, and again; then `</function>`.

    A value is text where the schema says string, else JSON, and text where it is none.
    """
    section.another()
    name = (yield from until(">")).strip()
    section.began(name)
    properties = section.tools[name].get("properties")
    separator = "{"
    while True:
        if (yield from beyond_space()) != "<":
            raise Malformed
        character = yield
        if character == "/":
            yield from word("function>")
            break
        if character != "p":
            raise Malformed
        yield from word("arameter=")
        key = (yield from until(">")).strip()
        raw = yield from until("</parameter>", limit=_MAX_VALUE_CHARS)
        schema = properties.get(key) if isinstance(properties, dict) else None
        value = _typed(raw.removeprefix("\n").removesuffix("\n"), schema)
        section.argue(f"{separator}{json.dumps(key, ensure_ascii=False)}: {value}")
        separator = ", "
    section.argue("{}" if separator == "{" else "}")
    section.ended()


def _typed(raw: str, schema: object) -> str:
    """A parameter's text as JSON."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    kinds = kind if isinstance(kind, list) else [kind]
    if "string" not in kinds or (raw == "null" and "null" in kinds):
        try:
            value = json.loads(raw)
            if kind is not None or not isinstance(value, str):
                return json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return json.dumps(raw, ensure_ascii=False)


def json_list(section: Section) -> Characters:
    """Behind `<|tool_call|>`: an array, or one object (Granite 3)."""
    match (yield from beyond_space()):
        case "[":
            yield from _call_array(section)
        case "{":
            yield from call_object(section)
        case _:
            raise Malformed


def mistral(section: Section) -> Characters:
    """Behind `[TOOL_CALLS]`: an array of objects (v3), or `f[ARGS]{...}` (v11 and later; v11 has a
    `[CALL_ID]` before the arguments)."""
    character = yield from beyond_space()
    if character in "[{":
        yield from _call_array(section) if character == "[" else call_object(section)
        return
    section.another()
    name = character
    while (character := (yield)) not in "[{":
        name += character
        if len(name) > MAX_NAME_CHARS:
            raise Malformed
    section.began(name.strip())
    while character == "[":
        marker = yield from until("]")
        if marker not in ("ARGS", "CALL_ID"):
            raise Malformed
        while (character := (yield)) not in "[{":
            if marker == "ARGS" and character not in SPACE:
                raise Malformed
    yield from nested(character, section.argue)
    section.ended()


def llama3(section: Section) -> Characters:
    """Behind `<|python_tag|>` or at the answer's beginning: objects with `parameters`, `;` between
    them; behind the tag also `f.call(x="1")`, as the built-in tools are called."""
    character = yield from beyond_space()
    if character != "{":
        yield from _python_call(section, character)
        return
    while True:
        yield from call_object(section)
        if (yield from beyond_space()) != ";" or (yield from beyond_space()) != "{":
            raise Malformed


_PYTHON_ARGUMENT = re.compile(r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)')


def _python_call(section: Section, first: str) -> Characters:
    name = first + (yield from until(".call("))
    section.began(name.strip())
    text, quoted = "", False
    while (character := (yield)) != ")" or quoted:
        text += character
        if character == '"' and not text.endswith('\\"'):
            quoted = not quoted
    arguments: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        found = _PYTHON_ARGUMENT.match(text, at)
        if found is None:
            raise Malformed
        try:
            arguments[found[1]] = json.loads(found[2])
        except ValueError:
            raise Malformed from None
        at = found.end()
    section.argue(json.dumps(arguments, ensure_ascii=False))
    section.ended()


_FENCE = "```"


def plain(section: Section) -> Characters:
    """The whole answer: an object, or an array of them, in a fenced block or not."""
    character = yield from beyond_space()
    fenced = character == _FENCE[0]
    if fenced:
        yield from word(_FENCE[1:])
        if (yield from until("\n", limit=_MAX_LANGUAGE_CHARS)).strip() not in ("", "json"):
            raise Malformed
        character = yield from beyond_space()
    if character not in "[{":
        raise Malformed
    yield from _call_array(section) if character == "[" else call_object(section)
    if fenced:
        if (yield from beyond_space()) != _FENCE[0]:
            raise Malformed
        yield from word(_FENCE[1:])
