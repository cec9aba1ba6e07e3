"""Where the tokens of an answer stand on lines of a width; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells

from localllm.core.text import strip_controls
from localllm.tui.figures import COLUMNS


@dataclass(frozen=True, slots=True)
class Piece:
    """A token, or a part of one, on one line: its index, and what is shown of it in `width` cells
    from column `x`."""

    token: int
    text: str
    x: int
    width: int


Line = tuple[Piece, ...]


def visible(text: str) -> str:
    """Return a token's text as it is shown: line ends and tabs have signs, controls none."""
    text = strip_controls(text.replace("\r\n", "\n"))
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    return text if cell_len(text) else "·"  # a mark alone would join what stands before it


def level(probability: float | None) -> str:
    """Return the bar of a probability, an eighth of a cell high or more; a blank for none."""
    if probability is None:
        return " "
    return COLUMNS[min(int(probability * len(COLUMNS)), len(COLUMNS) - 1)]


def lay_out(texts: Sequence[str], width: int) -> tuple[Line, ...]:
    """Put tokens on lines of at most `width` cells (at least 2). A word of several tokens stays
    together where it fits on a line; a line's end in a token ends the line."""
    width = max(width, 2)
    lines: list[list[Piece]] = [[]]
    at = 0
    for word in _words(texts):
        pieces = [(index, visible(texts[index])) for index in word]
        needed = sum(cell_len(text) for _index, text in pieces)
        if at and at + needed > width and needed <= width:
            lines.append([])
            at = 0
        for index, text in pieces:
            for chunk in chop_cells(text, width):
                cells = cell_len(chunk)
                if at and at + cells > width:
                    lines.append([])
                    at = 0
                lines[-1].append(Piece(index, chunk, at, cells))
                at += cells
            if "\n" in texts[index]:
                lines.append([])
                at = 0
    if not lines[-1]:
        lines.pop()
    return tuple(map(tuple, lines))


def _words(texts: Sequence[str]) -> Iterator[list[int]]:
    word: list[int] = []
    for index, text in enumerate(texts):
        if word and (text[:1].isspace() or "\n" in texts[word[-1]]):
            yield word
            word = []
        word.append(index)
    if word:
        yield word
