"""Parse an answer, token by token, into the events of its text, reasoning and tool calls. Pure.

However the text is cut into tokens, the events say the same. A marker of a call or of reasoning,
with the white space next to it, is syntax and in no event; every other character is in exactly
one. `TaggedAnswerParser` goes through these modes (the buffer is text that is not parsed yet):

    START      the opening tag of reasoning -> REASONING  the first character of a bare call -> CALL
               an ignored tag -> AFTER                    anything but white space -> TEXT
    TEXT       a trigger of calls -> CALL                 an ignored tag -> AFTER
    REASONING  its closing tag -> AFTER
    CALL       the section is complete -> AFTER           it has failed -> TEXT
    AFTER      white space is dropped                     anything else -> START
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum, auto

from localllm.engine.messages import Event, Token
from localllm.engine.worker.parsing.call_section import CallSection, Schema, SectionState
from localllm.engine.worker.parsing.detokenizer import overlap
from localllm.engine.worker.parsing.event_buffer import EventBuffer
from localllm.engine.worker.parsing.formats import ReasoningTags, ToolFormat


class AnswerParser(ABC):
    """Parses one answer."""

    def __init__(
        self, tools: Mapping[str, Schema], *, constrained: bool = False, one_call: bool = False
    ) -> None:
        """`tools`: the parameters of those that may be called, by name. `constrained`: a grammar
        guarantees that calls are well formed. `one_call`: the first one ends the answer."""
        self._tools = tools
        self._constrained = constrained
        self._one_call = one_call
        self._events = EventBuffer(one_call=one_call)
        self._buffer = ""
        self._section: CallSection | None = None
        self._calls = 0

    @property
    def complete_calls(self) -> int:
        return self._calls + (self._section.complete_calls if self._section is not None else 0)

    @property
    @abstractmethod
    def in_reasoning(self) -> bool:
        """True while what comes next is reasoning."""

    @property
    def has_called(self) -> bool:
        """True once a call has begun."""
        return self._events.calls_begun > 0

    @property
    def ended(self) -> bool:
        """True when the answer may say nothing more."""
        return self._one_call and self.complete_calls > 0

    @property
    @abstractmethod
    def call_prefix(self) -> str | None:
        """The text so far of the section of calls that is being parsed, for a grammar of such a
        section to begin with; None outside, and as long as the section may turn out to be text."""

    def push(self, token: Token) -> list[Event]:
        """Parse on; return the events that are certain now. Exactly one of them, the first that is
        a Token, has the token's log probabilities."""
        self._events.begin(token)
        self._buffer += token.text
        self._parse()
        return self._events.take()

    def finish(self, rest: Token) -> list[Event]:
        """End the answer with this text, which was held back; return the last events."""
        self._events.begin(rest)
        if not self.ended:
            self._buffer += rest.text
            self._parse()
            self._events.flush()
            self._finish()
            self._buffer = ""
        return self._events.take_rest()

    def constrain(self, constrained: bool) -> None:
        """Set whether a grammar guarantees what comes: then nothing has to be held back."""
        self._constrained = constrained
        if self._section is not None:
            self._section.constrain(constrained)

    @abstractmethod
    def _parse(self) -> None:
        """Parse what is certain of the buffer, and take it out."""

    @abstractmethod
    def _finish(self) -> None:
        """Parse the rest of the buffer, which nothing follows."""

    def _close_section(self) -> None:
        if self._section is not None:
            self._calls += self._section.complete_calls
            self._section = None


class _Mode(Enum):
    START = auto()
    TEXT = auto()
    REASONING = auto()
    CALL = auto()
    AFTER = auto()


class TaggedAnswerParser(AnswerParser):
    """Parses answers whose reasoning stands between tags and whose calls begin with a trigger."""

    def __init__(
        self,
        tool_format: ToolFormat,
        tags: ReasoningTags | None,
        tools: Mapping[str, Schema],
        *,
        reasoning: bool = False,
        continues: bool = False,
        constrained: bool = False,
        one_call: bool = False,
    ) -> None:
        """`reasoning`: the prompt ends with the opening tag, or inside the reasoning; `continues`:
        it ends inside the answer's text. Without `tools` calls are text."""
        super().__init__(tools, constrained=constrained, one_call=one_call)
        self._format = tool_format
        self._tags = tags
        self._triggers = tool_format.triggers if tools else ()
        self._ignored = tags.ignored if tags is not None else ()
        self._ends_of_text = self._triggers + self._ignored
        self._mode = _Mode.TEXT if continues else _Mode.START
        if reasoning and tags is not None:
            self._mode = _Mode.REASONING
        self._has_reasoned = False

    @property
    def call_prefix(self) -> str | None:
        section = self._section
        if section is None or section.complete_calls or not section.raw:
            return None
        text = section.raw.lstrip()
        announced = bool(self._triggers) and text.startswith(self._triggers)
        # A bare call is known to be one when its name is.
        return text if announced or section.in_call else None

    @property
    def in_reasoning(self) -> bool:
        return self._mode is _Mode.REASONING

    def _parse(self) -> None:
        while self._buffer and self._step():
            pass

    def _finish(self) -> None:
        match self._mode:
            case _Mode.CALL:
                assert self._section is not None
                self._section.finish()
            case _Mode.REASONING:
                self._add_reasoning(self._buffer.rstrip())
            case _Mode.START | _Mode.TEXT:
                self._events.text(self._buffer)

    def _step(self) -> bool:
        """Parse a stretch of the buffer; False when more text is needed."""
        match self._mode:
            case _Mode.START:
                return self._start()
            case _Mode.TEXT:
                return self._text()
            case _Mode.REASONING:
                return self._reasoning()
            case _Mode.CALL:
                return self._call()
            case _Mode.AFTER:
                self._buffer = self._buffer.lstrip()
                if self._buffer:
                    self._mode = _Mode.START
                return True

    def _start(self) -> bool:
        text, tags = self._buffer.lstrip(), self._tags
        if not text:
            return False
        if tags is not None:
            if text.startswith(tags.open):
                self._buffer = text[len(tags.open) :]
                self._mode, self._has_reasoned = _Mode.REASONING, False
                return True
            for tag in self._ignored:
                if text.startswith(tag):
                    self._buffer, self._mode = text[len(tag) :], _Mode.AFTER
                    return True
            if any(tag.startswith(text) for tag in (tags.open, *self._ignored)):
                return False
        if self._tools and text[0] in self._format.bare_starts:
            self._open_section("")
        else:
            self._mode = _Mode.TEXT
        return True

    def _text(self) -> bool:
        found = [(at, end) for end in self._ends_of_text if (at := self._buffer.find(end)) >= 0]
        if found:
            at, end = min(found)
            before, self._buffer = self._buffer[:at], self._buffer[at + len(end) :]
            text = before.rstrip()
            self._events.text(text)
            if end in self._triggers:
                self._open_section(before[len(text) :] + end)
            else:
                self._mode = _Mode.AFTER
            return True
        overlap_chars = max((overlap(self._buffer, end) for end in self._ends_of_text), default=0)
        certain = self._buffer[: len(self._buffer) - overlap_chars]
        if self._ends_of_text:
            certain = certain.rstrip()  # white space before a call is part of its syntax
        self._events.text(certain)
        self._buffer = self._buffer[len(certain) :]
        return False

    def _reasoning(self) -> bool:
        assert self._tags is not None
        close = self._tags.close
        at = self._buffer.find(close)
        if at >= 0:
            self._add_reasoning(self._buffer[:at].rstrip())
            self._buffer, self._mode = self._buffer[at + len(close) :], _Mode.AFTER
            return True
        certain = self._buffer[: len(self._buffer) - overlap(self._buffer, close)].rstrip()
        self._add_reasoning(certain)
        self._buffer = self._buffer[len(certain) :]
        return False

    def _add_reasoning(self, text: str) -> None:
        if not self._has_reasoned:
            text = text.lstrip()
        self._has_reasoned |= bool(text)
        self._events.reasoning(text)

    def _open_section(self, raw: str) -> None:
        self._section = CallSection(
            self._format.parse, self._events, self._tools, raw=raw, constrained=self._constrained
        )
        self._mode = _Mode.CALL

    def _call(self) -> bool:
        section = self._section
        assert section is not None
        self._buffer = self._buffer[section.feed(self._buffer) :]
        match section.state:
            case SectionState.COMPLETE:
                self._close_section()
                self._mode = _Mode.AFTER
            case SectionState.FAILED:
                self._close_section()
                self._mode = _Mode.TEXT
                self._events.text(section.raw)
            case SectionState.OPEN:
                pass
        return True
