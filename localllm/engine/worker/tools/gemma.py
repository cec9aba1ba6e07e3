"""Gemma 4's own notation of values, read as JSON: keys without quotation marks, texts between
`<|"|>`, which is one token."""

import json
from collections.abc import Generator

from localllm.engine.worker.tools.json_text import SPACE, beyond_space, until, word
from localllm.engine.worker.tools.section import Characters, Malformed, Section

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
