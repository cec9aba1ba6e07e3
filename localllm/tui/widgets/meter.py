"""The live numbers: rate, time to first token, context, memory of the engine.

The screen reports what happens (`started`, `prompt_read`, `token_written`, `ended`). Ten times a
second, and not once per token, the widget looks at that and at the clock and draws what changed.
"""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Digits, Sparkline, Static

from localllm.core.speed.meter import Meter, MeterReading
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.engine.messages import Finished, PromptProgress, Timings
from localllm.runtime.runtime import ResidentModel
from localllm.tui.widgets.allocations import Allocations
from localllm.tui.widgets.labels import Bar

REFRESHES_PER_S = 10
HISTORY_BUCKETS = 40
HISTORY_BUCKET_S = 0.5
NOTHING = MeterReading(tokens=0, ttft_s=None, now_tps=None, average_tps=None)


class MeterPanel(Vertical):
    """A column beside the conversation on a wide terminal, a strip of three rows on a small one."""

    def __init__(
        self, *, clock: Callable[[], float], memory_bytes: Callable[[], int | None]
    ) -> None:
        super().__init__()
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._meter: Meter | None = None
        self._ended_s: float | None = None
        self._timings: Timings | None = None
        self._prompt_tokens = 0
        self._answer_tokens = 0
        self._context_tokens = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="speed"):
            yield Static("Speed", classes="heading wide-only")
            with Horizontal(id="rate-row"):
                yield Digits("", id="rate")
                yield Static("tok/s", id="rate-unit")
            yield Sparkline(id="history")
        with Vertical(id="numbers"):
            yield Static(Content(), id="rates")
            yield Static("Context", classes="heading wide-only")
            with Horizontal(id="context-row"):
                yield Bar(id="context-bar")
                yield Static(Content(), id="context-text")
            yield Static("Memory", classes="heading wide-only")
            yield Static(Content(), id="engine-memory")
        yield Allocations(classes="wide-only")

    def on_mount(self) -> None:
        self.set_interval(1 / REFRESHES_PER_S, self.draw)
        self.draw()

    async def loaded(self, resident: ResidentModel) -> None:
        """Start over for a model that was loaded: another context, other buffers."""
        self._context_tokens = resident.loaded.context
        self.cleared()
        await self.query_one(Allocations).show(resident)

    def cleared(self) -> None:
        """Forget what was measured: nothing is in the context."""
        self._meter = None
        self._timings = None
        self._prompt_tokens = self._answer_tokens = 0
        self.draw()

    def started(self) -> None:
        """Note that a question went to the engine."""
        self._meter = Meter(started_s=self._clock())
        self._ended_s = None
        self._timings = None

    def prompt_read(self, progress: PromptProgress) -> None:
        """Note how much of the prompt the engine has read."""
        self._prompt_tokens = progress.processed
        self._answer_tokens = 0

    def token_written(self) -> None:
        """Note that the engine wrote one token."""
        if self._meter is not None:
            self._meter.add(self._clock())
        self._answer_tokens += 1

    def ended(self, finished: Finished | None) -> None:
        """Note the end of the answer; `finished` has the engine's own timings, if it lived."""
        self._ended_s = self._clock()
        if finished is not None:
            self._timings = finished.timings
            self._prompt_tokens = finished.prompt_tokens
            self._answer_tokens = finished.completion_tokens
        self.draw()

    def draw(self) -> None:
        """Show what is known now."""
        now_s = self._clock() if self._ended_s is None else self._ended_s
        reading = NOTHING if self._meter is None else self._meter.read(now_s)
        average_tps, ttft_s = reading.average_tps, reading.ttft_s
        if self._timings is not None:  # what the engine measured is better than what we saw
            average_tps, ttft_s = self._timings.decode_tps, self._timings.ttft_s
        running = self._meter is not None and self._ended_s is None
        self._draw_speed(reading.now_tps if running else average_tps, running=running)
        self._draw_history(now_s)
        average = "-" if average_tps is None else format_rate(average_tps)
        first = "-" if ttft_s is None else format_duration(ttft_s)
        self._put("#rates", f"average {average} · first {first}")
        self._draw_context()
        memory_bytes = self._memory_bytes()
        memory = "not running" if memory_bytes is None else format_bytes(memory_bytes)
        self._put("#engine-memory", f"engine {memory}")

    def _draw_speed(self, rate_tps: float | None, *, running: bool) -> None:
        digits = "-" if rate_tps is None else format_rate(rate_tps).removesuffix(" tok/s")
        rate = self.query_one("#rate", Digits)
        if rate.value != digits:
            rate.update(digits)
        rate.set_class(rate_tps is None, "-unknown")
        self._put("#rate-unit", "tok/s now" if running else "tok/s")

    def _draw_history(self, now_s: float) -> None:
        rates: tuple[float, ...] = ()
        if self._meter is not None:
            rates = self._meter.history(now_s, buckets=HISTORY_BUCKETS, bucket_s=HISTORY_BUCKET_S)
        self.query_one("#history", Sparkline).data = rates

    def _draw_context(self) -> None:
        used = self._prompt_tokens + self._answer_tokens
        bar = self.query_one("#context-bar", Bar)
        bar.fraction = used / self._context_tokens if self._context_tokens else None
        bar.set_class(bar.fraction is not None and bar.fraction > 0.85, "-high")
        self._put("#context-text", f"{used} of {self._context_tokens} tokens")

    def _put(self, selector: str, text: str) -> None:
        """Update a text only when it changed: ten refreshes a second cost nothing at rest."""
        static = self.query_one(selector, Static)
        if str(static.content) != text:
            static.update(Content(text))
