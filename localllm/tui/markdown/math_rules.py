r"""Rules for markdown-it that find formulas: `$...$`, `\(...\)`, `$$...$$` and `\[...\]`.

They run before the rules of emphasis and escapes, which would take `_` and `\(` apart.
"""

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
_BLOCK_DELIMITERS = _DELIMITERS[:2]
MAX_FORMULA_CHARS = 2000
"""A closing mark further away than this does not belong to the opening one."""


def add(parser: MarkdownIt) -> None:
    """Add both rules to a parser."""
    parser.inline.ruler.before("escape", "math_inline", _inline)
    parser.block.ruler.before("fence", "math_block", _block, {"alt": ["paragraph", "list"]})
    parser.inline.add_terminator_char("$")


def _inline(state: StateInline, silent: bool) -> bool:
    source, begin = state.src, state.pos
    for opening, closing in _DELIMITERS:
        if not source.startswith(opening, begin):
            continue
        inside = begin + len(opening)
        end = source.find(closing, inside, inside + MAX_FORMULA_CHARS)
        if end <= inside or (opening == "$" and not _is_formula(source, inside, end)):
            return False
        if not silent:
            token = state.push("math_inline", "math", 0)
            token.content = source[inside:end]
        state.pos = end + len(closing)
        return True
    return False


def _is_formula(source: str, inside: int, end: int) -> bool:
    """Tell a formula from two prices: no blank inside the marks, no digit behind them."""
    return not (
        source[inside].isspace() or source[end - 1].isspace() or source[end + 1 : end + 2].isdigit()
    )


def _block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    for opening, closing in _BLOCK_DELIMITERS:
        if not first.startswith(opening):
            continue
        rest = first[len(opening) :].rstrip()
        if closing in rest:
            if not rest.endswith(closing) or rest.count(closing) > 1:
                return False  # text goes on behind the formula: it is part of a paragraph
            lines, last = [rest.removesuffix(closing)], start
        else:
            lines, last = [rest], start
            while last + 1 < end:
                last += 1
                line = state.getLines(last, last + 1, state.blkIndent, False).rstrip()
                if line.endswith(closing):
                    lines.append(line.removesuffix(closing))
                    break
                lines.append(line)
            else:
                return False  # not closed (yet)
        if silent:
            return True
        token = state.push("math_block", "math", 0)
        token.content = "\n".join(lines).strip()
        token.map = [start, last + 1]
        state.line = last + 1
        return True
    return False
