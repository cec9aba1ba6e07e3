"""Markdown as lines: any text, any width, in pieces and as a whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.tui.markdown.blocks import CodeBlock, Heading, ListItem, MathBlock, Table, parse
from localllm.tui.markdown.latex import readable
from localllm.tui.markdown.layout import COPY, WRAP, MarkdownLayout, column_widths
from localllm.tui.markdown.stream import GrowingMarkdown
from localllm.tui.markdown.style import MarkdownStyles

PIECES = st.sampled_from(
    ["# ", "word ", "a", "\n", "\n\n", "- ", "1. ", "```", "```python\n", "| a | b |\n",
     "|---|--:|\n", "> ", "*", "**", "`", "$", "$$", "\\(", "\\)", "\\frac{a}{b}", "[x] ",
     "[l](http://x.y)", "    ", "日本語", "👨\u200d👩\u200d👧", "\u2764\ufe0f", "e\u0301", "שלום",
     "<think>", "---\n", "x" * 40, "#", "\t", "![i](s)", "~~"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map("".join)


def lines(text: str, width: int = 40, *, wrap_code: bool = False) -> list[str]:
    layout = MarkdownLayout(styles=MarkdownStyles(), width=width, wrap_code=wrap_code)
    return [strip.text.rstrip() for strip in layout.strips(parse(text))]


@given(text=TEXTS, width=st.integers(12, 100), wrap=st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_line_is_wider_than_the_text(text: str, width: int, wrap: bool) -> None:
    layout = MarkdownLayout(styles=MarkdownStyles(), width=width, wrap_code=wrap)
    # Nested lists and quotes keep a few columns for their text, however little room is left.
    depth = 3 * (text.count("- ") + text.count("> ") + text.count("1. ") + 1)
    for strip in layout.strips(parse(text)):
        assert strip.cell_length <= max(width, depth + 8)


@given(pieces=st.lists(PIECES, max_size=40))
@settings(max_examples=150, deadline=None)
def test_what_grows_in_pieces_is_what_the_whole_text_is(pieces: list[str]) -> None:
    growing = GrowingMarkdown()
    blocks: list[object] = []
    still_open: tuple[object, ...] = ()
    for piece in pieces:
        growing.append(piece)
        closed, still_open = growing.update()
        blocks.extend(closed)
    assert growing.closed == tuple(blocks)
    whole = parse("".join(pieces))
    assert [type(each) for each in (*blocks, *still_open)] == [type(each) for each in whole]


def test_a_long_answer_is_not_parsed_again_for_each_piece() -> None:
    growing = GrowingMarkdown()
    paragraph = "one two three four five six seven eight nine ten\n\n- item\n\n"
    for _ in range(200):
        growing.append(paragraph)
        growing.update()
    assert growing.parsed_chars < 4 * 200 * len(paragraph)


def test_the_items_of_a_list_keep_their_numbers_while_it_grows() -> None:
    growing = GrowingMarkdown()
    numbers = []
    for _ in range(5):
        growing.append("1. item\n")
        closed, still_open = growing.update()
        numbers += [each.number for each in closed if isinstance(each, ListItem)]
    numbers += [each.number for each in still_open if isinstance(each, ListItem)]
    assert numbers == [1, 2, 3, 4, 5]


def test_a_heading_stands_at_the_left_without_blank_rows() -> None:
    assert lines("# Title\n\ntext")[:2] == ["Title", ""]
    assert isinstance(parse("# Title")[0], Heading)


def test_tasks_and_formulas_are_readable() -> None:
    assert lines("- [ ] open\n- [x] done") == ["☐ open", "☑ done"]
    assert lines("so $x^2$ and \\(a_1\\) for $5 and $10") == ["so x² and a₁ for $5 and $10"]
    (block,) = parse("$$\n\\frac{a}{2} \\leq \\sum_{i=1}^n x_i\n$$")
    assert block == MathBlock(start_line=0, text="a/2 ≤ ∑ᵢ₌₁ⁿ xᵢ")


@given(st.text(alphabet="\\{}^_$& abfracsqtx12", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_formula_is_written_somehow(formula: str) -> None:
    assert readable(formula).strip() or not formula.strip()


def test_long_code_is_cut_with_a_mark_and_breaks_when_it_is_wished() -> None:
    text = "```python\n" + "x = " + "1 + " * 30 + "1\n```"
    cut, wrapped = lines(text, 40), lines(text, 40, wrap_code=True)
    assert "c copies" in cut[0]
    assert "w wraps" in cut[0]
    assert cut[1].endswith("\u203a │")
    assert len(cut) == 3
    assert len(wrapped) > 5
    joined = "".join(line[2:-2] for line in wrapped[1:-1])
    assert joined.replace(" ", "") == "x=" + "1+" * 30 + "1"


def test_the_frame_of_code_is_straight_whatever_its_lines_end_with() -> None:
    for wrap in (False, True):
        framed = lines("```python\nx = 1   \n" + "y  " * 30 + "\n\t\n```", 40, wrap_code=wrap)
        assert {len(line) for line in framed} == {40}


def test_the_head_of_code_copies_what_was_written_and_not_what_is_shown() -> None:
    layout = MarkdownLayout(styles=MarkdownStyles(), width=40)
    head = layout.strips(parse("```\n\tlong " + "x" * 60 + "\n```"))[0]
    metas = [segment.style.meta for segment in head if segment.style is not None]
    assert layout.codes == ["\tlong " + "x" * 60]
    assert {key for meta in metas for key in meta} == {COPY, WRAP}


def test_an_open_fence_is_code_already() -> None:
    (block,) = parse("```py\nx = 1")
    assert isinstance(block, CodeBlock)
    assert block.code.strip() == "x = 1"


def test_a_table_shares_the_width_and_becomes_records_when_it_cannot() -> None:
    text = "| name | what it is |\n|---|---|\n| a | " + "several words " * 6 + "|\n| b | c |"
    assert isinstance(parse(text)[0], Table)
    assert all(len(line) <= 40 for line in lines(text, 40))
    assert lines(text, 40)[1].startswith("─")
    wide = "|" + "a-long-heading|" * 5 + "\n|" + "---|" * 5 + "\n|" + "cell|" * 5
    assert lines(wide, 30)[0] == "a-long-heading: cell"


@given(
    natural=st.lists(st.lists(st.integers(0, 60), min_size=3, max_size=3), min_size=1, max_size=4),
    room=st.integers(3, 100),
)
def test_columns_never_take_more_than_the_room(natural: list[list[int]], room: int) -> None:
    words = [[min(each, 10) for each in row] for row in natural]
    widths = column_widths(natural, words, room)
    assert widths is None or (sum(widths) <= room and min(widths) >= 1)


@pytest.mark.parametrize(
    ("written", "shown"), [("👨‍👩‍👧", "👨👩👧"), ("❤️", "❤"), ("👍🏽", "👍"), ("क्षि", "क्षि")]
)
def test_emoji_have_one_width_on_every_terminal(written: str, shown: str) -> None:
    assert lines(written) == [shown]
