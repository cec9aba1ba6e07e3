"""The line over a conversation: model, title, and the two numbers that matter."""

from typing import ClassVar

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget

from localllm.core.text import single_line
from localllm.core.units import format_rate
from localllm.translation import _
from localllm.tui.figures import bar
from localllm.tui.widgets.meter.readings import MeterReadings
from localllm.tui.widgets.transcript.look import on_one_line


class ChatTitle(Widget):
    """One row. `numbers`: the rate and the context stand in it, where no panel has them."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"title--model", "title--text", "title--numbers"}

    def __init__(self) -> None:
        super().__init__()
        self._model = self._title = self._numbers = ""
        self._show_numbers = True

    def show(self, model: str, title: str, *, numbers: bool) -> None:
        """Show another conversation."""
        shown = (single_line(model), single_line(title), numbers)
        if shown != (self._model, self._title, self._show_numbers):
            self._model, self._title, self._show_numbers = shown
            self.refresh()

    def show_readings(self, readings: MeterReadings) -> None:
        """Show the rate and the context."""
        numbers = title_numbers(readings)
        if numbers != self._numbers:
            self._numbers = numbers
            if self._show_numbers:
                self.refresh()

    def render(self) -> Content:
        width = self.size.width
        numbers = self._numbers if self._show_numbers else ""
        room = width - cell_len(numbers) - 1
        if room < 8:
            numbers, room = "", width
        model = on_one_line(self._model, room)
        title = self._title and on_one_line(f" · {self._title}", max(0, room - cell_len(model)))
        gap = " " * max(0, width - cell_len(model + title + numbers))
        return Content.assemble(
            (model, self.get_visual_style("title--model")),
            (title, self.get_visual_style("title--text")),
            gap,
            (numbers, self.get_visual_style("title--numbers")),
        )


def title_numbers(readings: MeterReadings) -> str:
    """Write the rate and how full the context is."""
    rate = readings.now_tps if readings.running else readings.average_tps
    parts = [] if rate is None else [format_rate(rate)]
    if readings.context_used is not None and readings.context_size:
        share = min(1.0, readings.context_used / readings.context_size)
        parts.append(_("context {bar} {share:.0f} %").format(bar=bar(share, 4), share=100 * share))
    return "  ".join(parts)
