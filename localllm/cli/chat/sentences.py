"""An answer as a screen reader likes it: whole sentences, one a line, without Markdown's marks.

A screen reader speaks what is new. Pieces of words would be spelled, and a line that grows would be
read from its beginning each time; so text waits until a sentence or a line is whole. Code keeps its
lines as they are, between two lines that say where it begins and ends.
"""

import re
import time
from collections.abc import Callable
from typing import TextIO

from localllm.core.text import ControlFilter, single_line
from localllm.core.units import format_duration
from localllm.translation import _

PROGRESS_EVERY_S = 10.0
LONGEST_WAIT_S = 15.0
"""A slow model's sentence is spoken in parts after that: silence looks like a hang."""

_SENTENCE_END = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019)\]*_]*\s+|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019\uff09]*"
)
_NO_END = re.compile(r"(?:^|[\s(.])(?:\d+|\w|bzw|ca|vs|Dr|Mr|Mrs|Ms|St|No|Nr)\.\s+\Z")
"""Numbers of a list, initials and the commonest abbreviations."""
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([\w+#.-]*)")
_RULE = re.compile(r"\s*(?:[-*_]\s*){3,}\Z|\s*\|?[\s:|-]*-{3,}[\s:|-]*\Z")
_HEADING = re.compile(r"\s*#{1,6}\s+")
_EMPHASIS = re.compile(r"\*\*")
_CODE_SPAN = re.compile(r"(`+[^`]*`+)")


class SentenceWriter:
    """Write an answer to a stream, sentence by sentence. `name` is the model's."""

    def __init__(
        self, stream: TextIO, *, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._name = single_line(name)
        self._clock = clock
        self._filter = ControlFilter()
        self._pending = ""
        self._fence = ""
        self._begun = False
        self._thinking_since_s: float | None = None
        self._written_s = clock()

    def write_progress(self, read: int, total: int) -> None:
        """Say now and then how far a long question is read."""
        if read < total and self._clock() - self._written_s >= PROGRESS_EVERY_S:
            percent = 100 * read // total
            self._put(_("Reading: {percent} percent of {total} tokens.").format(
                percent=percent, total=total
            ))  # fmt: skip

    def write_reasoning(self, text: str) -> None:
        """Say that the model thinks; its thoughts are not spoken."""
        if self._thinking_since_s is None:
            self._thinking_since_s = self._clock()
            self._put(_("{name} is thinking.").format(name=self._name))

    def write(self, text: str) -> None:
        if not text:
            return
        self._pending += self._filter.feed(text)
        while (end := self._end_of_part()) is not None:
            part, self._pending = self._pending[:end], self._pending[end:]
            self._speak(part)

    def finish(self) -> None:
        """Write what is left, however the answer ended."""
        self._pending += self._filter.finish()
        for line in self._pending.split("\n"):
            self._speak(line)
        self._pending = ""
        if self._fence:
            self._fence = ""
            self._put(_("End of code."))

    def _end_of_part(self) -> int | None:
        """Return where the next part that can be spoken ends; None: it has to wait."""
        line_end = self._pending.find("\n") + 1
        if self._fence or _FENCE.match(self._pending):
            return line_end or None
        for match in _SENTENCE_END.finditer(self._pending, 0, line_end or len(self._pending)):
            if not _NO_END.search(self._pending[: match.end()]):
                return match.end()
        if line_end:
            return line_end
        if self._clock() - self._written_s >= LONGEST_WAIT_S:
            return (self._pending.rfind(" ") + 1) or None
        return None

    def _speak(self, part: str) -> None:
        text = part.strip("\n") if self._fence else part.strip()
        if not text.strip():
            return
        self._begin()
        if (fence := _FENCE.fullmatch(text)) is not None and self._ends_or_begins(fence[1]):
            self._toggle(fence)
        elif self._fence:
            self._put(text)
        elif not _RULE.match(text):
            self._put(spoken(text))

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._thinking_since_s is not None:
            seconds = self._clock() - self._thinking_since_s
            self._put(_("It thought for {time}.").format(time=format_duration(seconds)))
        self._put(_("{name}:").format(name=self._name))

    def _ends_or_begins(self, mark: str) -> bool:
        return not self._fence or (mark[0] == self._fence[0] and len(mark) >= len(self._fence))

    def _toggle(self, fence: re.Match[str]) -> None:
        if self._fence:
            self._fence = ""
            self._put(_("End of code."))
            return
        self._fence = fence[1]
        self._put(_("Code, {language}:").format(language=fence[2]) if fence[2] else _("Code:"))

    def _put(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
        self._written_s = self._clock()


def spoken(line: str) -> str:
    """Return a line of Markdown without the marks that would be spelled; code in it stays."""
    line = _HEADING.sub("", line, count=1) if _HEADING.match(line) else line
    pieces = _CODE_SPAN.split(line)
    return "".join(
        piece if index % 2 else _EMPHASIS.sub("", piece) for index, piece in enumerate(pieces)
    )
