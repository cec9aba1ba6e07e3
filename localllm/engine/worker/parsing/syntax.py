"""The parsers of how models write tool calls: one generator for each syntax. Pure.

A generator starts behind the text that has announced its section (`CallSection.raw`) and takes one
character at a time. It follows the chat templates of its models; what a model may write besides
was seen in llama.cpp's parsers (common/chat*, b11434) and is noted where it is accepted.

First come the pieces that several syntaxes share, then the syntaxes, from JSON in tags to those
with a notation of their own (DeepSeek's control tokens, Gemma 4's values).
"""

import json
import re
from collections.abc import Callable, Generator

from localllm.engine.worker.parsing.call_section import CallSection, Characters, MalformedCall

_WHITE_SPACE = " \t\r\n"
_MAX_NAME_CHARS = 4096
"""Of a name or a key: a longer one is no call."""

_MAX_VALUE_CHARS = 2**24
_MAX_LITERAL_CHARS = 64
_MAX_LANGUAGE_CHARS = 16
_CODE_FENCE = "```"

_ARGUMENTS_KEYS = ("arguments", "parameters")
_IGNORED_KEYS = ("id", "type")
"""Keys of a call object that add nothing: calls are numbered here."""


def skip_space() -> Generator[None, str, str]:
    """Return the next character that is no white space."""
    while True:
        character = yield
        if character not in _WHITE_SPACE:
            return character


def expect(text: str) -> Generator[None, str, None]:
    """Take exactly this text. Raises MalformedCall for any other."""
    for expected in text:
        if (yield) != expected:
            raise MalformedCall


def read_until(end: str, *, limit: int = _MAX_NAME_CHARS) -> Generator[None, str, str]:
    """Take everything through `end`; return what stands before it. Raises MalformedCall when that
    has more characters than `limit`."""
    read = ""
    while not read.endswith(end):
        read += yield
        if len(read) > limit:
            raise MalformedCall
    return read[: -len(end)]


def json_string(first: str) -> Generator[None, str, str]:
    """Take a JSON string, of which `first` is the quotation mark; return it decoded."""
    if first != '"':
        raise MalformedCall
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
        raise MalformedCall from None


def json_container(first: str, put: Callable[[str], object]) -> Generator[None, str, None]:
    """Take a JSON object or array, of which `first` is the bracket, and put its characters.

    Only its end is looked for: the section checks that arguments are JSON.
    """
    if first not in "{[":
        raise MalformedCall
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


def call_object(section: CallSection) -> Characters:
    """Parse `{"name": "f", "arguments": {...}}` behind its bracket.

    The arguments may come first, be a JSON text in a string, or be missing.
    """
    section.next_call()
    early: list[str] = []
    argued = False
    put = early.append
    character = yield from skip_space()
    while character != "}":
        key = yield from json_string(character)
        if (yield from skip_space()) != ":":
            raise MalformedCall
        character = yield from skip_space()
        if key == "name":
            section.begin_call((yield from json_string(character)))
            put = section.add_arguments
            if early:
                section.add_arguments("".join(early))
        elif key in _ARGUMENTS_KEYS and not argued:
            argued = True
            if character == '"':
                put((yield from json_string(character)))
            else:
                yield from json_container(character, put)
        elif key in _IGNORED_KEYS:
            yield from json_string(character)
        else:
            raise MalformedCall
        character = yield from skip_space()
        if character == ",":
            character = yield from skip_space()
        elif character != "}":
            raise MalformedCall
    if not section.in_call:
        raise MalformedCall
    if not argued:
        section.add_arguments("{}")
    section.end_call()


def _call_array(section: CallSection) -> Characters:
    """Parse `[{...}, {...}]` behind its bracket."""
    while (yield from skip_space()) == "{":
        yield from call_object(section)
        match (yield from skip_space()):
            case "]":
                return
            case ",":
                section.next_call()
            case _:
                raise MalformedCall
    raise MalformedCall


def tool_call_tags(section: CallSection) -> Characters:
    """Parse what follows `<tool_call>`: a call object (Hermes, Qwen, Granite 4), an array of them
    (Granite 3.1), or Qwen3-Coder's `<function=f>`; then `</tool_call>`."""
    match (yield from skip_space()):
        case "{":
            yield from call_object(section)
        case "[":
            yield from _call_array(section)
        case "<":
            yield from expect("function=")
            yield from _function_tag(section)
        case _:
            raise MalformedCall
    if (yield from skip_space()) != "<":
        raise MalformedCall
    yield from expect("/tool_call>")


def _function_tag(section: CallSection) -> Characters:
    """Parse a function's name and its parameters, each of them `<parameter=p>`, a line break, the
    value, a line break, `</parameter>`; then `</function>`."""
    section.next_call()
    name = (yield from read_until(">")).strip()
    section.begin_call(name)
    properties = section.tools[name].get("properties")
    separator = "{"
    while True:
        if (yield from skip_space()) != "<":
            raise MalformedCall
        character = yield
        if character == "/":
            yield from expect("function>")
            break
        if character != "p":
            raise MalformedCall
        yield from expect("arameter=")
        key = (yield from read_until(">")).strip()
        raw = yield from read_until("</parameter>", limit=_MAX_VALUE_CHARS)
        schema = properties.get(key) if isinstance(properties, dict) else None
        value = _parameter_json(raw.removeprefix("\n").removesuffix("\n"), schema)
        section.add_arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: {value}")
        separator = ", "
    section.add_arguments("{}" if separator == "{" else "}")
    section.end_call()


def _parameter_json(raw: str, schema: object) -> str:
    """Return a parameter's value as JSON: a string where the schema says so, else what its text is
    as JSON, and a string when it is none."""
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


def json_list(section: CallSection) -> Characters:
    """Parse what follows `<|tool_call|>`: an array of call objects, or one (Granite 3)."""
    match (yield from skip_space()):
        case "[":
            yield from _call_array(section)
        case "{":
            yield from call_object(section)
        case _:
            raise MalformedCall


def mistral(section: CallSection) -> Characters:
    """Parse what follows `[TOOL_CALLS]`: an array of call objects (v3), or `f[ARGS]{...}` (from v11
    on, which itself has a `[CALL_ID]` before the arguments)."""
    character = yield from skip_space()
    if character in "[{":
        yield from _call_array(section) if character == "[" else call_object(section)
        return
    section.next_call()
    name = character
    while (character := (yield)) not in "[{":
        name += character
        if len(name) > _MAX_NAME_CHARS:
            raise MalformedCall
    section.begin_call(name.strip())
    while character == "[":
        marker = yield from read_until("]")
        if marker not in ("ARGS", "CALL_ID"):
            raise MalformedCall
        while (character := (yield)) not in "[{":
            if marker == "ARGS" and character not in _WHITE_SPACE:
                raise MalformedCall
    yield from json_container(character, section.add_arguments)
    section.end_call()


def llama3(section: CallSection) -> Characters:
    """Parse call objects with `;` between them, behind `<|python_tag|>` or as the whole answer;
    behind the tag also `f.call(x="1")`, as the model's built-in tools are called."""
    character = yield from skip_space()
    if character != "{":
        yield from _python_call(section, character)
        return
    while True:
        yield from call_object(section)
        if (yield from skip_space()) != ";" or (yield from skip_space()) != "{":
            raise MalformedCall


_PYTHON_ARGUMENT = re.compile(r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*")\s*(?:,|$)')


def _python_call(section: CallSection, first: str) -> Characters:
    """Parse `f.call(x="1", y="2")`, of which `first` is the first character."""
    name = first + (yield from read_until(".call("))
    section.begin_call(name.strip())
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
            raise MalformedCall
        try:
            arguments[found[1]] = json.loads(found[2])
        except ValueError:
            raise MalformedCall from None
        at = found.end()
    section.add_arguments(json.dumps(arguments, ensure_ascii=False))
    section.end_call()


def plain(section: CallSection) -> Characters:
    """Parse an answer that is a call object or an array of them, in a code block or not."""
    character = yield from skip_space()
    fenced = character == _CODE_FENCE[0]
    if fenced:
        yield from expect(_CODE_FENCE[1:])
        if (yield from read_until("\n", limit=_MAX_LANGUAGE_CHARS)).strip() not in ("", "json"):
            raise MalformedCall
        character = yield from skip_space()
    if character not in "[{":
        raise MalformedCall
    yield from _call_array(section) if character == "[" else call_object(section)
    if fenced:
        if (yield from skip_space()) != _CODE_FENCE[0]:
            raise MalformedCall
        yield from expect(_CODE_FENCE[1:])


# The bar and the blank of DeepSeek's control tokens are no ASCII characters.
_BAR, _BLANK = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"


def _marker(*words: str) -> str:
    return f"<{_BAR}{_BLANK.join(words)}{_BAR}>"


DEEPSEEK_CALLS_BEGIN = _marker("tool", "calls", "begin")
DEEPSEEK_CALL_BEGIN = _marker("tool", "call", "begin")
DEEPSEEK_SEPARATOR = _marker("tool", "sep")
DEEPSEEK_CALL_END = _marker("tool", "call", "end")
DEEPSEEK_CALLS_END = _marker("tool", "calls", "end")
DEEPSEEK_MARKERS = (
    DEEPSEEK_CALLS_BEGIN,
    DEEPSEEK_CALL_BEGIN,
    DEEPSEEK_SEPARATOR,
    DEEPSEEK_CALL_END,
    DEEPSEEK_CALLS_END,
)

_DEEPSEEK_COMMON = len(f"<{_BAR}tool{_BLANK}call")
"""Characters that DEEPSEEK_CALL_BEGIN and DEEPSEEK_CALLS_END begin with."""


def deepseek(section: CallSection) -> Characters:
    """Parse what follows "calls begin": calls from "call begin" to "call end", then "calls end".

    A call is the word `function`, the separator, the name, and the arguments in a code block (V3,
    R1), or the name, the separator and the arguments (V3.1).
    """
    while True:
        if (yield from skip_space()) != "<":
            raise MalformedCall
        yield from expect(DEEPSEEK_CALL_BEGIN[1:_DEEPSEEK_COMMON])
        character = yield
        if character == DEEPSEEK_CALLS_END[_DEEPSEEK_COMMON]:
            yield from expect(DEEPSEEK_CALLS_END[_DEEPSEEK_COMMON + 1 :])
            return
        if character != DEEPSEEK_CALL_BEGIN[_DEEPSEEK_COMMON]:
            raise MalformedCall
        yield from expect(DEEPSEEK_CALL_BEGIN[_DEEPSEEK_COMMON + 1 :])
        section.next_call()
        name = yield from read_until(DEEPSEEK_SEPARATOR)
        character = yield
        if character != "{":
            name = character + (yield from read_until("\n"))
            yield from expect("```json")
            character = yield from skip_space()
        section.begin_call(name.strip())
        yield from json_container(character, section.add_arguments)
        section.end_call()
        yield from read_until(DEEPSEEK_CALL_END)


GEMMA_QUOTE = '<|"|>'


def gemma4(section: CallSection) -> Characters:
    """Parse what follows `<|tool_call>`: `call:f{a:<|"|>text<|"|>,b:[1,true]}<tool_call|>`."""
    yield from expect("call:")
    name = yield from read_until("{")
    section.begin_call(name.strip())
    yield from _gemma_object(section)
    section.end_call()
    yield from expect("<tool_call|>")


def _gemma_object(section: CallSection) -> Characters:
    """Parse an object behind its bracket."""
    section.add_arguments("{")
    character = yield from skip_space()
    while character != "}":
        if character == "<":
            yield from expect(GEMMA_QUOTE[1:])
            key = yield from read_until(GEMMA_QUOTE)
            yield from expect(":")
        else:
            key = (character + (yield from read_until(":"))).strip()
        section.add_arguments(json.dumps(key, ensure_ascii=False) + ": ")
        character = yield from _gemma_value(section, (yield from skip_space()))
        if character == ",":
            section.add_arguments(", ")
            character = yield from skip_space()
        elif character != "}":
            raise MalformedCall
    section.add_arguments("}")


def _gemma_array(section: CallSection) -> Characters:
    """Parse an array behind its bracket."""
    section.add_arguments("[")
    character = yield from skip_space()
    while character != "]":
        character = yield from _gemma_value(section, character)
        if character == ",":
            section.add_arguments(", ")
            character = yield from skip_space()
        elif character != "]":
            raise MalformedCall
    section.add_arguments("]")


def _gemma_value(section: CallSection, character: str) -> Generator[None, str, str]:
    """Parse a value of which this is the first character; return the next one that is no white
    space."""
    match character:
        case "<":
            yield from expect(GEMMA_QUOTE[1:])
            text = yield from read_until(GEMMA_QUOTE, limit=_MAX_VALUE_CHARS)
            section.add_arguments(json.dumps(text, ensure_ascii=False))
        case "{":
            yield from _gemma_object(section)
        case "[":
            yield from _gemma_array(section)
        case _:
            literal = character
            while (character := (yield)) not in ",}]" + _WHITE_SPACE:
                literal += character
                if len(literal) > _MAX_LITERAL_CHARS:
                    raise MalformedCall
            section.add_arguments(_gemma_literal(literal))
            if character not in _WHITE_SPACE:
                return character
    return (yield from skip_space())


def _gemma_literal(text: str) -> str:
    """Return a number, true, false or null as JSON. Raises MalformedCall for anything else."""
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        raise MalformedCall from None
