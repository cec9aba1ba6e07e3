"""What is done with the lines of a transcript: find a text in them, draw a style over parts."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip


def found_lines(lines: Sequence[str], query: str) -> list[int]:
    """Return the lines in which a text begins, also where it is broken between two words."""
    starts: list[int] = []
    joined = ""
    for line in lines:
        starts.append(len(joined))
        joined += " ".join(line.split()) + " "
    found: list[int] = []
    at = joined.find(query)
    while at >= 0:
        found.append(bisect_right(starts, at) - 1)
        at = joined.find(query, at + len(query))
    return found


def styled(strip: Strip, spans: Sequence[tuple[int, int]], style: Style) -> Strip:
    """Draw a style over some characters of a line."""
    segments: list[Segment] = []
    at = 0
    for segment in strip:
        cuts = {0, len(segment.text)}
        for start, end in spans:
            cuts |= {min(max(0, each - at), len(segment.text)) for each in (start, end)}
        ordered = sorted(cuts)
        for begin, stop in pairwise(ordered):
            inside = any(start <= at + begin and at + stop <= end for start, end in spans)
            both = (segment.style or Style.null()) + style if inside else segment.style
            segments.append(Segment(segment.text[begin:stop], both))
        at += len(segment.text)
    return Strip(segments, strip.cell_length)
