"""One message of the transcript as lines: a value that is laid out once for a width and kept."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from localllm.chat.conversation import Attachment, ChatMessage, Ending
from localllm.core.text import even_widths, single_line, strip_controls, truncation_notice
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.engine.messages import Role
from localllm.translation import N_, _, ngettext
from localllm.tui.markdown.blocks import parse
from localllm.tui.markdown.layout import COPY, MarkdownLayout
from localllm.tui.widgets.picture import pictures
from localllm.tui.widgets.transcript.look import (
    CURSOR_MARK,
    GUTTER,
    Look,
    at_both_ends,
    on_one_line,
    text_width,
    wrapped,
)

FOLD: Final = "fold"
"""Key of a segment's meta: a click folds or unfolds the entry."""

FOLDED_QUESTION_LINES = 30
FOLDED_QUESTION_CHARS = 4000
MAX_UNFOLDED_CHARS = 200_000
"""Of one message that is unfolded; what is behind can be copied."""

ENDING_NOTES: Final = {
    Ending.COMPLETE: "",
    Ending.STOPPED: N_("stopped"),
    Ending.CUT: N_("the answer ends here: no more room"),
    Ending.BROKEN: N_("the answer broke off here"),
}


class Entry(ABC):
    """One message on the screen. `top` is the line of the transcript at which it begins; it belongs
    to the transcript. `unfolded` and `wrap_code` are how a person has it."""

    def __init__(self) -> None:
        self.top = 0
        self.unfolded = False
        self.wrap_code = False
        self.codes: list[str] = []
        self._key: tuple[int, Look, bool] | None = None
        self._strips: list[Strip] = []

    @property
    @abstractmethod
    def message(self) -> ChatMessage | None:
        """The message that is shown; None while it is being written."""

    @property
    @abstractmethod
    def folds(self) -> bool:
        """Tell whether there is something to fold or unfold."""

    @abstractmethod
    def lay_out(self, width: int, look: Look) -> list[Strip]:
        """Return the lines, without the gutter, for text of this width."""

    @property
    def height(self) -> int:
        """The lines that it has, or had at the last layout."""
        return len(self._strips)

    def is_laid_out(self, width: int, look: Look) -> bool:
        key = self._key
        return key is not None and key[0] == width and key[1] is look

    def strips(self, width: int, look: Look, *, marked: bool = False) -> list[Strip]:
        """Return the lines for a transcript of this width, laid out now if they were not.

        `marked`: the cursor is here. A blank line follows each entry.
        """
        if self._key is None or not self.is_laid_out(width, look) or self._key[2] != marked:
            self.codes.clear()
            lines = [*self.lay_out(text_width(width), look), Strip([])]
            gutter = Segment(CURSOR_MARK if marked else " " * GUTTER, look.mark)
            self._strips = [on_base(line, gutter, width, look) for line in lines[:-1]]
            self._strips.append(on_base(lines[-1], Segment(" " * GUTTER), width, look))
            self._key = (width, look, marked)
        return self._strips

    def changed(self) -> None:
        """Forget the lines: what they show has changed."""
        self._key = None


def on_base(line: Strip, gutter: Segment, width: int, look: Look) -> Strip:
    """Put a line behind its gutter on the background, as wide as the transcript."""
    strip = Strip([gutter, *line]).apply_style(look.base)
    return strip.adjust_cell_length(width, look.base)


class MessageEntry(Entry):
    """A message that is over: a question, an answer, or the result of a tool.

    `version` is its number among its versions, and how many there are.
    """

    def __init__(self, message: ChatMessage, *, version: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self._message = message
        self.version = version

    @property
    def message(self) -> ChatMessage:
        return self._message

    @property
    def folds(self) -> bool:
        match self._message.role:
            case Role.USER:
                return _is_long(self._message.text)
            case Role.TOOL:
                return True
        return bool(self._message.reasoning)

    def show(self, message: ChatMessage, version: tuple[int, int]) -> None:
        """Show this message instead."""
        if (self._message, self.version) != (message, version):
            self._message, self.version = message, version
            self.changed()

    def lay_out(self, width: int, look: Look) -> list[Strip]:
        match self._message.role:
            case Role.USER | Role.SYSTEM:
                return self._question(width, look)
            case Role.TOOL:
                return self._tool_result(width, look)
        return self._answer(width, look)

    def _question(self, width: int, look: Look) -> list[Strip]:
        text = even_widths(strip_controls(self._message.text))
        folded = _is_long(text) and not self.unfolded
        shown = _beginning(text) if folded else text[:MAX_UNFOLDED_CHARS]
        mark = version_mark(self.version)
        lines = wrapped(
            shown,
            width - (cell_len(mark) + 1 if mark else 0),
            look.question,
            first=Segment("\u203a ", look.mark),
            indent=2,
        )
        if mark:
            lines[0] = at_both_ends(list(lines[0]), [Segment(mark, look.muted)], width)
        if folded:
            more = text.count("\n", len(shown)) + 1
            words = ngettext("{count} more line", "{count} more lines", more).format(count=more)
            lines.append(
                Strip([Segment("  "), Segment(f"▸ {words}", look.muted + Style(meta={FOLD: True}))])
            )
        return [*lines, *attachment_lines(self._message.attachments, width, look)]

    def _tool_result(self, width: int, look: Look) -> list[Strip]:
        text = even_widths(strip_controls(self._message.text))[:MAX_UNFOLDED_CHARS]
        name = single_line(self._message.tool_name or _("tool"))
        sign = "▾" if self.unfolded else "▸"
        head = on_one_line(f"{sign} {name}: {single_line(text[:400])}", width)
        lines = [Strip([Segment(head, look.muted + Style(meta={FOLD: True}))])]
        if self.unfolded:
            lines += wrapped(text, width, look.muted, first=Segment("  "), indent=2)
        return lines

    def _answer(self, width: int, look: Look) -> list[Strip]:
        message = self._message
        lines = [*reasoning_lines(message, width, look, unfolded=self.unfolded)]
        if message.text.strip():
            layout = MarkdownLayout(
                styles=look.markdown, width=width, wrap_code=self.wrap_code, codes=self.codes
            )
            lines += layout.strips(parse(strip_controls(message.text)))
        for call in message.tool_calls:
            words = on_one_line(f"→ {single_line(call.name)}({single_line(call.arguments)})", width)
            lines.append(Strip([Segment(words, look.muted)]))
        for cited in message.citations:
            place = f":{cited.line}" if cited.page is None else f", {_('page')} {cited.page}"
            words = on_one_line(f"[{cited.number}] {single_line(cited.path)}{place}", width)
            lines.append(Strip([Segment(words, look.muted + Style(meta={CITATION: cited.number}))]))
        return [*lines, *self._notes(width, look)]

    def _notes(self, width: int, look: Look) -> list[Strip]:
        message = self._message
        style = look.failed if message.ending is Ending.BROKEN else look.muted
        notes = [message.remark or _(ENDING_NOTES[message.ending])]
        if not notes[0] and not message.text and not message.tool_calls:
            notes = [_("the model wrote nothing")]
        notes += [truncation_notice(message.left_out), *message.warnings]
        text = " · ".join(single_line(note) for note in notes if note)
        lines = wrapped(text, width, style) if text else []
        end = " · ".join(part for part in (stats_line(message), version_mark(self.version)) if part)
        if end:
            lines.append(at_both_ends((), [Segment(end, look.muted)], width))
        return lines


CITATION: Final = "citation"
"""Key of a segment's meta: the number of the citation that a click opens."""


def version_mark(version: tuple[int, int]) -> str:
    number, count = version
    return f"\u2039{number}/{count}\u203a" if count > 1 else ""


def stats_line(message: ChatMessage) -> str:
    """Write what the engine measured of an answer; "" when it did not."""
    stats = message.stats
    if stats is None:
        return ""
    parts = []
    if stats.decode_tps is not None:
        parts.append(format_rate(stats.decode_tps))
    if stats.ttft_s is not None:
        parts.append(_("first {time}").format(time=format_duration(stats.ttft_s)))
    count = stats.completion_tokens
    parts.append(ngettext("{count} token", "{count} tokens", count).format(count=count))
    return " · ".join(parts)


def reasoning_lines(message: ChatMessage, width: int, look: Look, *, unfolded: bool) -> list[Strip]:
    """Write the reasoning of an answer: its length and time, and its text when it is unfolded."""
    if not message.reasoning.strip():
        return []
    stats = message.stats
    parts = [_("thought")]
    if stats is not None and stats.reasoning_s is not None:
        parts[0] = _("thought for {time}").format(time=format_duration(stats.reasoning_s))
    if stats is not None and stats.reasoning_tokens:
        count = stats.reasoning_tokens
        parts.append(ngettext("{count} token", "{count} tokens", count).format(count=count))
    head = f"{'▾' if unfolded else '▸'} {', '.join(parts)}"
    lines = [Strip([Segment(head, look.muted + Style(meta={FOLD: True}))])]
    if unfolded:
        text = even_widths(strip_controls(message.reasoning)).strip()[:MAX_UNFOLDED_CHARS]
        lines += wrapped(text, width, look.muted, first=Segment("  "), indent=2)
    return [*lines, Strip([])]


def attachment_lines(attachments: Sequence[Attachment], width: int, look: Look) -> list[Strip]:
    """Write one line for each file that goes with a question, and below it a picture's copy, where
    one was made."""
    lines: list[Strip] = []
    for each in attachments:
        label = on_one_line(attachment_label(each), width - 2)
        lines.append(Strip([Segment("  "), Segment(label, look.muted)]))
        if each.data:
            copy = pictures.strips(each.data, width - 2)
            lines += [Strip([Segment("  "), *strip]) for strip in copy]
    return lines


def attachment_label(attachment: Attachment) -> str:
    """Write an attachment's name, its tokens or size, and what was cut of it."""
    parts = [f"@ {single_line(attachment.name)}"]
    if attachment.tokens is not None:
        count = attachment.tokens
        parts.append(ngettext("{count} token", "{count} tokens", count).format(count=f"{count:,}"))
    elif attachment.data:
        parts.append(format_bytes(len(attachment.data)))
    if attachment.cut_tokens:
        count = attachment.cut_tokens
        parts.append(
            ngettext("{count} token left out", "{count} tokens left out", count).format(
                count=f"{count:,}"
            )
        )
    return " · ".join(parts)


def _is_long(text: str) -> bool:
    return len(text) > FOLDED_QUESTION_CHARS or text.count("\n") >= FOLDED_QUESTION_LINES


def _beginning(text: str) -> str:
    lines = text[:FOLDED_QUESTION_CHARS].split("\n")
    return "\n".join(lines[: FOLDED_QUESTION_LINES - 1])


__all__ = ["CITATION", "COPY", "FOLD", "Entry", "MessageEntry", "replace"]
