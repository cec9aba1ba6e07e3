"""Outside text on its way to a terminal: nothing that a terminal obeys is left in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.text import ControlFilter, single_line, strip_controls, truncation_notice

ESC, CSI_C1, OSC_C1, ST_C1, BEL = "\x1b", "\x9b", "\x9d", "\x9c", "\x07"

HOSTILE = {
    "a colour": (f"a{ESC}[31mb{ESC}[0m", "ab"),
    "a window title": (f"a{ESC}]0;owned{BEL}b", "ab"),
    "a clipboard write": (f"a{ESC}]52;c;cm0gLXJm{ESC}\\b", "ab"),
    "a hyperlink": (f"{ESC}]8;;http://x{ESC}\\text{ESC}]8;;{ESC}\\", "text"),
    "a device string": (f'a{ESC}P$q"p{ESC}\\b', "ab"),
    "an escape in one character": (f"a{CSI_C1}2Jb", "ab"),
    "a title in one character": (f"a{OSC_C1}0;owned{ST_C1}b", "ab"),
    "a full reset": (f"a{ESC}cb", "ab"),
    "a character set": (f"a{ESC}(0b", "ab"),
    "an opener that is never closed": (f"a{ESC}]0;hidden\nshown", "a\nshown"),
    "an escape that is cut off": (f"a{ESC}[3", "a"),
    "a lone escape": (f"a{ESC}", "a"),
    "bells and backspaces": (f"a{BEL}\b\x00\x7fb", "ab"),
    "a line drawn over": ("secret\rshown", "secret\nshown"),
    "reordering marks": ("a\u202eb\u2066c\u2069", "abc"),
    "half of a surrogate pair": ("a\ud800b", "ab"),
}
SAFE = "Täst 日本 👩\u200d💻 [/INST] [bold] \t- a\n\u200fאבגד\u200e <think>"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_terminal_would_obey_is_removed(name: str) -> None:
    raw, safe = HOSTILE[name]
    assert strip_controls(raw) == safe


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stream_cut_anywhere_shows_the_same(name: str) -> None:
    raw, safe = HOSTILE[name]
    for cut in range(len(raw) + 1):
        stream = ControlFilter()
        assert stream.feed(raw[:cut]) + stream.feed(raw[cut:]) + stream.finish() == safe


def test_words_and_brackets_and_emoji_stay() -> None:
    assert strip_controls(SAFE) == SAFE


def test_line_ends_of_all_kinds_become_one_kind() -> None:
    assert strip_controls("a\r\nb\rc\u2028d\x0be") == "a\nb\nc\nd\ne"


def test_a_single_line_has_no_line_ends() -> None:
    assert single_line("  a\n\tb\r\n c ") == "a b c"


def test_an_escape_that_never_ends_does_not_hold_the_stream_back() -> None:
    stream = ControlFilter()
    stream.feed(f"{ESC}]")
    for _ in range(100):
        stream.feed("x" * 100)
    assert stream.feed("and on") == "and on"


OBEYED = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e"} - {"\t", "\n"}

HOSTILE_LETTERS = st.sampled_from([*"\x1b\x9b\x9d\x9c\x07\r\n[]0;m\\Pab (\u202e\x85"])
PIECES = st.lists(st.text(alphabet=HOSTILE_LETTERS, max_size=8))


@given(PIECES)
def test_no_mixture_of_escapes_leaves_anything_to_obey(pieces: list[str]) -> None:
    stream = ControlFilter()
    shown = "".join([*(stream.feed(piece) for piece in pieces), stream.finish()])
    assert not OBEYED & set(shown)
    assert not OBEYED & set(strip_controls("".join(pieces)))


@given(st.text(alphabet=HOSTILE_LETTERS, max_size=200))
def test_stripping_twice_changes_nothing_more(text: str) -> None:
    assert strip_controls(strip_controls(text)) == strip_controls(text)


@pytest.mark.parametrize(
    ("turns", "notice"),
    [(0, ""), (1, "1 earlier turn was left out"), (7, "7 earlier turns were left out")],
)
def test_turns_that_were_left_out_are_counted(turns: int, notice: str) -> None:
    assert truncation_notice(turns).startswith(notice)
    assert bool(truncation_notice(turns)) == bool(notice)
