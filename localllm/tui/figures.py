"""Numbers as lists and panels of the app show them: bars, columns over time, ranges, losses.

Pure: numbers in, text out. Beside each stands its number, so that nothing is said by a length or a
colour alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what the first picture does not need is imported after it
    from localllm.core.speed.estimate import Estimate

COLUMNS = "▁▂▃▄▅▆▇█"
FULL, EMPTY = "▓", "░"
MOST_LOSS_PERCENT = 12.0
"""The loss whose column is the highest: about that of two bits a weight."""


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


def bar(fraction: float, width: int) -> str:
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


def rate_range(rate: "Estimate") -> str:
    """Write tokens/s from low to high: "3.8-9.8", "12-31"."""
    digits = 0 if rate.high >= 10 else 1
    return f"{rate.low:.{digits}f}-{rate.high:.{digits}f}"


def loss_text(percent: float) -> str:
    """Write what a quant loses, in percent of perplexity, with a column that is higher for more:
    "2.5 % ▂"."""
    lost = max(percent, 0.0)
    share = min(lost / MOST_LOSS_PERCENT, 1.0)
    return f"{lost:.1f} % {COLUMNS[round(share * (len(COLUMNS) - 1))]}"
