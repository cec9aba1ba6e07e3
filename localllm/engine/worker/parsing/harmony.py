"""gpt-oss's answers: messages on channels, each with a header and a body.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary
    to=functions.f <|constrain|>json<|message|>{...}<|call|>

What is on the channel analysis is reasoning, what has a recipient is a call, the rest is text
(OpenAI's harmony response format, August 2025). The parser goes through these modes:

    HEADER      `<|message|>` -> REASONING, CALL or TEXT, as the header says
                a text that is no header -> TEXT
    CALL        its JSON object is complete -> AFTER_CALL    it has failed -> TEXT
    AFTER_CALL  white space is dropped; anything else -> TEXT
    any body    a control token that ends the message -> HEADER
"""

import functools
import re
from collections.abc import Mapping
from enum import Enum, auto

from localllm.engine.worker.parsing.call_section import (
    CallSection,
    Characters,
    MalformedCall,
    Schema,
    SectionState,
)
from localllm.engine.worker.parsing.detokenizer import overlap
from localllm.engine.worker.parsing.formats import HARMONY
from localllm.engine.worker.parsing.parser import AnswerParser
from localllm.engine.worker.parsing.syntax import json_container, skip_space

_MESSAGE = "<|message|>"
_NEXT_HEADER = ("<|start|>", "<|channel|>")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", *_NEXT_HEADER)
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*([a-z]+)")
_HEADER_STARTS = ("<|channel|>", "<|start|>", "<|message|>", "to=")
"""A header may begin in its middle: the prompt ends with `<|start|>assistant`."""

HARMONY_CALL_NEXT = "<|end|><|start|>assistant"
HARMONY_ANSWER_NEXT = "<|end|><|start|>assistant<|channel|>final<|message|>"
"""The end of a message of reasoning, and the beginning of the next: any, or the answer."""


class _Mode(Enum):
    HEADER = auto()
    TEXT = auto()
    REASONING = auto()
    CALL = auto()
    AFTER_CALL = auto()


class HarmonyAnswerParser(AnswerParser):
    """Parses one answer in OpenAI's harmony format."""

    def __init__(
        self,
        tools: Mapping[str, Schema],
        *,
        reasoning: bool = False,
        continues: bool = False,
        constrained: bool = False,
        one_call: bool = False,
    ) -> None:
        """`reasoning`, `continues`: the prompt ends inside a message of reasoning, or of text."""
        super().__init__(tools, constrained=constrained, one_call=one_call)
        self._mode = _Mode.TEXT if continues else _Mode.HEADER
        if reasoning:
            self._mode = _Mode.REASONING
        self._header_chars = 0
        self._name = ""

    @property
    def call_prefix(self) -> str | None:
        section = self._section
        if section is None or section.complete_calls or not section.raw:
            return None
        # A header can be written in several ways, of which the grammar knows one.
        arguments = section.raw[self._header_chars :]
        return HARMONY.call_syntax.begin(self._name) + arguments

    @property
    def in_reasoning(self) -> bool:
        return self._mode is _Mode.REASONING

    def _parse(self) -> None:
        while self._buffer and (self._header() if self._mode is _Mode.HEADER else self._body()):
            pass

    def _finish(self) -> None:
        if self._mode is not _Mode.HEADER:
            self._add(self._buffer)
            self._finish_section()
        elif not self._buffer.lstrip().startswith(_HEADER_STARTS):
            self._events.text(self._buffer)

    def _header(self) -> bool:
        """Parse a header; False when more text is needed."""
        if not _may_be_header(self._buffer):
            self._mode = _Mode.TEXT
            return True
        at = self._buffer.find(_MESSAGE)
        if at < 0:
            return False
        end = at + len(_MESSAGE)
        header, self._buffer = self._buffer[:end], self._buffer[end:]
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is not None and recipient[1] in self._tools:
            self._open_section(header, recipient[1])
        elif channel is not None and channel[1] == "analysis":
            self._mode = _Mode.REASONING
        else:
            self._mode = _Mode.TEXT
            if recipient is not None:  # an unknown one: nothing of the answer is lost
                self._events.text(header)
        return True

    def _open_section(self, header: str, name: str) -> None:
        self._mode, self._name, self._header_chars = _Mode.CALL, name, len(header)
        self._section = CallSection(
            functools.partial(_call_body, name=name),
            self._events,
            self._tools,
            raw=header,
            constrained=self._constrained,
        )

    def _body(self) -> bool:
        """Parse a stretch of a message's body; False when more text is needed."""
        found = [(at, end) for end in _ENDS if (at := self._buffer.find(end)) >= 0]
        if not found:
            overlap_chars = max(overlap(self._buffer, end) for end in _ENDS)
            certain = self._buffer[: len(self._buffer) - overlap_chars]
            self._add(certain)
            self._buffer = self._buffer[len(certain) :]
            return False
        at, end = min(found)
        self._add(self._buffer[:at])
        self._finish_section()
        self._buffer = self._buffer[at if end in _NEXT_HEADER else at + len(end) :]
        self._mode = _Mode.HEADER
        return True

    def _add(self, text: str) -> None:
        """Add a piece of the body of this message."""
        match self._mode:
            case _Mode.REASONING:
                self._events.reasoning(text)
            case _Mode.CALL:
                self._add_to_call(text)
            case _Mode.AFTER_CALL:
                if text := text.lstrip():
                    self._mode = _Mode.TEXT
                    self._events.text(text)
            case _Mode.TEXT:
                self._events.text(text)

    def _add_to_call(self, text: str) -> None:
        section = self._section
        assert section is not None
        rest = text[section.feed(text) :]
        match section.state:
            case SectionState.COMPLETE:
                self._finish_section()
                self._mode = _Mode.AFTER_CALL
                self._add(rest)
            case SectionState.FAILED:
                self._close_section()
                self._mode = _Mode.TEXT
                self._events.text(section.raw + rest)
            case SectionState.OPEN:
                pass

    def _finish_section(self) -> None:
        if self._section is not None:
            self._section.finish()
            self._close_section()


def _may_be_header(text: str) -> bool:
    """Tell whether a header begins like this, or may do so with more of it."""
    text = text.strip()
    return any(text.startswith(start) or start.startswith(text) for start in _HEADER_STARTS)


def _call_body(section: CallSection, name: str) -> Characters:
    """Parse a message to a function: one JSON object."""
    section.next_call()
    section.begin_call(name)
    character = yield from skip_space()
    if character != "{":
        raise MalformedCall
    yield from json_container(character, section.add_arguments)
    section.end_call()
