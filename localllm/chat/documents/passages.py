"""The pieces that a document is indexed in: cut where its structure has a seam.

A passage is what is found and what the model reads, so it should be about one thing: a section,
some paragraphs, a function. Blocks (a paragraph, a fenced listing, the lines of a function) are put
together until a passage is large enough, and only a block that is larger than a passage is cut.
Each passage knows the line that it begins at and the headings that it stands under.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TARGET_CHARS = 900
"""Some 220 tokens of English: small embedding models were trained with 256 (all-MiniLM-L6-v2)."""
MAX_CHARS = 1400
_MERGED_CHARS = 350
"""A shorter section is put together with the next one."""
_MAX_HEADING = 120

_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t]*#*\s*\Z")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\s+")
_MARKDOWN = frozenset({".md", ".markdown", ".mdx", ".qmd", ".rmd"})
_TABLES = frozenset({".csv", ".tsv"})
_CODE = frozenset(
    {".py", ".pyi", ".js", ".mjs", ".ts", ".tsx", ".jsx", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs",
     ".java", ".kt", ".go", ".rs", ".rb", ".php", ".swift", ".scala", ".sh", ".ps1", ".lua", ".r",
     ".sql", ".css", ".toml", ".yaml", ".yml", ".ini", ".json", ".m", ".pl", ".zig", ".ex"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document. `line` is the number of its first line (of a PDF: on its page), from
    1; `headings` are those that it stands under, outermost first, joined by " > "."""

    text: str
    line: int
    headings: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines that belong together: `text` without blank lines around it, from `line` on."""

    text: str
    line: int
    headings: str = ""


def passages_of_text(text: str, suffix: str) -> tuple[Passage, ...]:
    """Cut a text into passages; `suffix` is the ending of its file's name, which tells its kind."""
    suffix = suffix.lower()
    if suffix in _MARKDOWN:
        blocks = _markdown_blocks(text)
    elif suffix in _TABLES:
        return tuple(_table_passages(text))
    elif suffix in _CODE:
        blocks = _code_blocks(text)
    else:
        blocks = _paragraphs(text)
    return tuple(_packed(blocks))


def passages_of_pages(pages: Iterable[str]) -> tuple[Passage, ...]:
    """Cut the pages of a PDF into passages; none goes over the end of a page."""
    return tuple(
        Passage(text=each.text, line=each.line, page=number)
        for number, page in enumerate(pages, 1)
        for each in _packed(_paragraphs(page))
    )


# --- blocks ---


def _markdown_blocks(text: str) -> Iterator[_Block]:
    """Yield paragraphs, lists and fenced listings, each with its headings."""
    headings: dict[int, str] = {}
    lines: list[str] = []
    first, bare = 1, True  # bare: there is nothing yet below the headings of this block
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        heading = None if fence else _HEADING.match(line)
        if heading is not None:
            if not bare:
                yield from _block(lines, first, headings)
                lines = []
            bare = True
            level = len(heading[1])
            headings = {each: name for each, name in headings.items() if each < level}
            headings[level] = heading[2][:_MAX_HEADING]
        fence = _fence_after(line, fence)
        if not line.strip() and not fence and not bare:
            yield from _block(lines, first, headings)
            lines = []
            bare = True
        elif lines or line.strip():
            first = first if lines else number
            bare = bare and (heading is not None or not line.strip())
            lines.append(line)
    yield from _block(lines, first, headings)


def _fence_after(line: str, fence: str) -> str:
    """Return the fence that is open behind a line, "" for none; `fence` was before it."""
    mark = _FENCE.match(line)
    if mark is None:
        return fence
    if not fence:
        return mark[1]
    return "" if mark[1].startswith(fence) and not line.strip(" `~") else fence


def _code_blocks(text: str) -> Iterator[_Block]:
    """Yield what stands between lines that begin at the margin behind a blank line."""
    lines: list[str] = []
    first, blank = 1, True
    for number, line in enumerate(text.split("\n"), 1):
        if blank and line.strip() and not line[0].isspace():
            yield from _block(lines, first, {})
            lines = []
        if line.strip() and not lines:
            first = number
        if lines or line.strip():
            lines.append(line)
        blank = not line.strip()
    yield from _block(lines, first, {})


def _paragraphs(text: str) -> Iterator[_Block]:
    lines: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            if not lines:
                first = number
            lines.append(line)
        else:
            yield from _block(lines, first, {})
            lines = []
    yield from _block(lines, first, {})


def _block(lines: list[str], first: int, headings: dict[int, str]) -> Iterator[_Block]:
    if text := "\n".join(lines).rstrip():
        yield _Block(text, first, " > ".join(headings[level] for level in sorted(headings)))


def _table_passages(text: str) -> Iterator[Passage]:
    """Yield the rows of a table, each passage with the names of the columns."""
    lines = text.split("\n")
    header_at = next((at for at, line in enumerate(lines) if line.strip()), 0)
    header = lines[header_at][: MAX_CHARS // 2]
    rows = "\n".join(lines[header_at + 1 :])
    if not rows.strip():
        yield from _packed(_paragraphs(text))
        return
    row_blocks = (
        _Block(line, number)
        for number, line in enumerate(rows.split("\n"), header_at + 2)
        if line.strip()
    )
    for each in _packed(row_blocks):
        yield Passage(text=f"{header}\n{each.text}", line=each.line)


# --- from blocks to passages ---


def _packed(blocks: Iterable[_Block]) -> Iterator[Passage]:
    """Put blocks together to passages of about TARGET_CHARS and at most MAX_CHARS."""
    waiting: list[_Block] = []
    size = 0
    for block in (piece for each in blocks for piece in _cut(each)):
        if waiting and not _belongs(waiting, size, block):
            yield _passage(waiting)
            waiting, size = [], 0
        waiting.append(block)
        size += len(block.text) + 2
    if waiting:
        yield _passage(waiting)


def _belongs(waiting: list[_Block], size: int, block: _Block) -> bool:
    """Tell whether a block goes into the passage of `waiting`, whose text has `size` characters."""
    small = size < _MERGED_CHARS
    together = size + len(block.text)
    if waiting[-1].headings == block.headings:
        return together <= (MAX_CHARS if small else TARGET_CHARS)
    return small and together <= TARGET_CHARS


def _passage(blocks: list[_Block]) -> Passage:
    """Join blocks, with the blank lines that stand between them in the file."""
    text = blocks[0].text
    end = blocks[0].line + blocks[0].text.count("\n")
    for block in blocks[1:]:
        text += ("\n\n" if block.line > end + 1 else "\n" if block.line > end else " ") + block.text
        end = block.line + block.text.count("\n")
    headings = max(blocks, key=lambda each: len(each.text)).headings
    return Passage(text=text, line=blocks[0].line, headings=headings)


def _cut(block: _Block) -> Iterator[_Block]:
    """Cut a block that is larger than a passage: between lines, else between sentences, else
    between words, else anywhere."""
    if len(block.text) <= MAX_CHARS:
        yield block
        return
    lines: list[str] = []
    first, size = block.line, 0
    for number, line in enumerate(block.text.split("\n"), block.line):
        for piece in _pieces(line):
            if lines and size + len(piece) > TARGET_CHARS:
                yield _Block("\n".join(lines), first, block.headings)
                lines, size = [], 0
            if not lines:
                first = number
            lines.append(piece)
            size += len(piece) + 1
    yield from (_Block("\n".join(lines), first, block.headings),) if lines else ()


def _pieces(line: str) -> Iterator[str]:
    """Yield a line in pieces of at most TARGET_CHARS."""
    while len(line) > TARGET_CHARS:
        end = TARGET_CHARS
        ends = [match.end() for match in _SENTENCE_END.finditer(line, 0, TARGET_CHARS)]
        sentences = [at for at in ends if line[:at].rstrip()[-1:] in ".!?;:"]
        for candidates in (sentences, ends):
            if candidates and candidates[-1] > TARGET_CHARS // 3:
                end = candidates[-1]
                break
        yield line[:end]
        line = line[end:]
    yield line
