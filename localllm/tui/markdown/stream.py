"""Markdown that grows: only its last block is parsed again.

CommonMark closes a block when the next begins, so what stands before the last block is final but
for one thing: a link's definition at the end of a text changes links before it. `finish` parses
the whole once more.
"""

from dataclasses import replace

from localllm.tui.markdown.blocks import Block, ListItem, parse


class GrowingMarkdown:
    """A text that is appended to, and its blocks."""

    def __init__(self) -> None:
        self._closed: list[Block] = []
        self._open_text = ""
        self._pieces: list[str] = []
        self.parsed_chars = 0
        """The characters that were parsed so far, those that were parsed again included."""

    def append(self, piece: str) -> None:
        """Add a piece of text; it is parsed by the next call of `update`."""
        self._pieces.append(piece)

    @property
    def closed(self) -> tuple[Block, ...]:
        """Return the blocks that will not change."""
        return tuple(self._closed)

    def update(self) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        """Parse what was added. Returns the blocks that were closed by it, and those that are
        open."""
        self._open_text += "".join(self._pieces)
        self._pieces.clear()
        self.parsed_chars += len(self._open_text)
        blocks = self._numbered(parse(self._open_text))
        lines = self._open_text.split("\n")
        # A line that is not complete can turn out to belong to the block above it ("#" is a
        # heading, "#1" is text).
        begun = 1 if blocks and blocks[-1].start_line < len(lines) - 1 else 2
        newly_closed, still_open = blocks[:-begun], blocks[-begun:]
        if newly_closed:
            start = still_open[0].start_line
            self._closed.extend(newly_closed)
            self._open_text = "\n".join(lines[start:])
        return newly_closed, still_open

    def _numbered(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """Go on with the numbers of a list whose earlier items are closed."""
        last = self._closed[-1] if self._closed else None
        if not blocks or not isinstance(last, ListItem) or not isinstance(blocks[0], ListItem):
            return blocks
        # An item that follows a closed one is of the same list: another list would have been
        # separated by a block of another kind, or begins with another kind of marker.
        numbered: list[Block] = []
        number = last.number
        for block in blocks:
            if not isinstance(block, ListItem) or (block.number is None) != (number is None):
                return (*numbered, *blocks[len(numbered) :])
            if numbered and block.first:
                return (*numbered, *blocks[len(numbered) :])
            number = None if number is None else number + 1
            numbered.append(replace(block, number=number, first=False))
        return tuple(numbered)
