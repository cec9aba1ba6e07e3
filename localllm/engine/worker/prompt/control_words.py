"""Control tokens that somebody has written into a message: they stay text. Pure.

A template's own text is tokenized with its control tokens (`<|im_end|>`), that of the messages
must not be: a mail that is summarised could end its turn and speak as the system. Inside such a
word of a message a character is put that is nowhere else in the conversation. A template does with
the text what it always does (trim, join, write JSON) and sees it a character longer. After
rendering, the stretch around the character, up to the template's own control tokens, is tokenized
without any, and the character is gone.

A word can also come about in the template: out of the end of one message and the beginning of the
next, of an argument's name between the template's own `<` and `>`, or where it takes something out
of a text. So the character is put into what may be a part of a word, too (word_parts.py). A
conversation without words or parts of them is not touched at all.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from localllm.engine.messages import Message, Tool, ToolCall
from localllm.engine.worker.prompt.word_parts import Rewrite, WordFinder, WordParts

_FIRST_MARK, _MARKS = 0x20000, 0xA6E0
"""CJK Extension B: letters without case, printed as they are by `repr`, and rare."""

_MIN_WORD_CHARS = 2

_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

_JSON_CHAR = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u.{4}|\\.|.", re.DOTALL
)
"""One character of a JSON string, as it is written."""

_SCHEMA_WORDS = frozenset(
    ("type", "properties", "required", "items", "description", "enum", "name", "title", "default")
) | {"format", "string", "number", "integer", "boolean", "object", "array", "null"}
"""Texts of a JSON Schema that templates look for."""

_BLANKS = " \t\n\v\f\r"
"""What llama.cpp strips beside some tokens (isspace)."""


class Change(Protocol):
    """A change of a text. `inner`: also of one that is all of a word but for its brackets."""

    def __call__(self, text: str, *, inner: bool = True) -> str: ...


class LiteralText(str):
    """A piece of a prompt in which no control tokens are recognised."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedConversation:
    """A conversation whose control words are broken by the character `mark`; None: there are
    none."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    options: str
    mark: str | None = None


class ControlWords:
    """The texts of a vocabulary's control tokens."""

    def __init__(
        self,
        words: Iterable[str],
        *,
        rewrites: Sequence[Rewrite] = (),
        strip_before: frozenset[str] = frozenset(),
        strip_after: frozenset[str] = frozenset(),
    ) -> None:
        """`rewrites`: what the template replaces in texts. `strip_before`, `strip_after`: words
        beside which the tokenizer takes blanks away."""
        self.words = frozenset(word for word in words if len(word) >= _MIN_WORD_CHARS)
        self._exact = WordFinder(self.words)
        # A template may write a text in small letters.
        self._parts_of_words = WordParts(frozenset(map(str.lower, self.words)), rewrites)
        self._strip_before = strip_before
        self._strip_after = strip_after

    def mark(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: str = "{}"
    ) -> MarkedConversation:
        """Break the control words, and what may become one, in every text that somebody sent;
        `options` is that of a JSON object."""
        find = self._parts_of_words.places
        found = False

        def look(text: str, *, inner: bool = True) -> str:
            nonlocal found
            found = found or bool(find(text, inner=inner))
            return text

        _changed(messages, tools, options, look)
        if not found:
            return MarkedConversation(messages=tuple(messages), tools=tuple(tools), options=options)
        while True:
            mark, used = chr(_FIRST_MARK + secrets.randbelow(_MARKS)), False

            def broken(text: str, *, inner: bool = True, mark: str = mark) -> str:
                nonlocal used
                used = used or mark in text
                cuts = (0, *find(text, inner=inner), len(text))
                return mark.join(text[start:end] for start, end in pairwise(cuts))

            marked = _changed(messages, tools, options, broken)
            if not used:
                return replace(marked, mark=mark)

    def pieces(self, text: str, mark: str | None) -> list[str]:
        """Cut a rendered text into pieces with control tokens and pieces without, which are
        `LiteralText`; all marks are gone."""
        if mark is None:
            return [text]
        forms = (mark, json.dumps(mark)[1:-1])
        pieces: list[str] = []
        run = ""
        for part, is_word in self._parts(text):
            if is_word or not any(form in part for form in forms):
                run += part
                continue
            if run:
                pieces.append(run)
                run = ""
            pieces.append(LiteralText(part.replace(forms[0], "").replace(forms[1], "")))
        return [*pieces, run] if run else pieces

    def stripped(self, pieces: Sequence[str]) -> list[str]:
        """Take away the blanks beside words beside which the tokenizer would: it sees each piece
        by itself."""
        if not (self._strip_before or self._strip_after):
            return list(pieces)
        result: list[str] = []
        for i, piece in enumerate(pieces):
            text = str(piece)
            if isinstance(piece, LiteralText):
                before, after = pieces[max(0, i - 1)], "".join(pieces[i + 1 : i + 2])
                if i and before.endswith(tuple(self._strip_after)):
                    text = text.lstrip(_BLANKS)
                if after.startswith(tuple(self._strip_before)):
                    text = text.rstrip(_BLANKS)
                text = LiteralText(text)
            result.append(text)
        return result

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the text in parts, each a control word or what is between two."""
        done = 0
        for start, end in self._exact.find(text):
            if start >= done:
                yield text[done:start], False
                yield text[start:end], True
                done = end
        yield text[done:], False


def _changed(
    messages: Sequence[Message], tools: Sequence[Tool], options: str, change: Change
) -> MarkedConversation:
    """Apply a change to every text of a conversation."""

    def in_schema(text: str) -> str:
        return change(text, inner=text not in _SCHEMA_WORDS)

    def in_options(text: str) -> str:
        return change(text, inner=False)  # a template looks for these

    return MarkedConversation(
        messages=tuple(_changed_message(message, change) for message in messages),
        tools=tuple(
            Tool(
                name=change(tool.name),
                description=change(tool.description),
                parameters=_changed_json(tool.parameters, in_schema),
            )
            for tool in tools
        ),
        options=_changed_json(options, in_options),
    )


def _changed_message(message: Message, change: Change) -> Message:
    content = change(message.content)
    name = change(message.name) if message.name else message.name
    reasoning = change(message.reasoning) if message.reasoning else message.reasoning
    calls = tuple(
        ToolCall(
            id=call.id, name=change(call.name), arguments=_changed_json(call.arguments, change)
        )
        for call in message.tool_calls
    )
    return replace(message, content=content, name=name, reasoning=reasoning, tool_calls=calls)


def _changed_json(text: str, change: Callable[[str], str]) -> str:
    """Change the strings of a JSON text, as they are after their escapes, and nothing else of it; a
    text that is no JSON, such as a call that broke off, as it is."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return change(text)

    def changed(string: re.Match[str]) -> str:
        value: str = json.loads(string[0])
        new = change(value)
        if new == value:
            return string[0]
        written = _JSON_CHAR.findall(string[0][1:-1])
        done, result = 0, ""
        for char in new:  # it has further ones, which are nowhere in the conversation
            own = done < len(value) and char == value[done]
            result += written[done] if own else char
            done += own
        return f'"{result}"'

    return _JSON_STRING.sub(changed, text)
