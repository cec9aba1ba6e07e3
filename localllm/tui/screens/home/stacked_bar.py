"""A bar of several parts: each has a sign of its own, so that no colour is needed to tell them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget


@dataclass(frozen=True, slots=True, kw_only=True)
class BarPart:
    """One part: its size in any unit, its sign (one cell), and its style class."""

    size: float
    sign: str
    role: str


def part_widths(sizes: Sequence[float], width: int) -> tuple[int, ...]:
    """Divide `width` cells among the parts by their sizes, by the largest remainders; all of them
    are used. A part that is not empty has one cell at least, as long as there are cells."""
    total = sum(sizes)
    if total <= 0 or width <= 0:
        return (0,) * len(sizes)
    shares = [size / total * width for size in sizes]
    widths = [int(share) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda i: widths[i] - shares[i])
    for index in by_remainder[: width - sum(widths)]:
        widths[index] += 1
    for index, size in enumerate(sizes):
        widest = max(range(len(widths)), key=widths.__getitem__)
        if size > 0 and widths[index] == 0 and widths[widest] > 1:
            widths[index], widths[widest] = 1, widths[widest] - 1
    return tuple(widths)


class StackedBar(Widget):
    """One row of parts; empty until it has some."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"part--others", "part--ours", "part--free"}

    parts: reactive[tuple[BarPart, ...]] = reactive(())

    def render(self) -> Content:
        widths = part_widths([part.size for part in self.parts], self.size.width)
        return Content.assemble(
            *(
                (part.sign * width, self.get_visual_style(part.role))
                for part, width in zip(self.parts, widths, strict=True)
            )
        )


OTHERS, OURS, FREE = "▓", "▒", "░"


def memory_parts(*, others: float, ours: float, free: float) -> tuple[BarPart, ...]:
    """Make the parts of a memory: other programs, localllm, free."""
    return (
        BarPart(size=others, sign=OTHERS, role="part--others"),
        BarPart(size=ours, sign=OURS, role="part--ours"),
        BarPart(size=free, sign=FREE, role="part--free"),
    )
