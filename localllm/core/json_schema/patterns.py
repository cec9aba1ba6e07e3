"""Rewrite a pattern of a JSON Schema (ECMA 262) for a grammar without assertions.

Taking an assertion out of a pattern only lets it match more, so what is left can be followed and
the rest checked afterwards. Look-ahead right behind a leading `^` keeps its meaning as a pattern of
its own: that is how passwords and zod's email addresses are written.
"""

import re
from dataclasses import dataclass

MAX_PATTERN_CHARS = 4096

_LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")
_QUANTIFIER = re.compile(r"\{\d+(?:,\d*)?\}[?+]?|[*+?][?+]?")
_BRACES = re.compile(r"\{\d+(?:,\d*)?\}")
_CONTROL = {chr(code): code % 32 for code in (*range(65, 91), *range(97, 123))}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternParts:
    """A pattern without assertions. `core` matches at least where the pattern does.

    With `exact`, a text matches the pattern when it matches `core` and all of `required` and none
    of `excluded`; otherwise only the first two hold.
    """

    core: str
    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    exact: bool = True

    @property
    def followed(self) -> bool:
        """True when a grammar of `core` and `required` is all of the pattern."""
        return self.exact and not self.excluded


class _Unwritable(Exception):
    """The pattern has no form without what grammars lack."""


def split_pattern(pattern: str) -> PatternParts | None:
    """Take the assertions out of a pattern; None when that cannot be done (backreferences)."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return None
    try:
        return _split(pattern)
    except _Unwritable:
        return None


def _split(pattern: str) -> PatternParts:
    required: list[str] = []
    excluded: list[str] = []
    exact = True
    at = 0
    if pattern.startswith("^"):
        at = 1
        while pattern.startswith(("(?=", "(?!"), at):
            end = _group_end(pattern, at)
            inner, clean = _without_assertions(pattern[at + 3 : end - 1])
            if clean:
                (required if pattern[at + 2] == "=" else excluded).append(f"^(?:{inner})")
            else:
                exact = False
            at = end
            quantifier = _QUANTIFIER.match(pattern, at)
            if quantifier is not None:  # it may ask for the assertion zero times
                raise _Unwritable
    rest, clean = _without_assertions(pattern[at:])
    core = f"^{rest}" if pattern.startswith("^") else rest
    if at > 1 and _has_alternatives(pattern[at:]):
        # `^(?=a)b|c`: the assertion belongs to the first alternative only.
        return PatternParts(core=core, exact=False)
    return PatternParts(
        core=core, required=tuple(required), excluded=tuple(excluded), exact=exact and clean
    )


def _without_assertions(text: str) -> tuple[str, bool]:
    """Rewrite a piece of a pattern; return it, and whether there was no assertion in it."""
    out: list[str] = []
    clean = True
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            piece, at, assertion = _escape(text, at)
            out.append(piece)
            clean = clean and not assertion
        elif char == "[":
            piece, at = _class(text, at)
            out.append(piece)
        elif text.startswith(_LOOK_AROUND, at):
            at = _group_end(text, at)
            quantifier = _QUANTIFIER.match(text, at)
            at = quantifier.end() if quantifier is not None else at
            out.append("(?:)")
            clean = False
        elif char == "{" and _BRACES.match(text, at) is None:
            out.append("\\{")  # in ECMA 262 it is itself
            at += 1
        elif char == "{":
            found = _BRACES.match(text, at)
            assert found is not None
            out.append(found[0])
            at = found.end()
        elif char == "}":
            out.append("\\}")
            at += 1
        else:
            out.append(char)
            at += 1
    return "".join(out), clean


def _escape(text: str, at: int) -> tuple[str, int, bool]:
    """Rewrite the escape at `at`; return it, where it ends, and whether it was an assertion."""
    if at + 1 >= len(text):
        raise _Unwritable
    char = text[at + 1]
    if char in "123456789k":
        raise _Unwritable
    if char in "bB":
        return "(?:)", at + 2, True
    if char in "AZz":  # Python's and Rust's ends of a text
        return "^" if char == "A" else "$", at + 2, False
    if char == "c":
        code = _CONTROL.get(text[at + 2 : at + 3])
        if code is None:
            raise _Unwritable
        return f"\\x{code:02x}", at + 3, False
    if char == "0":
        return "\\x00", at + 2, False
    if char in "pP" and text.startswith("{", at + 2):
        end = text.find("}", at)
        if end < 0:
            raise _Unwritable
        return text[at : end + 1], end + 1, False
    if char == "u" and text.startswith("{", at + 2):
        end = text.find("}", at)
        if end < 0:
            raise _Unwritable
        return text[at : end + 1], end + 1, False
    return text[at : at + 2], at + 2, False


def _class(text: str, at: int) -> tuple[str, int]:
    """Rewrite the character class at `at`; return it and where it ends."""
    if text.startswith("[^]", at):  # any character at all
        return "(?s:.)", at + 3
    if text.startswith("[]", at):  # no character: there is no other way to write it
        raise _Unwritable
    out = ["["]
    at += 1
    if text.startswith("^", at):
        out.append("^")
        at += 1
    while at < len(text) and text[at] != "]":
        char = text[at]
        if char == "\\":
            if text.startswith("\\b", at):  # a backspace, in a class
                out.append("\\x08")
                at += 2
                continue
            piece, at, assertion = _escape(text, at)
            if assertion:
                raise _Unwritable
            out.append(piece)
        else:
            out.append(f"\\{char}" if char in "[&~" else char)  # Rust's operations on sets
            at += 1
    if at >= len(text):
        raise _Unwritable
    return "".join(out) + "]", at + 1


def _group_end(text: str, at: int) -> int:
    """Return where the group that begins at `at` ends, its parenthesis included."""
    depth = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
            continue
        if char == "[":
            _, at = _class(text, at)
            continue
        depth += (char == "(") - (char == ")")
        at += 1
        if depth == 0:
            return at
    raise _Unwritable


def _has_alternatives(text: str) -> bool:
    """Return True when a piece of a pattern has a `|` outside of its groups."""
    at = 0
    while at < len(text):
        char = text[at]
        if char == "|":
            return True
        if char == "\\":
            at += 2
        elif char == "[":
            _, at = _class(text, at)
        elif char == "(":
            at = _group_end(text, at)
        else:
            at += 1
    return False
