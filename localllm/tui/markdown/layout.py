"""Markdown on lines of a width: blocks in, strips out.

Text is broken between words; a block of code has a frame whose head copies it (`COPY`) and breaks
its long lines or not (`WRAP`), by a click.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from localllm.translation import _
from localllm.tui.markdown.blocks import (
    Block,
    CodeBlock,
    Heading,
    Inline,
    ListItem,
    MathBlock,
    Paragraph,
    Quote,
    Rule,
    Table,
)
from localllm.tui.markdown.highlight import highlighted
from localllm.tui.markdown.style import MarkdownStyles

COPY: Final = "copy_code"
WRAP: Final = "wrap_code"
"""Keys of a segment's meta: the number of the block of code that a click copies or wraps."""

MIN_WIDTH = 4
CUT_MARK = "\u203a"
BULLETS = ("•", "◦", "▪")

_CONSOLE = Console(width=80, color_system="truecolor", force_terminal=True, legacy_windows=False)
"""Splits lines; nothing is ever printed on it."""

Highlight = Callable[[str, str, MarkdownStyles], list[Text]]


@dataclass(slots=True, kw_only=True)
class MarkdownLayout:
    """Lays out blocks. `codes` are the blocks of code met so far, as they are copied.

    `wrap_code`: long lines of code are broken; else they are cut with a mark.
    """

    styles: MarkdownStyles
    width: int
    wrap_code: bool = False
    highlight: Highlight = highlighted
    codes: list[str] = field(default_factory=list)
    _depth: int = 0

    def strips(self, blocks: Sequence[Block], *, after: Block | None = None) -> list[Strip]:
        """Return the lines of blocks; `after` is the block that stands above them."""
        return [Strip(line) for line in self._lines(blocks, self.width, after)]

    def _lines(
        self, blocks: Sequence[Block], width: int, after: Block | None = None
    ) -> list[list[Segment]]:
        lines: list[list[Segment]] = []
        above = after
        for block in blocks:
            if above is not None and _apart(above, block):
                lines.append([])
            lines.extend(self._block(block, max(MIN_WIDTH, width)))
            above = block
        return lines

    def _block(self, block: Block, width: int) -> list[list[Segment]]:
        match block:
            case Paragraph():
                return self._wrapped(self._text(block.text), width)
            case Heading():
                text = self._text(block.text)
                text.stylize(self.styles.heading)
                if block.level == 1:
                    text.stylize(Style(underline=True))
                return self._wrapped(text, width)
            case CodeBlock():
                return self._code(block, width)
            case MathBlock():
                text = Text(block.text, style=self.styles.emphasis)
                return [[Segment("  "), *line] for line in self._wrapped(text, width - 2)]
            case Quote():
                bar = Segment("▎ ", self.styles.border)
                return [[bar, *line] for line in self._lines(block.blocks, width - 2)]
            case ListItem():
                return self._item(block, width)
            case Table():
                return self._table(block, width)
            case Rule():
                return [[Segment("─" * width, self.styles.border)]]

    def _text(self, inline: Inline) -> Text:
        text = Text(style=self.styles.text, end="")
        for span in inline:
            text.append(span.text.expandtabs(4), self.styles.of(span.marks))
        return text

    def _wrapped(self, text: Text, width: int) -> list[list[Segment]]:
        width = max(MIN_WIDTH, width)
        lines = text.wrap(_CONSOLE, width, tab_size=4) if text.plain else [text]
        return [_segments(line) for line in lines]

    def _item(self, item: ListItem, width: int) -> list[list[Segment]]:
        if item.checked is not None:
            marker = "☑ " if item.checked else "☐ "
        elif item.number is not None:
            marker = f"{item.number}. "
        else:
            marker = BULLETS[min(self._depth, len(BULLETS) - 1)] + " "
        indent = len(marker)
        self._depth += 1
        lines = self._lines(item.blocks, width - indent) or [[]]
        self._depth -= 1
        first, *rest = lines
        return [
            [Segment(marker, self.styles.muted), *first],
            *([Segment(" " * indent), *line] if line else [] for line in rest),
        ]

    def _code(self, block: CodeBlock, width: int) -> list[list[Segment]]:
        number = len(self.codes)
        code = block.code.removesuffix("\n")
        self.codes.append(code)
        border, inner = self.styles.border, max(2, width - 4)
        lines: list[list[Segment]] = []
        wraps = False
        for line in self.highlight(code, block.language, self.styles):
            parts, cut = [line], False
            if cell_len(line.plain) > inner:
                wraps = True
                cut = not self.wrap_code
                parts = [_folded(line, inner - 1)[0]] if cut else _folded(line, inner)
            for part in parts:
                part.rstrip()  # as `_segments` does, before its cells are counted
                room = " " * (inner - cell_len(part.plain) - cut)
                mark = Segment(room + CUT_MARK * cut + " ", self.styles.muted)
                lines.append([Segment("│ ", border), *_segments(part), mark, Segment("│", border)])
        return [
            self._code_head(block.language, number, width, wraps=wraps),
            *lines,
            [Segment(f"└{'─' * (width - 2)}┘", border)],
        ]

    def _code_head(self, language: str, number: int, width: int, *, wraps: bool) -> list[Segment]:
        border, muted = self.styles.border, self.styles.muted
        copies = [Segment(f" {_('c copies')} ", muted + Style(meta={COPY: number}))]
        if wraps:
            copies += [
                Segment("·", muted),
                Segment(f" {_('w wraps')} ", muted + Style(meta={WRAP: number})),
            ]
        label = f" {language} " if language else ""
        used = 2 + cell_len(label) + sum(cell_len(each.text) for each in copies)
        if used + 2 > width:
            copies, used = [], 2 + cell_len(label)
        if used + 2 > width:
            label, used = "", 2
        return [
            Segment("┌", border),
            Segment(label, muted),
            Segment("─" * (width - used), border),
            *copies,
            Segment("┐", border),
        ]

    # --- tables ---

    def _table(self, table: Table, width: int) -> list[list[Segment]]:
        columns = len(table.head)
        cells = [[self._text(cell) for cell in row] for row in (table.head, *table.rows)]
        for cell in cells[0]:
            cell.stylize(self.styles.strong)
        widths = column_widths(
            [[cell_len(cell.plain) for cell in row[:columns]] for row in cells],
            [[_longest_word(cell.plain) for cell in row[:columns]] for row in cells],
            width - 3 * (columns - 1),
        )
        if widths is None:
            return self._as_records(table, width)
        lines: list[list[Segment]] = []
        for index, row in enumerate(cells):
            lines.extend(self._row(row, widths, table.alignments))
            if index == 0:
                rule = "─┼─".join("─" * each for each in widths)
                lines.append([Segment(rule, self.styles.border)])
        return lines

    def _row(
        self, row: Sequence[Text], widths: Sequence[int], alignments: Sequence[str]
    ) -> list[list[Segment]]:
        wrapped = [
            list(cell.wrap(_CONSOLE, width)) if cell.plain else [Text()]
            for cell, width in zip(row, widths, strict=False)
        ]
        wrapped += [[Text()]] * (len(widths) - len(wrapped))
        lines: list[list[Segment]] = []
        for index in range(max(map(len, wrapped))):
            line: list[Segment] = []
            for column, (cell, width) in enumerate(zip(wrapped, widths, strict=True)):
                text = cell[index] if index < len(cell) else Text()
                text.rstrip()
                room = max(0, width - cell_len(text.plain))
                before = {"right": room, "center": room // 2}.get(alignments[column], 0)
                if column:
                    line.append(Segment(" │ ", self.styles.border))
                line += [Segment(" " * before), *_segments(text), Segment(" " * (room - before))]
            lines.append(line)
        return lines

    def _as_records(self, table: Table, width: int) -> list[list[Segment]]:
        """Write a table that is too wide as one paragraph a row: "head: cell"."""
        lines: list[list[Segment]] = []
        for row in table.rows:
            if lines:
                lines.append([])
            for head, cell in zip(table.head, row, strict=False):
                text = self._text(head)
                text.stylize(self.styles.strong)
                text.append(": ").append_text(self._text(cell))
                lines.extend(self._wrapped(text, width))
        return lines


def column_widths(
    natural: Sequence[Sequence[int]], words: Sequence[Sequence[int]], room: int
) -> list[int] | None:
    """Share `room` cells among the columns of a table; None when their words do not fit.

    `natural` has the widths of the cells, `words` those of their longest words, row by row. Columns
    that need less than an even share get what they need, the others share the rest.
    """
    columns = max(map(len, natural))
    needs = [
        max((row[i] for row in natural if i < len(row)), default=1) or 1 for i in range(columns)
    ]
    least = [
        min(max((row[i] for row in words if i < len(row)), default=1) or 1, 24)
        for i in range(columns)
    ]
    if sum(needs) <= room:
        return needs
    if sum(least) > room:
        return None
    widths = list(least)
    spare = room - sum(widths)
    while spare > 0:
        wanting = [i for i in range(columns) if widths[i] < needs[i]]
        if not wanting:
            break
        narrowest = min(wanting, key=lambda i: widths[i])
        widths[narrowest] += 1
        spare -= 1
    return widths


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)


def _apart(above: Block, block: Block) -> bool:
    """Tell whether a blank line stands between two blocks."""
    match above, block:
        case ListItem(), ListItem():
            return not (above.tight and block.tight)
        case Paragraph(tight=True), _:
            return False
    return True


def _segments(text: Text) -> list[Segment]:
    text.rstrip()
    text.end = ""
    return [Segment(each.text, each.style) for each in text.render(_CONSOLE) if each.text]


def _folded(line: Text, width: int) -> list[Text]:
    """Break a line of code where it is full, in the middle of a word too."""
    cuts: list[int] = []
    used = 0
    for index, letter in enumerate(line.plain):
        cells = cell_len(letter)
        if used + cells > width:
            cuts.append(index)
            used = 0
        used += cells
    return list(line.divide(cuts))
