"""Colours of code: Pygments' tokens in a few styles of the theme.

A block that is being written is coloured line by line, each line once; a string over several lines
gets its colour when the block is closed and read as a whole.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from localllm.tui.markdown.style import MarkdownStyles

if TYPE_CHECKING:
    from pygments.lexer import Lexer

MAX_CODE_CHARS = 60_000
"""Longer code stays without colours: reading it takes longer than a person notices."""


@lru_cache(maxsize=32)
def _lexer(language: str) -> "Lexer | None":
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def highlighted(code: str, language: str, styles: MarkdownStyles) -> list[Text]:
    """Return the lines of a block of code, coloured."""
    text = Text(code.expandtabs(4), end="")
    lexer = _lexer(language) if language and len(code) <= MAX_CODE_CHARS else None
    if lexer is not None:
        at = 0
        for kind, piece in lexer.get_tokens(text.plain):
            style = _style(str(kind), styles)
            if style is not None and not piece.isspace():
                text.stylize(style, at, at + len(piece))
            at += len(piece)
    return list(text.split("\n", allow_blank=True))


def _style(kind: str, styles: MarkdownStyles) -> Style | None:
    """Map a token of Pygments ("Token.Name.Function") to a style; None for the plain one."""
    for prefix, style in (
        ("Token.Comment", styles.comment),
        ("Token.Keyword", styles.keyword),
        ("Token.Operator.Word", styles.keyword),
        ("Token.Literal.String", styles.string),
        ("Token.Literal.Number", styles.number),
        ("Token.Name.Function", styles.name),
        ("Token.Name.Class", styles.name),
        ("Token.Name.Tag", styles.keyword),
        ("Token.Name.Decorator", styles.name),
        ("Token.Name.Builtin", styles.name),
        ("Token.Generic.Inserted", styles.string),
        ("Token.Generic.Deleted", styles.number),
        ("Token.Generic.Heading", styles.keyword),
    ):
        if kind.startswith(prefix):
            return style
    return None


class LineHighlighter:
    """Colours the lines of code that is being written; each complete line is read once."""

    def __init__(self) -> None:
        self._key: tuple[str, int] = ("", 0)
        self._lines: list[tuple[str, Text]] = []

    def lines(self, code: str, language: str, styles: MarkdownStyles) -> list[Text]:
        """Return the lines of a block of code, coloured one by one."""
        key = (language, id(styles))
        if key != self._key:
            self._key, self._lines = key, []
        done: list[Text] = []
        for index, line in enumerate(code.split("\n")):
            if index < len(self._lines) and self._lines[index][0] == line:
                done.append(self._lines[index][1])
                continue
            del self._lines[index:]
            text = highlighted(line, language, styles)[0]
            self._lines.append((line, text))
            done.append(text)
        return done
