r"""Text that somebody else wrote, made safe to show on a terminal.

A model's answer, a file's name and an error's text can hold terminal escapes: they retitle the
window, write to the clipboard (OSC 52), hide lines or recolour the rest of the screen. Both front
ends that draw on a terminal pass such text through here first. What is meant is kept: line ends,
tabs, every letter and emoji.
"""

import re

_STRING_BODY = r"[^\x07\x1b\x9c\n]*"

_ESCAPE = re.compile(
    # CSI: colours, cursor, erasing (ECMA-48 section 5.4); \x9b is the same in one character.
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    # DCS, SOS, OSC, PM, APC: strings up to BEL or ST. A line's end closes one too, so that an
    # opener that is never closed hides one line at most.
    rf"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f]){_STRING_BODY}(?:\x07|\x1b\\|\x9c|(?=[\x1b\n])|\Z)"
    # Two-character escapes, and those with intermediate bytes (character sets).
    r"|\x1b[ -/]*[0-~]"
)
_UNFINISHED = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    rf"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f]){_STRING_BODY}\x1b?"
    r"|\x1b[ -/]*"
    r"|\r)\Z"
)
_LINE_END = re.compile("\r\n|[\r\v\f\u0085\u2028\u2029]")

_DROPPED = (
    *(code for code in range(0x20) if chr(code) not in "\t\n"),
    *range(0x7F, 0xA0),
    # Marks that reorder what is on the line, so that text reads as what it is not
    # (CVE-2021-42574); the plain marks that right-to-left writing needs (U+200E, U+200F) stay.
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    # Half of a surrogate pair cannot be written to a terminal at all.
    *range(0xD800, 0xE000),
)
_DROP = dict.fromkeys(_DROPPED)

# Emoji that terminals draw in different widths (tried in tmux 3.3 and by the tables of Unicode 15):
# variation selectors, tones of skin, invisible tags; and the joiner, where an emoji follows.
_UNEVEN = dict.fromkeys((0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400), *range(0xE0001, 0xE0080)))
_EMOJI_JOINER = re.compile("\u200d(?=[\u2300-\u2bff\U0001f000-\U0001faff])")

_MAX_PENDING = 4096
"""Characters of an unfinished escape that are held back; a longer one is not a real escape."""


def strip_controls(text: str) -> str:
    """Remove terminal escapes, control characters and reordering marks; keep lines and tabs."""
    return _cleaned(_UNFINISHED.sub("", text) if not text.endswith("\r") else text)


def even_widths(text: str) -> str:
    """Write emoji so that every terminal gives them the same number of cells: a family as its
    members, a hand without the tone of its skin. Invisible tags, which can hide text, go too."""
    return text if text.isascii() else _EMOJI_JOINER.sub("", text.translate(_UNEVEN))


def single_line(text: str) -> str:
    """Write outside text on one line: as `strip_controls`, with runs of white space as a blank."""
    return " ".join(strip_controls(text).split())


class ControlFilter:
    """`strip_controls` for a stream: an escape may be cut anywhere between two pieces."""

    def __init__(self) -> None:
        self._pending = ""

    def feed(self, piece: str) -> str:
        """Add the next piece; return the text that is safe to show so far."""
        text = self._pending + piece
        unfinished = _UNFINISHED.search(text)
        if unfinished is None or len(text) - unfinished.start() > _MAX_PENDING:
            self._pending = ""
            return _cleaned(text)
        self._pending = text[unfinished.start() :]
        return _cleaned(text[: unfinished.start()])

    def finish(self) -> str:
        """End the stream; return what was held back and turned out to be text."""
        pending, self._pending = self._pending, ""
        return strip_controls(pending)


def truncation_notice(turns: int) -> str:
    """Describe the turns that a conversation has lost to the context's end; "" for none."""
    if turns == 0:
        return ""
    earlier = "1 earlier turn was" if turns == 1 else f"{turns} earlier turns were"
    return f"{earlier} left out: the context has no more room"


def _cleaned(text: str) -> str:
    return _LINE_END.sub("\n", _ESCAPE.sub("", text)).translate(_DROP)


def toml_line_of(text: str, key: tuple[str, ...]) -> str:
    """Find the line of a key in a TOML document: " line N", or "" when it is not written plainly.

    tomllib does not report lines of values.
    """
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]#]+?)\s*\]", line):
            table = _parts(header[1])
            if table == key:
                return f" line {number}"
        elif (left := line.partition("=")[0]) != line and table + _parts(left) == key:
            return f" line {number}"
    return ""


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
