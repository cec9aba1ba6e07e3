"""A thin bar that shows a part of a whole."""

from typing import ClassVar

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget


class Bar(Widget):
    """One row; `fraction` of it is filled. None: unknown, an empty track.

    The class `-high` colours it as a warning.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--filled", "bar--empty"}

    fraction: reactive[float | None] = reactive(None)

    def render(self) -> Content:
        width = self.size.width
        halves = round(min(max(self.fraction or 0.0, 0.0), 1.0) * width * 2)
        filled = "━" * (halves // 2) + "╸" * (halves % 2)
        return Content.assemble(
            (filled, self.get_visual_style("bar--filled")),
            ("━" * (width - len(filled)), self.get_visual_style("bar--empty")),
        )
