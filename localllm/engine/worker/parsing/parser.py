"""Parse an answer's text, as it grows, into text, reasoning and tool calls. Pure.

However the text is cut into pieces, the events are the same. What is around a call or a reasoning
block (markers, and white space next to them) is syntax and in no event; everything else is in
exactly one.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Protocol

from localllm.engine.worker.parsing.call_section import Part, Schema, Section, Text, Thought, joined
from localllm.engine.worker.parsing.detokenizer import overlap
from localllm.engine.worker.parsing.formats import Family, Fence


class Reading:
    """The common half of the readers; what its methods promise is said in `reader.Reader`."""

    def __init__(self, tools: Mapping[str, Schema], *, trusted: bool) -> None:
        self._tools = tools
        self._trusted = trusted
        self._held = ""
        self._out: list[Part] = []
        self._section: Section | None = None
        self._calls = 0

    @property
    def calls(self) -> int:
        return self._calls + (self._section.calls if self._section is not None else 0)

    def trust(self) -> None:
        self._trusted = True
        if self._section is not None:
            self._section.trust()

    def distrust(self) -> None:
        self._trusted = False
        if self._section is not None:
            self._section.distrust()

    def _take(self) -> list[Part]:
        if self._section is not None:
            self._out += self._section.take()
        out, self._out = joined(self._out), []
        return out


class Reader(Protocol):
    """Reads one answer."""

    @property
    def calls(self) -> int:
        """Complete calls so far."""

    @property
    def calling(self) -> str | None:
        """The text of the section of calls that is being read, once it is sure to be one; None
        outside. It is what a grammar of the section has to be told first."""

    def push(self, text: str) -> list[Part]:
        """Read on; return what is certain now."""

    def finish(self) -> list[Part]:
        """The answer has ended."""

    def trust(self) -> None:
        """What comes follows a grammar, until `distrust`: nothing has to be held back."""

    def distrust(self) -> None: ...


class _Mode(Enum):
    START = auto()  # nothing but white space yet: a fence or a bare call may begin
    TEXT = auto()
    THINK = auto()
    CALL = auto()
    AFTER = auto()  # a fence or a section has ended: white space is part of it


class TextReader(Reading):
    """Reads answers whose reasoning stands in a fence and whose calls begin with a trigger."""

    def __init__(
        self,
        family: Family,
        fence: Fence | None,
        tools: Mapping[str, Schema],
        *,
        thinking: bool = False,
        trusted: bool = False,
    ) -> None:
        """`thinking`: the prompt has opened the fence. `tools` empty: calls are text."""
        super().__init__(tools, trusted=trusted)
        self._family = family
        self._fence = fence
        self._triggers = family.triggers if tools else ()
        self._mode = _Mode.THINK if thinking and fence is not None else _Mode.START
        self._thought_began = False

    @property
    def calling(self) -> str | None:
        section = self._section
        if section is None or section.calls or not section.raw:
            return None
        announced = section.raw.lstrip().startswith(self._triggers) if self._triggers else False
        return section.raw.lstrip() if announced or section.begun else None

    def push(self, text: str) -> list[Part]:
        self._held += text
        while self._step():
            pass
        return self._take()

    def finish(self) -> list[Part]:
        match self._mode:
            case _Mode.CALL:
                assert self._section is not None
                self._out += self._section.finish()
            case _Mode.THINK:
                self._think(self._held.rstrip())
            case _Mode.START | _Mode.TEXT:
                self._out.append(Text(self._held))
        self._held = ""
        return self._take()

    def _step(self) -> bool:
        """Read a stretch of what is held; false when more text is needed."""
        if not self._held:
            return False
        match self._mode:
            case _Mode.START:
                return self._start()
            case _Mode.TEXT:
                return self._text()
            case _Mode.THINK:
                return self._thinking()
            case _Mode.CALL:
                return self._call()
            case _Mode.AFTER:
                self._held = self._held.lstrip()
                if self._held:
                    self._mode = _Mode.START
                return bool(self._held)

    def _start(self) -> bool:
        said = self._held.lstrip()
        if not said:
            return False
        fence = self._fence
        if fence is not None:
            if said.startswith(fence.opens):
                self._held = said[len(fence.opens) :]
                self._mode, self._thought_began = _Mode.THINK, False
                return True
            for marker in fence.wrapping:
                if said.startswith(marker):
                    self._held, self._mode = said[len(marker) :], _Mode.AFTER
                    return True
            if any(mark.startswith(said) for mark in (fence.opens, *fence.wrapping)):
                return False
        if self._tools and said[0] in self._family.bare:
            self._open("", "")
        else:
            self._mode = _Mode.TEXT
        return True

    def _text(self) -> bool:
        ends = self._triggers + (self._fence.wrapping if self._fence is not None else ())
        found = [(at, end) for end in ends if (at := self._held.find(end)) >= 0]
        if found:
            at, end = min(found)
            said, self._held = self._held[:at], self._held[at + len(end) :]
            text = said.rstrip()
            self._out.append(Text(text))
            if end in self._triggers:
                self._open(said[len(text) :], end)
            else:
                self._mode = _Mode.AFTER
            return True
        keep = max((overlap(self._held, end) for end in ends), default=0)
        sure = self._held[: len(self._held) - keep]
        if ends:
            sure = sure.rstrip()  # white space before a call is part of it
        self._out.append(Text(sure))
        self._held = self._held[len(sure) :]
        return False

    def _thinking(self) -> bool:
        assert self._fence is not None
        closes = self._fence.closes
        at = self._held.find(closes)
        if at >= 0:
            self._think(self._held[:at].rstrip())
            self._held, self._mode = self._held[at + len(closes) :], _Mode.AFTER
            return True
        sure = self._held[: len(self._held) - overlap(self._held, closes)].rstrip()
        self._think(sure)
        self._held = self._held[len(sure) :]
        return False

    def _think(self, text: str) -> None:
        if not self._thought_began:
            text = text.lstrip()
        self._thought_began |= bool(text)
        self._out.append(Thought(text))

    def _open(self, space: str, trigger: str) -> None:
        self._section = Section(
            self._family.syntax, self._tools, raw=space + trigger, trusted=self._trusted
        )
        self._mode = _Mode.CALL

    def _call(self) -> bool:
        section = self._section
        assert section is not None
        self._held = self._held[section.feed(self._held) :]
        if section.failed:
            self._close(section, _Mode.TEXT)
            self._out.append(Text(section.raw))
        elif section.over:
            self._close(section, _Mode.AFTER)
        return bool(self._held)

    def _close(self, section: Section, mode: _Mode) -> None:
        self._out += section.take()
        self._calls += section.calls
        self._section, self._mode = None, mode
