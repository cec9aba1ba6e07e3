"""The conversation as it is read: one widget for all messages, which draws the lines that are seen.

Theory of operation. Each message is an `Entry` that lays itself out once for a width and keeps its
lines. `render_line` finds the entry of a line and hands over a line that is kept, so a draw costs
what is on the screen, whatever stands above it. Entries that were not laid out for this width yet
(after a resize, or in a conversation that was just opened) have the height of their last layout, or
a guess; those on the screen are laid out when they are drawn, the others a few at a time while
nothing else happens.

Tokens are gathered: a draw takes what has come since the last one, `DRAW_S` later at the earliest,
and later still where drawing takes much of a core (`_pause_s`).
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.timer import Timer

from localllm.chat.conversation import ChatMessage, Conversation
from localllm.engine.messages import PromptProgress
from localllm.tui.markdown.layout import COPY, WRAP
from localllm.tui.widgets.transcript.entry import CITATION, FOLD, Entry, MessageEntry
from localllm.tui.widgets.transcript.lines import found_lines, styled
from localllm.tui.widgets.transcript.live import LiveAnswer
from localllm.tui.widgets.transcript.look import GUTTER, Look, look_of, text_width

DRAW_S: Final = 0.22
"""Seconds between two draws of an answer that is being written: four to five a second."""
MAX_DRAW_S: Final = 1.0
DRAW_SHARE: Final = 0.04
"""The share of a core that drawing may take; the pauses between draws grow with their cost."""
STREAM_INTERVAL_S: Final = 0.15
"""Seconds for which the engine gathers tokens: between two draws nobody looks at them, and each
piece that comes takes a core from one of the engine's threads for a moment."""

MAX_FREE_ROWS: Final = 6
"""Rows that are free below a fast answer, at most; it scrolls when they are full."""

LAYOUT_SLICE_S: Final = 0.008
"""Of layout in one go, while nothing is waited for."""

LAYOUT_PAUSE_S: Final = 0.015

GUESSED_HEIGHT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlace:
    """A place where a text was found: the line of an entry."""

    entry: Entry
    line: int


class CodeCopied(Message):
    """The head of a block of code was clicked: its text is to be copied."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code


class CitationOpened(Message):
    """A citation of an answer was clicked."""

    def __init__(self, message: ChatMessage, number: int) -> None:
        super().__init__()
        self.message = message
        self.number = number


class Transcript(ScrollView):
    """The messages of the branch that is shown. Posts CodeCopied and CitationOpened.

    The view stays at the end unless somebody scrolls up. `cursor` is the number of the entry that
    the keys of the messages mode are about, None in the prompt's.
    """

    FOCUS_ON_CLICK: ClassVar[bool] = False  # what is typed after a click belongs in the prompt
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "transcript--question",
        "transcript--mark",
        "transcript--muted",
        "transcript--failed",
        "transcript--match",
        "transcript--heading",
        "transcript--code",
        "transcript--border",
        "transcript--link",
        "transcript--keyword",
        "transcript--string",
        "transcript--number",
        "transcript--name",
    }

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self._clock = clock
        self._entries: list[Entry] = []
        self._tops: list[int] = []
        self._total = 0
        self._reserved = 0
        self._grown_lines = 0
        self._scrolled_s = 0.0
        self._live: LiveAnswer | None = None
        self._heights_changed = False
        """Lines were drawn whose number had only been guessed: what is below them has moved."""
        self._ended: LiveAnswer | None = None
        self._look: Look | None = None
        self._at_end = True
        self._draw_timer: Timer | None = None
        self._idle_timer: Timer | None = None
        self._drawn_s = 0.0
        self._draw_cost_s = 0.0
        self._query = ""
        self.cursor: int | None = None
        self.draws = 0
        self.drawn: Callable[[], None] | None = None
        """Called after each draw of an answer that is being written."""

    # --- what is shown ---

    @property
    def entries(self) -> Sequence[Entry]:
        return self._entries

    def show(self, conversation: Conversation) -> None:
        """Show the branch of a conversation. Messages that are on the screen already keep their
        lines, and how they are folded."""
        path = conversation.path()
        known = {each.message.id: each for each in self._entries if isinstance(each, MessageEntry)}
        entries: list[Entry] = []
        for message in path:
            versions = conversation.versions(message.id)
            version = (versions.index(message) + 1, len(versions))
            entry = known.get(message.id)
            if entry is None:
                entry = MessageEntry(message, version=version)
                if self._ended is not None:
                    entry.unfolded = self._ended.unfolded
                    entry.wrap_code = self._ended.wrap_code
            else:
                entry.show(message, version)
            entries.append(entry)
        if self._live is not None:
            entries.append(self._live)
        self._entries, self._ended = entries, None
        if self.cursor is not None:
            self.cursor = min(self.cursor, len(entries) - 1) if entries else None
        self._measure()
        self.refresh()

    def forget(self) -> None:
        """Forget the lines of all messages: another conversation is shown."""
        self._entries = [] if self._live is None else [self._live]
        self._at_end = True

    def begin_answer(self) -> LiveAnswer:
        """Begin an answer at the end; it stays until `end_answer`."""
        self._live = LiveAnswer(clock=self._clock)
        self._entries.append(self._live)
        self._at_end = True
        self._drawn_s = 0.0
        self._grown_lines, self._scrolled_s = 0, time.monotonic()
        self.draw()
        return self._live

    @property
    def writing(self) -> bool:
        """Tell whether text of an answer has come that is not over."""
        return self._live is not None and self._live.has_text

    def end_answer(self) -> None:
        """Take the answer away that is being written: its message is shown instead."""
        if self._live is None:
            return
        if self._draw_timer is not None:
            self._draw_timer.stop()
            self._draw_timer = None
        self._entries.remove(self._live)
        self._ended, self._live = self._live, None
        self._lay_out_soon()

    def write(self, text: str) -> None:
        """Add the next piece of the answer."""
        if self._live is not None:
            self._live.write(text)
            self._draw_soon()

    def write_reasoning(self, text: str) -> None:
        """Add the next piece of the reasoning."""
        if self._live is not None:
            self._live.write_reasoning(text)
            self._draw_soon()

    def tick(self) -> None:
        """Let the progress of reading go on, between two reports of the engine."""
        if self._live is not None and self._live.reading:
            self.draw()

    def prompt_read(self, progress: PromptProgress) -> None:
        """Show how much of the prompt the engine has read."""
        if self._live is not None:
            self._live.prompt_read(progress)
            self._draw_soon()

    def note(self, text: str) -> None:
        """Show a few words behind the answer that is being written, at once."""
        if self._live is not None:
            self._live.note = text
            self.draw()

    # --- drawing ---

    def _draw_soon(self) -> None:
        if self._draw_timer is None:
            wait_s = max(0.0, self._drawn_s + self._pause_s() - time.monotonic())
            self._draw_timer = self.set_timer(max(0.001, wait_s), self.draw)

    def _pause_s(self) -> float:
        return min(MAX_DRAW_S, max(DRAW_S, self._draw_cost_s / DRAW_SHARE))

    def draw(self) -> None:
        """Lay out what has come of the answer, and draw the lines that changed."""
        if self._draw_timer is not None:
            self._draw_timer.stop()
            self._draw_timer = None
        live = self._live
        if live is None or not self.is_attached or not self.size.width:
            return
        began_s = time.process_time()
        self._drawn_s = time.monotonic()
        self.draws += 1
        if self._heights_changed:
            self._heights_changed = False
            self._measure_keeping_place()
        height = live.height
        first = live.update(self.size.width, self.look)
        if live.height != height or self._total != live.top + live.height:
            self._grown_lines += max(0, live.height - height)
            self._measure(from_entry=len(self._entries) - 1)
        self._refresh_rows(live.top + first, live.top + max(height, live.height))
        if self.drawn is not None:
            self.drawn()
        self.call_after_refresh(self._note_cost, began_s)

    def _note_cost(self, began_s: float) -> None:
        cost_s = time.process_time() - began_s
        if not self._draw_cost_s:
            self._draw_cost_s = cost_s
        self._draw_cost_s += (cost_s - self._draw_cost_s) / 4

    def _refresh_rows(self, first: int, last: int) -> None:
        """Draw the lines from `first` up to `last` again, those of them that are seen."""
        top = self.scroll_offset.y
        first, last = max(first, top), min(last, top + self.size.height)
        if first < last:
            self.refresh(Region(0, first - top, self.size.width, last - first))

    @property
    def look(self) -> Look:
        """The styles of the theme."""
        if self._look is None:
            self._look = look_of(self)
        return self._look

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self._look is not None:
            look = look_of(self)
            if look != self._look:
                self._look = look
                self._lay_out_soon()

    def render_lines(self, crop: Region) -> list[Strip]:
        """Return the lines that are seen. The widget has no border and no padding: what Textual's
        own method does for those, and its cache, would cost more than all else here."""
        width, first = self.size.width, self.scroll_offset.y + crop.y
        strips = self._lines(first, first + crop.height)
        strips += [Strip.blank(width, self.look.base)] * (crop.height - len(strips))
        selection, query = self.text_selection, self._query
        if query:
            strips = [self._with_matches(strip) for strip in strips]
        if selection is not None:
            strips = [
                self._with_selection(strip, selection, line)
                for line, strip in enumerate(strips, start=first)
            ]
        strips = [strip.apply_offsets(0, line) for line, strip in enumerate(strips, start=first)]
        background = self.background_colors[1]
        for each in self.get_line_filters():
            strips = [strip.apply_filter(each, background) for strip in strips]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def _lines(self, first: int, last: int) -> list[Strip]:
        """Return the lines from `first` up to `last`, which is not one of them."""
        strips: list[Strip] = []
        if not self._entries or not self.size.width:
            return strips
        for entry in self._entries[self.entry_at(first) :]:
            if entry.top >= last:
                break
            height = entry.height
            lines = entry.strips(self.size.width, self.look, marked=self._is_marked(entry))
            if len(lines) != height:
                self._heights_changed = True
                self._lay_out_soon()
            strips += lines[max(0, first - entry.top) : last - entry.top]
        return strips[: last - first]

    def _is_marked(self, entry: Entry) -> bool:
        return self.cursor is not None and self._entries[self.cursor] is entry

    def entry_at(self, line: int) -> int:
        """Return the number of the entry that a line belongs to."""
        return max(0, bisect_right(self._tops, line) - 1)

    # --- layout ---

    def _measure(self, *, from_entry: int = 0) -> None:
        """Work out where each entry begins, and how far one can scroll."""
        del self._tops[from_entry:]
        top = 0
        if from_entry:
            above = self._entries[from_entry - 1]
            top = above.top + (above.height or GUESSED_HEIGHT)
        for entry in self._entries[from_entry:]:
            entry.top = top
            self._tops.append(top)
            top += entry.height or GUESSED_HEIGHT
        self._total = top
        self._reserved = self._with_room(top)
        # Not by assignment: that would arrange the whole screen again, for each line of an answer.
        self.set_reactive(Transcript.virtual_size, Size(self.size.width, self._reserved))
        if self.is_attached and self.size:
            self.vertical_scrollbar.window_virtual_size = max(self._reserved, self.size.height)
            if self._at_end or self.scroll_y > self.max_scroll_y:
                self.scroll_to(y=self.max_scroll_y, animate=False)

    def _with_room(self, height: int) -> int:
        """Return the lines to scroll in: while an answer is written fast, with free rows at the end
        for what it writes in the next second. Else the whole screen would be drawn for each line.
        """
        if self._live is None or not self._at_end or height <= self.size.height:
            return height
        if height <= self._reserved <= height + MAX_FREE_ROWS:
            return self._reserved
        now_s = time.monotonic()
        lines_per_s = self._grown_lines / max(1.0, now_s - self._scrolled_s)
        self._grown_lines, self._scrolled_s = 0, now_s
        return height + min(MAX_FREE_ROWS, round(lines_per_s))

    def on_resize(self, event: events.Resize) -> None:
        self._lay_out_visible()

    def _lay_out_visible(self) -> None:
        """Lay out what is on the screen, keeping the first line of the screen where it is."""
        width = self.size.width
        if not width or not self._entries:
            return
        if self._at_end:
            room = self.size.height
            for entry in reversed(self._entries):
                room -= len(entry.strips(width, self.look, marked=self._is_marked(entry)))
                if room <= 0:
                    break
            self._measure()
        else:
            number = self.entry_at(self.scroll_offset.y)
            entry = self._entries[number]
            inside = self.scroll_offset.y - entry.top
            room = self.size.height + inside
            for each in self._entries[number:]:
                room -= len(each.strips(width, self.look, marked=self._is_marked(each)))
                if room <= 0:
                    break
            self._measure()
            inside = min(inside, max(0, entry.height - 1))
            self.scroll_to(y=entry.top + inside, animate=False)
        self.refresh()
        self._lay_out_soon()

    def _lay_out_soon(self) -> None:
        """Lay out the entries that are not on the screen, a few at a time; not while an answer is
        written, from which it would take the processor."""
        if self._idle_timer is None and self.is_attached and self._live is None:
            self._idle_timer = self.set_timer(LAYOUT_PAUSE_S, self._lay_out_some)

    def _lay_out_some(self) -> None:
        self._idle_timer = None
        width = self.size.width
        if not width or self._live is not None:
            return
        until_s = time.perf_counter() + LAYOUT_SLICE_S
        waiting = [
            each for each in reversed(self._entries) if not each.is_laid_out(width, self.look)
        ]
        done = 0
        for entry in waiting:
            entry.strips(width, self.look, marked=self._is_marked(entry))
            done += 1
            if time.perf_counter() > until_s:
                break
        self._measure_keeping_place()
        if done < len(waiting):
            self._lay_out_soon()

    def _measure_keeping_place(self) -> None:
        """Measure after heights above the screen have changed; what is read stays where it is."""
        if self._at_end or not self._entries:
            self._measure()
        else:
            entry = self._entries[self.entry_at(self.scroll_offset.y)]
            inside = self.scroll_offset.y - entry.top
            self._measure()
            self.scroll_to(y=entry.top + inside, animate=False)
        self.refresh()

    # --- scrolling ---

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._at_end = new_value >= self.max_scroll_y

    @property
    def at_end(self) -> bool:
        return self._at_end

    def go_to_end(self) -> None:
        """Show the end, and stay there."""
        self._at_end = True
        self.scroll_to(y=self.max_scroll_y, animate=False)

    # --- the cursor of the messages mode ---

    def set_cursor(self, number: int | None) -> None:
        """Put the cursor on an entry and show it; None takes it away."""
        self.cursor = None if number is None or not self._entries else number
        if self.cursor is not None:
            self.cursor = max(0, min(self.cursor, len(self._entries) - 1))
            self._scroll_to_entry(self._entries[self.cursor])
        self.refresh()

    def _scroll_to_entry(self, entry: Entry) -> None:
        entry.strips(self.size.width, self.look, marked=True)
        self._measure_keeping_place()
        top, height = self.scroll_offset.y, self.size.height
        if entry.top < top or entry.height >= height:
            self.scroll_to(y=entry.top, animate=False)
        elif entry.top + entry.height > top + height:
            self.scroll_to(y=entry.top + entry.height - height, animate=False)

    @property
    def current(self) -> Entry | None:
        """The entry under the cursor."""
        return None if self.cursor is None else self._entries[self.cursor]

    def toggle_fold(self, entry: Entry) -> None:
        """Fold or unfold the reasoning, a long question, a tool's result."""
        if entry.folds:
            entry.unfolded = not entry.unfolded
            self.entry_changed(entry)

    def toggle_wrap(self, entry: Entry) -> None:
        """Break the long lines of code, or cut them."""
        entry.wrap_code = not entry.wrap_code
        self.entry_changed(entry)

    def entry_changed(self, entry: Entry) -> None:
        entry.changed()
        entry.strips(self.size.width, self.look, marked=self._is_marked(entry))
        self._measure_keeping_place()

    # --- mouse ---

    def on_click(self, event: events.Click) -> None:
        number = self.entry_at(self.scroll_offset.y + event.y)
        if number >= len(self._entries):
            return
        entry, meta = self._entries[number], event.style.meta
        if COPY in meta:
            self.post_message(CodeCopied(entry.codes[meta[COPY]]))
        elif WRAP in meta:
            self.toggle_wrap(entry)
        elif FOLD in meta:
            self.toggle_fold(entry)
        elif CITATION in meta and entry.message is not None:
            self.post_message(CitationOpened(entry.message, meta[CITATION]))

    # --- selection with the mouse ---

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        width, look = self.size.width, self.look
        lines = [
            strip.text.rstrip()
            for entry in self._entries
            for strip in entry.strips(width, look, marked=self._is_marked(entry))
        ]
        text = selection.extract("\n".join(lines))
        return "\n".join(line.removeprefix(" " * GUTTER) for line in text.split("\n")), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def _with_selection(self, strip: Strip, selection: Selection, line: int) -> Strip:
        span = selection.get_span(line)
        if span is None:
            return strip
        start, end = span
        text = strip.text
        end = len(text.rstrip()) if end == -1 else end
        style = self.screen.get_component_rich_style("screen--selection")
        return styled(strip, [(start, end)], style)

    # --- finding ---

    def find(self, query: str) -> tuple[FoundPlace, ...]:
        """Mark every place of a text, and return them from top to bottom; "" ends that."""
        self._query = " ".join(query.casefold().split())
        self.refresh()
        if not self._query:
            return ()
        width, look = self.size.width, self.look
        found: list[FoundPlace] = []
        for entry in self._entries:
            message = entry.message
            if (
                not entry.is_laid_out(width, look)
                and message is not None
                and self._query not in " ".join(message.text.casefold().split())
            ):
                continue  # laying out all of a long conversation would take seconds
            strips = entry.strips(width, look, marked=self._is_marked(entry))
            lines = [strip.text.casefold() for strip in strips]
            places = found_lines(lines, self._query)
            found += [FoundPlace(entry=entry, line=line) for line in places]
        self._measure_keeping_place()
        return tuple(found)

    def show_place(self, place: FoundPlace) -> None:
        """Bring a place that was found to the middle of the screen."""
        y = place.entry.top + place.line - self.size.height // 2
        self.scroll_to(y=max(0, y), animate=False)

    def _with_matches(self, strip: Strip) -> Strip:
        text = strip.text.casefold()
        spans, at = [], text.find(self._query)
        while at >= 0:
            spans.append((at, at + len(self._query)))
            at = text.find(self._query, at + len(self._query))
        return styled(strip, spans, self.look.match) if spans else strip

    def text_width(self) -> int:
        """Return the columns that text takes now."""
        return text_width(self.size.width)
