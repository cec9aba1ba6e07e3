"""Control tokens that somebody has written into a message: they stay text. Pure.

A template's own text is tokenized with its control tokens (`<|im_end|>`), that of the messages
must not be: a mail that is summarised could end its turn and speak as the system. Inside such a
word of a message a character is put that is nowhere else in the conversation. A template does with
the text what it always does (trim, join, write JSON) and sees it a character longer. After
rendering, the stretch around the character, up to the template's own control tokens, is tokenized
without any, and the character is gone. A conversation without such words is not touched at all.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from localllm.engine.messages import Message, Tool, ToolCall

_FIRST_MARK, _MARKS = 0x20000, 0xA6E0
"""CJK Extension B: letters without case, printed as they are by `repr`, and rare."""

_PREFIX_CHARS = 2

Change = Callable[[str], str]


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

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(word for word in words if len(word) >= _PREFIX_CHARS)
        self._exact = WordFinder(self.words)
        # A template may write a text in small letters.
        self._any_case = WordFinder(frozenset(map(str.lower, self.words)))

    def mark(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: str = "{}"
    ) -> MarkedConversation:
        """Break the control words in every text that somebody sent; `options` is that of a JSON
        object."""
        found = False

        def look(text: str) -> str:
            nonlocal found
            found = found or next(self._found(text), None) is not None
            return text

        _changed(messages, tools, options, look)
        if not found:
            return MarkedConversation(messages=tuple(messages), tools=tuple(tools), options=options)
        while True:
            mark, used = chr(_FIRST_MARK + secrets.randbelow(_MARKS)), False

            def broken(text: str, mark: str = mark) -> str:
                nonlocal used
                used = used or mark in text
                return self._broken(text, mark)

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

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the text in parts, each a control word or what is between two."""
        done = 0
        for start, end in self._exact.find(text):
            if start >= done:
                yield text[done:start], False
                yield text[start:end], True
                done = end
        yield text[done:], False

    def _found(self, text: str) -> Iterator[tuple[int, int]]:
        small = text.lower()
        if len(small) != len(text):  # a letter that has no small form of its length
            small = text
        return self._any_case.find(small)

    def _broken(self, text: str, mark: str) -> str:
        pieces: list[str] = []
        done = 0
        for start, _ in self._found(text):
            pieces += [text[done : start + 1], mark]
            done = start + 1
        return "".join([*pieces, text[done:]]) if pieces else text


class WordFinder:
    """Finds words in a text: first their beginnings, which are few, then the longest of each."""

    def __init__(self, words: frozenset[str]) -> None:
        self._words = words
        self._lengths: dict[str, list[int]] = {}
        for word in words:
            lengths = self._lengths.setdefault(word[:_PREFIX_CHARS], [])
            if len(word) not in lengths:
                lengths.append(len(word))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)
        prefixes = "|".join(map(re.escape, self._lengths))
        self._prefix = re.compile(prefixes) if prefixes else None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where words begin and end; of those that begin at one place the longest."""
        if self._prefix is None:
            return
        at = 0
        while (hit := self._prefix.search(text, at)) is not None:
            start = hit.start()
            for length in self._lengths[hit[0]]:
                if text[start : start + length] in self._words:
                    yield start, start + length
                    break
            at = start + 1


def _changed(
    messages: Sequence[Message], tools: Sequence[Tool], options: str, change: Change
) -> MarkedConversation:
    """Apply a change to every text of a conversation."""
    return MarkedConversation(
        messages=tuple(_changed_message(message, change) for message in messages),
        tools=tuple(
            Tool(
                name=change(tool.name),
                description=change(tool.description),
                parameters=_changed_json(tool.parameters, change),
            )
            for tool in tools
        ),
        options=_changed_json(options, change),
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


def _changed_json(text: str, change: Change) -> str:
    """Change the strings of a JSON text, as they are after their escapes; a text that is no JSON,
    such as a call that broke off, as it is."""
    if "\\" not in text:
        return change(text)
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return change(text)
    changed = _changed_value(value, change)
    return text if changed == value else json.dumps(changed, ensure_ascii=False)


def _changed_value(value: object, change: Change) -> object:
    match value:
        case str():
            return change(value)
        case list():
            return [_changed_value(each, change) for each in value]
        case dict():
            return {change(key): _changed_value(each, change) for key, each in value.items()}
    return value
