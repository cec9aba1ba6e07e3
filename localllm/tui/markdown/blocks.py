"""Markdown as data: the blocks of a text, without widths or colours.

A model's answer is parsed while it is written. The blocks before the last one cannot change any
more (CommonMark closes a block when the next begins), so each block knows the line at which it
starts, and each item of a list is a block of its own: what is parsed again is one item, not a list
of a hundred. `stream.py` rests on this.
"""

from dataclasses import dataclass, replace
from enum import IntFlag
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

from localllm.core.text import even_widths
from localllm.tui.markdown import latex, math_rules


class Mark(IntFlag):
    """The marks of a piece of text; several can hold at once."""

    PLAIN = 0
    STRONG = 1
    EMPHASIS = 2
    CODE = 4
    STRUCK = 8
    LINK = 16
    MATH = 32
    ADDRESS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A piece of text and its marks."""

    text: str
    marks: Mark = Mark.PLAIN


Inline = tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A paragraph. `tight`: it stands in a list without blank lines."""

    start_line: int
    text: Inline
    tight: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A heading of a level from 1 to 6."""

    start_line: int
    level: int
    text: Inline


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock:
    """A block of code. `language` is what follows the fence, "" for none."""

    start_line: int
    language: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MathBlock:
    """A formula on lines of its own, in readable characters."""

    start_line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Blocks that are quoted."""

    start_line: int
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListItem:
    """An item of a list. `number` None: a bullet; `checked` None: no task.

    `first`: the list begins with it. `tight`: no blank lines between the items.
    """

    start_line: int
    number: int | None
    checked: bool | None
    first: bool
    tight: bool
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table. `alignments` are "left", "center" and "right", one for each column."""

    start_line: int
    head: tuple[Inline, ...]
    rows: tuple[tuple[Inline, ...], ...]
    alignments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A horizontal line."""

    start_line: int


Block = Paragraph | Heading | CodeBlock | MathBlock | Quote | ListItem | Table | Rule


@cache
def _parser() -> MarkdownIt:
    """Make the parser. HTML is text: whatever a model writes in tags such as `<think>` is shown."""
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 12})
    parser.enable(["table", "strikethrough"])
    math_rules.add(parser)
    return parser


def parse(text: str) -> tuple[Block, ...]:
    """Parse Markdown. Any text is valid."""
    return _Reader(_parser().parse(even_widths(text))).blocks()


class _Reader:
    """Reads the flat list of tokens that markdown-it returns."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def blocks(self, until: str = "") -> "tuple[Block, ...]":
        """Read blocks up to the token `until`, which is taken too."""
        found: list[Block] = []
        while self._at < len(self._tokens):
            token = self._next()
            if token.type == until:
                break
            found.extend(self._block(token))
        return tuple(found)

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _block(self, token: Token) -> "tuple[Block, ...]":
        line = token.map[0] if token.map else 0
        match token.type:
            case "paragraph_open":
                return (
                    Paragraph(start_line=line, text=self._inline_until_close(), tight=token.hidden),
                )
            case "heading_open":
                level = int(token.tag[1:])
                return (Heading(start_line=line, level=level, text=self._inline_until_close()),)
            case "fence" | "code_block":
                language = token.info.split()[0] if token.info.split() else ""
                return (CodeBlock(start_line=line, language=language, code=token.content),)
            case "math_block":
                return (MathBlock(start_line=line, text=latex.readable(token.content)),)
            case "blockquote_open":
                return (Quote(start_line=line, blocks=self.blocks("blockquote_close")),)
            case "bullet_list_open":
                return self._items("bullet_list_close", None)
            case "ordered_list_open":
                return self._items("ordered_list_close", int(token.attrs.get("start", 1)))
            case "table_open":
                return (self._table(line),)
            case "hr":
                return (Rule(start_line=line),)
        return ()

    def _inline_until_close(self) -> Inline:
        inline = self._next()
        self._next()
        return inline_spans(inline.children or [])

    def _items(self, until: str, number: int | None) -> "tuple[Block, ...]":
        items: list[ListItem] = []
        while (token := self._next()).type != until:
            line = token.map[0] if token.map else 0
            blocks, checked = _without_checkbox(self.blocks("list_item_close"))
            items.append(
                ListItem(
                    start_line=line,
                    number=None if number is None else number + len(items),
                    checked=checked,
                    first=not items,
                    tight=all(each.tight for each in blocks if isinstance(each, Paragraph)),
                    blocks=blocks,
                )
            )
        return tuple(items)

    def _table(self, line: int) -> Table:
        rows: list[list[Inline]] = []
        alignments: list[str] = []
        while (token := self._next()).type != "table_close":
            if token.type == "tr_open":
                rows.append([])
            elif token.type in {"th_open", "td_open"}:
                if len(rows) == 1:
                    style = str(token.attrs.get("style", ""))
                    alignments.append(style.removeprefix("text-align:") or "left")
                rows[-1].append(self._inline_until_close())
        head, *body = rows
        return Table(
            start_line=line,
            head=tuple(head),
            rows=tuple(tuple(row) for row in body),
            alignments=tuple(alignments),
        )


def _without_checkbox(blocks: "tuple[Block, ...]") -> "tuple[tuple[Block, ...], bool | None]":
    """Take the box of a task from the beginning of an item's first paragraph."""
    if not blocks or not isinstance(blocks[0], Paragraph) or not blocks[0].text:
        return blocks, None
    first, *rest = blocks[0].text
    for box, checked in (("[ ] ", False), ("[x] ", True), ("[X] ", True)):
        if first.text.startswith(box) and first.marks is Mark.PLAIN:
            text = (replace(first, text=first.text.removeprefix(box)), *rest)
            return (replace(blocks[0], text=text), *blocks[1:]), checked
    return blocks, None


def inline_spans(tokens: list[Token]) -> Inline:
    """Make spans of the children of an inline token. A link's address follows its text."""
    spans: list[Span] = []
    marks = Mark.PLAIN
    address = ""
    link_text: list[str] = []

    def add(text: str, more: Mark = Mark.PLAIN) -> None:
        if not text:
            return
        if marks & Mark.LINK:
            link_text.append(text)
        if spans and spans[-1].marks == marks | more:
            spans[-1] = replace(spans[-1], text=spans[-1].text + text)
        else:
            spans.append(Span(text=text, marks=marks | more))

    for token in tokens:
        match token.type:
            case "text" | "text_special":
                add(token.content)
            case "softbreak":
                add(" ")
            case "hardbreak":
                add("\n")
            case "code_inline":
                add(token.content, Mark.CODE)
            case "math_inline":
                add(latex.readable(token.content), Mark.MATH)
            case "image":
                add(f"[{token.content or 'image'}]")
                spans.append(Span(text=f" ({token.attrs.get('src', '')})", marks=Mark.ADDRESS))
            case "link_open":
                address, link_text = str(token.attrs.get("href", "")), []
                marks |= Mark.LINK
            case "link_close":
                marks &= ~Mark.LINK
                if address and address.removeprefix("mailto:") != "".join(link_text):
                    spans.append(Span(text=f" ({address})", marks=Mark.ADDRESS))
            case kind if kind in _OPENERS:
                marks |= _OPENERS[kind]
            case kind if kind in _CLOSERS:
                marks &= ~_CLOSERS[kind]
    return tuple(spans)


_PAIRS = {"strong": Mark.STRONG, "em": Mark.EMPHASIS, "s": Mark.STRUCK}
_OPENERS = {f"{name}_open": mark for name, mark in _PAIRS.items()}
_CLOSERS = {f"{name}_close": mark for name, mark in _PAIRS.items()}
