"""gpt-oss's answers: messages on channels, each with a header and a body.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.f
<|constrain|>json<|message|>{...}<|call|>`. What is on the channel analysis is reasoning, what has
a recipient is a call, the rest is text (OpenAI's harmony response format, August 2025).
"""

import functools
import re
from collections.abc import Mapping
from enum import Enum, auto

from localllm.engine.worker.parsing.call_section import (
    Characters,
    Malformed,
    Part,
    Schema,
    Section,
    Text,
    Thought,
)
from localllm.engine.worker.parsing.detokenizer import overlap
from localllm.engine.worker.parsing.formats import HARMONY
from localllm.engine.worker.parsing.parser import Reading
from localllm.engine.worker.parsing.syntax import beyond_space, nested

_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*([a-z]+)")
_HEADERS = ("<|channel|>", "<|start|>", "<|message|>", "to=")
"""How a header can begin: the prompt ends with `<|start|>assistant`."""


class _Kind(Enum):
    HEADER = auto()
    TEXT = auto()
    THOUGHT = auto()
    CALL = auto()
    AFTER = auto()  # the call's object has ended, its message has not


class HarmonyReader(Reading):
    """Reads one answer; as `Reader` says."""

    def __init__(self, tools: Mapping[str, Schema], *, trusted: bool = False) -> None:
        super().__init__(tools, trusted=trusted)
        self._kind = _Kind.HEADER
        self._header_chars = 0
        self._name = ""

    @property
    def calling(self) -> str | None:
        section = self._section
        if section is None or section.calls or not section.raw:
            return None
        # Headers come in several forms; a grammar knows one.
        body = section.raw[self._header_chars :]
        return HARMONY.writing.before.replace("{name}", self._name) + body

    def push(self, text: str) -> list[Part]:
        self._held += text
        while self._held and (self._header() if self._kind is _Kind.HEADER else self._body()):
            pass
        return self._take()

    def finish(self) -> list[Part]:
        if self._section is not None:
            self._out += self._section.finish()
        if self._kind is _Kind.HEADER:
            if not self._held.lstrip().startswith(_HEADERS):
                self._out.append(Text(self._held))
        else:
            self._say(self._held)
        self._held = ""
        return self._take()

    def _header(self) -> bool:
        if not _is_header(self._held):
            self._kind = _Kind.TEXT  # an answer without a header
            return True
        at = self._held.find(_MESSAGE)
        if at < 0:
            return False
        head, self._held = self._held[: at + len(_MESSAGE)], self._held[at + len(_MESSAGE) :]
        channel, recipient = _CHANNEL.search(head), _RECIPIENT.search(head)
        if recipient is not None and recipient[1] in self._tools:
            self._kind, self._name, self._header_chars = _Kind.CALL, recipient[1], len(head)
            self._section = Section(
                functools.partial(_arguments, name=recipient[1]),
                self._tools,
                raw=head,
                trusted=self._trusted,
            )
        elif channel is not None and channel[1] == "analysis":
            self._kind = _Kind.THOUGHT
        else:
            self._kind = _Kind.TEXT
            if recipient is not None:  # of nobody: nothing that was said is lost
                self._out.append(Text(head))
        return True

    def _body(self) -> bool:
        found = [(at, end) for end in _ENDS if (at := self._held.find(end)) >= 0]
        if not found:
            keep = max(overlap(self._held, end) for end in _ENDS)
            sure = self._held[: len(self._held) - keep]
            self._say(sure)
            self._held = self._held[len(sure) :]
            return False
        at, end = min(found)
        self._say(self._held[:at])
        self._end_call()
        opens = end in ("<|start|>", "<|channel|>")
        self._held = self._held[at if opens else at + len(end) :]
        self._kind = _Kind.HEADER
        return True

    def _say(self, text: str) -> None:
        match self._kind:
            case _Kind.TEXT:
                self._out.append(Text(text))
            case _Kind.THOUGHT:
                self._out.append(Thought(text))
            case _Kind.AFTER:
                if text := text.lstrip():
                    self._kind = _Kind.TEXT
                    self._out.append(Text(text))
            case _Kind.CALL:
                assert self._section is not None
                taken = self._section.feed(text)
                if self._section.failed:
                    self._out += self._section.take()
                    self._out.append(Text(self._section.raw + text[taken:]))
                    self._section, self._kind = None, _Kind.TEXT
                elif self._section.over:
                    self._end_call()
                    self._kind = _Kind.AFTER
                    self._say(text[taken:])

    def _end_call(self) -> None:
        if self._section is not None:
            self._out += self._section.finish()
            self._calls += self._section.calls
            self._section = None


def _is_header(text: str) -> bool:
    """Whether a header begins like this, or may do so with more of it."""
    said = text.strip()
    return any(said.startswith(mark) or mark.startswith(said) for mark in _HEADERS)


def _arguments(section: Section, name: str) -> Characters:
    """The body of a call: one object."""
    section.another()
    section.began(name)
    character = yield from beyond_space()
    if character != "{":
        raise Malformed
    yield from nested(character, section.argue)
    section.ended()
