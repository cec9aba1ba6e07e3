"""The answer that is being written, as lines: what is closed is laid out once, the open block at
every draw. What a draw costs does not depend on the length of the answer."""

import time
from collections.abc import Callable
from typing import Final

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from localllm.chat.conversation import ChatMessage
from localllm.core.text import ControlFilter, single_line
from localllm.core.units import format_duration
from localllm.engine.messages import PromptProgress
from localllm.translation import _, ngettext
from localllm.tui.figures import EMPTY, FULL
from localllm.tui.markdown.blocks import Block
from localllm.tui.markdown.highlight import LineHighlighter
from localllm.tui.markdown.layout import MarkdownLayout
from localllm.tui.markdown.stream import GrowingMarkdown
from localllm.tui.widgets.transcript.entry import FOLD, Entry, on_base
from localllm.tui.widgets.transcript.look import GUTTER, Look, on_one_line, text_width, wrapped

REASONING_LINES: Final = 8
"""Lines of the reasoning that are shown while it is written and unfolded, the last ones."""

_MAX_REASONING_TAIL = 2000
MIN_RATED_TOKENS = 32
"""Fewer tokens of a prompt say little about how long the rest takes."""


class LiveAnswer(Entry):
    """The answer that is being written. `clock` gives seconds, monotonic."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.note = ""
        """A few words at the end, such as "stopping…"."""
        self._clock = clock
        self._filter = ControlFilter()
        self._markdown = GrowingMarkdown()
        self._highlighter = LineHighlighter()
        self._closed_strips: list[Strip] = []
        self._closed_codes = 0
        self._last_closed: Block | None = None
        self._open: tuple[Block, ...] = ()
        self.has_text = False
        self._progress: PromptProgress | None = None
        self._progress_s = 0.0
        self.reading_rate: float | None = None
        """The tokens/s at which the model has read before, for the time before the first report."""
        self._reasoning_tail = ""
        self._reasoning_began_s: float | None = None
        self._reasoning_s = 0.0
        self._reasoning_tokens = 0
        self._head_height = 0
        self._layout: MarkdownLayout | None = None
        self.laid_out_blocks = 0
        """Blocks that were laid out so far, again ones included."""

    @property
    def message(self) -> ChatMessage | None:
        return None

    @property
    def folds(self) -> bool:
        return bool(self._reasoning_tail)

    # --- what comes from the engine ---

    def write(self, text: str) -> None:
        """Add the next piece of the answer."""
        if piece := self._filter.feed(text):
            self._end_reasoning()
            self.has_text = self.has_text or bool(piece.strip())
            self._markdown.append(piece)

    def write_reasoning(self, text: str) -> None:
        """Add the next piece of the reasoning."""
        if self._reasoning_began_s is None:
            self._reasoning_began_s = self._clock()
        self._reasoning_tokens += 1
        tail = self._reasoning_tail + ControlFilter().feed(text)
        self._reasoning_tail = tail[-_MAX_REASONING_TAIL:]

    def prompt_read(self, progress: PromptProgress) -> None:
        """Note how much of the prompt the engine has read."""
        self._progress = progress
        self._progress_s = self._clock()

    @property
    def reading(self) -> bool:
        """Tell whether nothing has come yet but the progress of reading."""
        return not (self.has_text or self._reasoning_tail)

    def _end_reasoning(self) -> None:
        if self._reasoning_began_s is not None:
            self._reasoning_s = self._clock() - self._reasoning_began_s
            self._reasoning_began_s = None

    # --- lines ---

    def strips(self, width: int, look: Look, *, marked: bool = False) -> list[Strip]:
        """Return the lines as they were at the last `update`, laid out anew for another width."""
        if not self.is_laid_out(width, look):
            self.update(width, look)
        return self._strips

    def update(self, width: int, look: Look) -> int:
        """Lay out what has come; returns the first line that has changed."""
        inner = text_width(width)
        layout = self._layout
        if layout is None or not self.is_laid_out(width, look):
            layout = self._layout = MarkdownLayout(
                styles=look.markdown, width=inner, wrap_code=self.wrap_code, codes=self.codes
            )
            self.codes.clear()
            self._closed_strips = []
            self._last_closed = None
            self._lay_out_closed(layout, self._markdown.closed, width, look)
            self._strips = []
        self._key = (width, look, False)
        newly_closed, self._open = self._markdown.update()
        kept = len(self._closed_strips)
        self._lay_out_closed(layout, newly_closed, width, look)
        head = [on_base(line, _BLANK, width, look) for line in self._head(inner, look)]
        tail = [on_base(line, _BLANK, width, look) for line in self._tail(layout, inner, look)]
        before = self._strips
        self._strips = [*head, *self._closed_strips, *tail]
        if len(head) != self._head_height or head != before[: len(head)]:
            self._head_height = len(head)
            return 0
        first = len(head) + kept
        while first < min(len(before), len(self._strips)) and before[first] == self._strips[first]:
            first += 1
        return first

    def _lay_out_closed(
        self, layout: MarkdownLayout, blocks: tuple[Block, ...], width: int, look: Look
    ) -> None:
        if not blocks:
            return
        del self.codes[self._closed_codes :]
        lines = layout.strips(blocks, after=self._last_closed)
        self.laid_out_blocks += len(blocks)
        self._closed_strips += [on_base(line, _BLANK, width, look) for line in lines]
        self._closed_codes = len(self.codes)
        self._last_closed = blocks[-1]

    def _tail(self, layout: MarkdownLayout, width: int, look: Look) -> list[Strip]:
        """Lay out the open block and what stands behind it."""
        del self.codes[self._closed_codes :]
        lines: list[Strip] = []
        if self._open:
            self.laid_out_blocks += len(self._open)
            whole, layout.highlight = layout.highlight, self._highlighter.lines
            lines = layout.strips(self._open, after=self._last_closed)
            layout.highlight = whole
        if self.note:
            lines.append(Strip([Segment(on_one_line(self.note, width), look.muted)]))
        return [*lines, Strip([])]

    def _head(self, width: int, look: Look) -> list[Strip]:
        """Lay out what stands above the answer: reading, thinking."""
        if self._reasoning_tail:
            return self._thinking(width, look)
        if self.has_text:
            return []
        since_s = self._clock() - self._progress_s
        return [progress_line(self._progress, width, look, since_s=since_s, rate=self.reading_rate)]

    def _thinking(self, width: int, look: Look) -> list[Strip]:
        began_s, seconds = self._reasoning_began_s, self._reasoning_s
        if began_s is not None:
            seconds = self._clock() - began_s
        words = _("thinking for {time}") if began_s is not None else _("thought for {time}")
        count = self._reasoning_tokens
        tokens = ngettext("{count} token", "{count} tokens", count).format(count=count)
        sign = "▾" if self.unfolded else "▸"
        head = f"{sign} {words.format(time=_whole_seconds(seconds))}, {tokens}"
        lines = [Strip([Segment(head, look.muted + Style(meta={FOLD: True}))])]
        if began_s is not None and not self.unfolded:
            last = single_line(self._reasoning_tail[-width:])
            lines.append(Strip([Segment("  "), Segment(last[-(width - 2) :], look.muted)]))
        elif self.unfolded:
            text = self._reasoning_tail.strip()
            shown = wrapped(text, width, look.muted, first=Segment("  "), indent=2)
            lines += shown[-REASONING_LINES:]
        return [*lines, Strip([])]

    def lay_out(self, width: int, look: Look) -> list[Strip]:
        raise NotImplementedError("a live answer is laid out by `update`")


_BLANK = Segment(" " * GUTTER)


def _whole_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else format_duration(seconds)


def progress_line(
    progress: PromptProgress | None,
    width: int,
    look: Look,
    *,
    since_s: float = 0.0,
    rate: float | None = None,
) -> Strip:
    """Write how much of the prompt is read, with a bar and the time that is left.

    The engine reports after each batch; `since_s` later, what it has read since is estimated by its
    rate so far, or by `rate`.
    """
    if progress is None:
        return Strip([Segment(_("waiting for the engine…"), look.muted)])
    computed = progress.processed - progress.cached
    if computed >= MIN_RATED_TOKENS and progress.elapsed_s > 0:
        rate = computed / progress.elapsed_s
    done = progress.processed
    if rate is not None:
        done = min(progress.total - 1, max(done, progress.cached) + int(rate * since_s))
    if done <= 0 or progress.processed >= progress.total:
        words = _("reading {total} tokens…").format(total=f"{progress.total:,}")
        return Strip([Segment(words, look.muted)])
    words = _("reading {done} of {total}").format(done=f"{done:,}", total=f"{progress.total:,}")
    if rate:
        left_s = (progress.total - done) / rate
        words += " · " + _("{time} left").format(time=_whole_seconds(max(1.0, left_s)))
    room = min(30, width - len(words) - 2)
    if room < 4:
        return Strip([Segment(on_one_line(words, width), look.muted)])
    filled = round(room * done / progress.total)
    return Strip(
        [
            Segment(words + "  ", look.muted),
            Segment(FULL * filled, look.mark),
            Segment(EMPTY * (room - filled), look.muted),
        ]
    )
