"""How each family of models writes tool calls: one generator a syntax. Pure.

Each is started behind the text that announces its section (`Section.raw`) and follows the family's
chat template; what a model may do besides was seen in llama.cpp's parsers (common/chat*, b11434)
and is noted where it is allowed. The reader of JSON, character by character, is shared.
"""

import json
import re
from collections.abc import Callable, Generator

from localllm.engine.worker.parsing.call_section import Characters, Malformed, Section

Put = Callable[[str], None]
SPACE = " \t\r\n"
MAX_NAME_CHARS = 4096
"""Of a name or a key: one that never ends is no call."""


def beyond_space() -> Generator[None, str, str]:
    """The next character that is no white space."""
    while True:
        character = yield
        if character not in SPACE:
            return character


def word(text: str) -> Generator[None, str, None]:
    """Exactly this text."""
    for expected in text:
        if (yield) != expected:
            raise Malformed


def until(end: str, *, limit: int = MAX_NAME_CHARS) -> Generator[None, str, str]:
    """The text before `end`, which is taken too."""
    read = ""
    while not read.endswith(end):
        read += yield
        if len(read) > limit:
            raise Malformed
    return read[: -len(end)]


def string(first: str) -> Generator[None, str, str]:
    """A string, decoded; `first` is its quotation mark."""
    if first != '"':
        raise Malformed
    read: list[str] = ['"']
    escaped = False
    while True:
        character = yield
        read.append(character)
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            break
    try:
        return str(json.loads("".join(read), strict=False))
    except ValueError:
        raise Malformed from None


def nested(first: str, put: Put) -> Generator[None, str, None]:
    """An object or an array, given on as it is; `first` is its bracket. Only the end is looked
    for: whether it is JSON is another question."""
    if first not in "{[":
        raise Malformed
    put(first)
    depth, quoted, escaped = 1, False, False
    while depth:
        character = yield
        put(character)
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1


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


_BAR, _BLANK = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"


def _marker(*words: str) -> str:
    return f"<{_BAR}{_BLANK.join(words)}{_BAR}>"


CALLS_BEGIN = _marker("tool", "calls", "begin")
CALL_BEGIN = _marker("tool", "call", "begin")
SEPARATOR = _marker("tool", "sep")
CALL_END = _marker("tool", "call", "end")
CALLS_END = _marker("tool", "calls", "end")
MARKERS = (CALLS_BEGIN, CALL_BEGIN, SEPARATOR, CALL_END, CALLS_END)

_COMMON = len(f"<{_BAR}tool{_BLANK}call")
"""Characters that CALL_BEGIN and CALLS_END begin with."""


def deepseek(section: Section) -> Characters:
    """Behind CALLS_BEGIN: for each call CALL_BEGIN, the word `function`, SEPARATOR, the name, and
    the arguments as a fenced block (V3, R1), or the name, SEPARATOR and the arguments (V3.1);
    then CALL_END. After the last one CALLS_END."""
    while True:
        if (yield from beyond_space()) != "<":
            raise Malformed
        yield from word(CALL_BEGIN[1:_COMMON])
        character = yield
        if character == CALLS_END[_COMMON]:
            yield from word(CALLS_END[_COMMON + 1 :])
            return
        if character != CALL_BEGIN[_COMMON]:
            raise Malformed
        yield from word(CALL_BEGIN[_COMMON + 1 :])
        section.another()
        name = yield from until(SEPARATOR)
        character = yield
        if character != "{":
            name = character + (yield from until("\n"))
            yield from word("```json")
            character = yield from beyond_space()
        section.began(name.strip())
        yield from nested(character, section.argue)
        section.ended()
        yield from until(CALL_END)


QUOTE = '<|"|>'
_MAX_TEXT_CHARS = 2**24
_MAX_LITERAL_CHARS = 64


def gemma4(section: Section) -> Characters:
    """Behind `<|tool_call>`: `call:f{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`."""
    yield from word("call:")
    name = yield from until("{")
    section.began(name.strip())
    yield from _object(section)
    section.ended()
    yield from word("<tool_call|>")


def _object(section: Section) -> Characters:
    """Behind its bracket, with the closing one."""
    section.argue("{")
    character = yield from beyond_space()
    while character != "}":
        if character == "<":
            yield from word(QUOTE[1:])
            key = yield from until(QUOTE)
            yield from word(":")
        else:
            key = (character + (yield from until(":"))).strip()
        section.argue(json.dumps(key, ensure_ascii=False) + ": ")
        character = yield from _value(section, (yield from beyond_space()))
        if character == ",":
            section.argue(", ")
            character = yield from beyond_space()
        elif character != "}":
            raise Malformed
    section.argue("}")


def _array(section: Section) -> Characters:
    """Behind its bracket, with the closing one."""
    section.argue("[")
    character = yield from beyond_space()
    while character != "]":
        character = yield from _value(section, character)
        if character == ",":
            section.argue(", ")
            character = yield from beyond_space()
        elif character != "]":
            raise Malformed
    section.argue("]")


def _value(section: Section, character: str) -> Generator[None, str, str]:
    """A value that begins with `character`; returns the one after it, beyond white space."""
    match character:
        case "<":
            yield from word(QUOTE[1:])
            text = yield from until(QUOTE, limit=_MAX_TEXT_CHARS)
            section.argue(json.dumps(text, ensure_ascii=False))
        case "{":
            yield from _object(section)
        case "[":
            yield from _array(section)
        case _:
            literal = character
            while (character := (yield)) not in ",}]" + SPACE:
                literal += character
                if len(literal) > _MAX_LITERAL_CHARS:
                    raise Malformed
            section.argue(_literal(literal))
            if character not in SPACE:
                return character
    return (yield from beyond_space())


def _literal(text: str) -> str:
    """A number, true, false or null."""
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        raise Malformed from None
