"""The meter beside the conversation: one widget of plain lines, drawn when it has something new."""

from collections.abc import Iterator
from itertools import dropwhile
from typing import ClassVar, Final

from rich.cells import cell_len
from textual.content import Content
from textual.style import Style

from localllm.core.sizing.footprint import OVERHEAD, PARTS
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _, ngettext
from localllm.tui import literal
from localllm.tui.figures import COLUMNS, bar
from localllm.tui.widgets.chat.panel import ChatPanel
from localllm.tui.widgets.meter.readings import MeterReadings, difference

NOTABLE_PERCENT: Final = 15
"""A rate nearer than this to the estimate is as expected."""
BUSY: Final = 0.85


class MeterPanel(ChatPanel):
    """Speed, context, memory and load. `show` draws it again only when a line has changed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "meter--heading",
        "meter--rate",
        "meter--muted",
        "meter--warning",
    }
    TITLE: ClassVar[str] = "Speed"

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._readings = MeterReadings()
        self._resident: ResidentModel | None = None
        self._engine_bytes: int | None = None
        self._drawn: Content | None = None

    def show(
        self,
        readings: MeterReadings,
        resident: ResidentModel | None,
        engine_bytes: int | None,
    ) -> None:
        """Show these instead."""
        self._readings, self._resident, self._engine_bytes = readings, resident, engine_bytes
        if self.is_attached and self.display:
            content = self.content(self.size.width or 36)
            if content != self._drawn:
                self._drawn = content
                self.refresh(layout=self._height_differs(content))

    def _height_differs(self, content: Content) -> bool:
        return content.plain.count("\n") + 1 != self.size.height

    def render(self) -> Content:
        return self.content(self.size.width or 36)

    def content(self, width: int) -> Content:
        """Lay the lines out in a width."""
        return Content("\n").join(
            [
                *self._speed(width),
                Content(),
                *self._context_lines(width),
                Content(),
                *self._memory(width),
                *self._machine(width),
            ]
        )

    def _heading(self, text: str, right: str, width: int) -> Content:
        gap = " " * max(1, width - cell_len(text) - cell_len(right))
        return Content.assemble((text, self._style("heading")), gap, (right, self._style("muted")))

    def _style(self, name: str) -> Style:
        return self.get_visual_style(f"meter--{name}")

    def _muted(self, text: str) -> Content:
        return literal.line(text).stylize(self._style("muted"))

    def _warning(self, text: str) -> Content:
        return literal.line(text).stylize(self._style("warning"))

    def _speed(self, width: int) -> Iterator[Content]:
        got = self._readings
        yield self._heading(_("Speed"), "", width)
        rate = got.now_tps if got.running else got.average_tps
        shown = "-" if rate is None else format_rate(rate)
        yield Content.assemble(
            (shown, self._style("rate")), (" " + _("now") if got.running else "", Style.null())
        )
        if any(got.history):
            yield Content.assemble(
                (sparkline(got.history[-(width - 12) :]), self._style("rate")),
                (f"  0-{max(got.history):.0f}", self._style("muted")),
            )
        parts = []
        if got.average_tps is not None:
            parts.append(_("average {rate}").format(rate=format_rate(got.average_tps)))
        if got.ttft_s is not None:
            parts.append(_("first {time}").format(time=format_duration(got.ttft_s)))
        if parts:
            yield self._muted(" · ".join(parts))
        yield from self._prompt()
        if got.saved is not None:
            yield self._muted(
                _("guessing ahead gave {share:.0f} % of the tokens").format(share=100 * got.saved)
            )
        yield from self._expected()

    def _prompt(self) -> Iterator[Content]:
        got = self._readings
        if not got.prompt_total:
            return
        if got.running and got.prompt_done < got.prompt_total:
            yield self._muted(
                _("reading {done} of {total}").format(
                    done=f"{got.prompt_done:,}", total=f"{got.prompt_total:,}"
                )
            )
        if got.prompt_tps is not None:
            yield self._muted(_("prompt read at {rate}").format(rate=format_rate(got.prompt_tps)))
        if got.cached:
            share = 100 * got.cached / got.prompt_total
            yield self._muted(_("{share:.0f} % of it was known before").format(share=share))
        if got.sources:
            yield self._muted(got.sources)
        if got.forgotten:
            yield self._muted(got.forgotten)

    def _expected(self) -> Iterator[Content]:
        is_slower, sentences = beside_estimate(self._readings)
        yield from map(self._warning if is_slower else self._muted, sentences)

    def _context_lines(self, width: int) -> Iterator[Content]:
        got = self._readings
        used = _("not counted") if got.context_used is None else f"{got.context_used:,}"
        of_size = _("{used} of {size}").format(used=used, size=f"{got.context_size:,}")
        yield self._heading(_("Context"), of_size, width)
        if got.context_used is None or not got.context_size:
            return
        share = min(1.0, got.context_used / got.context_size)
        yield Content(bar(share, width)).stylize(self._style("warning" if share > BUSY else "rate"))
        left = got.questions_left
        if left == 0:
            yield self._warning(_("nearly full: the oldest are left out next"))
        elif left is not None:
            words = ngettext(
                "full in about {count} question", "full in about {count} questions", left
            )
            yield self._muted(words.format(count=left))

    def _memory(self, width: int) -> Iterator[Content]:
        resident = self._resident
        if resident is None:
            yield self._heading(_("Memory"), _("nothing is loaded"), width)
            return
        yield self._heading(_("Memory"), f"{_('estimated'):>10} {_('real'):>10}", width)
        estimate = resident.fit.footprint
        for part in PARTS:
            estimated = part.bytes_in(estimate)
            real = [
                each.size_bytes
                for each in resident.loaded.allocations
                if part.kind is not None and each.kind is part.kind
            ]
            if estimated or real or part is OVERHEAD:
                yield self._sizes(
                    _(part.short_label), estimated, sum(real) if real else None, width
                )
        yield self._sizes(_("all of it"), estimate.total_bytes, self._engine_bytes, width)
        error = resident.comparison.estimate_error_percent
        if error is not None:
            yield self._muted(
                _("✓ cache and computing: off by {percent:.1f} %").format(percent=abs(error))
            )

    def _sizes(self, label: str, estimated: int, real: int | None, width: int) -> Content:
        right = f"{format_bytes(estimated):>10} {'-' if real is None else format_bytes(real):>10}"
        gap = " " * max(1, width - cell_len(label) - cell_len(right))
        return Content.assemble((label, self._style("muted")), gap, right)

    def _machine(self, width: int) -> Iterator[Content]:
        load = self._readings.load
        parts = []
        for name, share, watts in (
            (_("CPU"), load.cpu, load.cpu_watts),
            (_("GPU"), load.gpu, load.gpu_watts),
        ):
            if share is not None:
                power = "" if watts is None else f", {watts:.0f} W"
                parts.append(f"{name} {100 * share:.0f} %{power}")
        if load.on_battery:
            parts.append(_("on battery"))
        if parts:
            yield Content()
            yield self._heading(_("Machine"), " · ".join(parts), width)


def sparkline(rates: tuple[float, ...]) -> str:
    """Draw rates as bars from zero to the highest of them."""
    highest = max(rates, default=0.0)
    if not highest:
        return COLUMNS[0] * len(rates)
    rates = tuple(dropwhile(lambda rate: not rate, rates))  # nothing was written yet
    return "".join(
        COLUMNS[min(len(COLUMNS) - 1, int(rate / highest * len(COLUMNS)))] for rate in rates
    )


def beside_estimate(readings: MeterReadings) -> tuple[bool, tuple[str, ...]]:
    """Compare the last answer with the estimate: whether it was notably slower, and sentences for
    it; none while an answer is written or where there is no estimate."""
    expected, average_tps = readings.expected, readings.average_tps
    if expected is None or average_tps is None or readings.running:
        return False, ()
    percent, likely = difference(average_tps, expected), format_rate(expected.likely)
    if abs(percent) < NOTABLE_PERCENT:
        return False, (_("as expected ({rate})").format(rate=likely),)
    if percent > 0:
        words = _("{percent} % over the estimate of {rate}")
        return False, (words.format(percent=percent, rate=likely),)
    words = _("{percent} % under the estimate of {rate}")
    why = slow_reason(readings)
    return True, (words.format(percent=-percent, rate=likely), *((why,) if why else ()))


def slow_reason(readings: MeterReadings) -> str:
    """Name what is known to make a machine slower than it can be; "" for nothing."""
    if readings.load.on_battery:
        return _("this computer runs on its battery")
    if readings.context_used and readings.context_used > readings.context_size // 2:
        return _("the context is more than half full")
    return ""
