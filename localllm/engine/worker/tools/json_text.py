"""JSON as a model writes it, read character by character. Pure."""

import json
from collections.abc import Callable, Generator

from localllm.engine.worker.tools.section import Malformed

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
