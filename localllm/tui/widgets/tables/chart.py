"""Charts of characters: bars beside each other for a course over time, one bar for an amount.

Pure: numbers in, text out. Beside each stands its number, so that nothing is said by a length or a
colour alone.
"""

from collections.abc import Sequence

COLUMNS = "▁▂▃▄▅▆▇█"
FULL, EMPTY = "▓", "░"


def columns(values: Sequence[float], width: int, *, top: float | None = None) -> str:
    """Draw the last `width` values, each a column up to `top` (None: the greatest of them). Zero is
    a space, the least that is more the lowest column."""
    shown = values[-width:] if width > 0 else ()
    highest = max(shown, default=0.0) if top is None else top
    return "".join(_column(each, highest) for each in shown)


def _column(value: float, top: float) -> str:
    if value <= 0 or top <= 0:
        return " "
    level = min(round(value / top * len(COLUMNS) + 0.5), len(COLUMNS)) - 1
    return COLUMNS[max(level, 0)]


def amount(fraction: float, width: int) -> str:
    """Draw a part of a whole as one bar of `width` cells; more than nothing has a cell at least."""
    part = min(max(fraction, 0.0), 1.0)
    filled = max(round(part * width), 1) if part > 0 else 0
    return FULL * min(filled, width) + EMPTY * max(width - filled, 0)


def ranged(low: float, value: float, high: float, top: float, width: int) -> str:
    """Draw a value as a bar and the range around it: `▓▓▓▓├─┤`, `top` at the right end."""
    if top <= 0 or width <= 0:
        return ""

    def cell(number: float) -> int:
        return min(max(round(number / top * width), 0), width)

    filled, first, last = max(cell(value), 1), cell(low), cell(high)
    bar = list((FULL * filled).ljust(width))
    if last - first >= 2:
        first, last = min(first, width - 2), min(last, width) - 1
        for at in range(max(first, 0), last + 1):
            bar[at] = "├" if at == max(first, 0) else "┤" if at == last else "─"
    return "".join(bar)
