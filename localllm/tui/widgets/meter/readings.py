"""What the meter knows, as a value: the chat collects it (`MeterLog`), the panel draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from localllm.chat.cache_report import describe_miss, describe_sources
from localllm.chat.conversation import ChatMessage
from localllm.core.speed.estimate import Estimate
from localllm.core.speed.meter import Meter
from localllm.engine.messages import Finished, Message, PromptProgress, Role, Timings
from localllm.machine.load import SystemLoad
from localllm.translation import _

HISTORY_BUCKETS: Final = 30
HISTORY_BUCKET_S: Final = 1.0

FORGOTTEN_TOKENS: Final = 64
"""Fewer tokens that were not known before are no loss worth a word: the end of a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReadings:
    """Everything that is shown. Rates in tokens per second, None: not known (yet).

    `history` are the rates of the last seconds that are over, oldest first. `prompt_done` of
    `prompt_total` tokens of the prompt are read, `cached` of them were known before; `sources` says
    from where when that is not the conversation's own slot, and `forgotten` why not more were; both
    may be empty. `context_used` None: not counted. `questions` are those
    that the context holds. `saved` is the share of the tokens that speculation gave without a step
    of their own.
    """

    running: bool = False
    now_tps: float | None = None
    average_tps: float | None = None
    ttft_s: float | None = None
    history: tuple[float, ...] = ()
    prompt_done: int = 0
    prompt_total: int = 0
    prompt_tps: float | None = None
    cached: int = 0
    sources: str = ""
    forgotten: str = ""
    context_used: int | None = None
    context_size: int = 0
    questions: int = 0
    saved: float | None = None
    expected: Estimate | None = None
    load: SystemLoad = field(default_factory=SystemLoad)

    @property
    def questions_left(self) -> int | None:
        """Estimate how many more questions the context holds, of the size of those before."""
        if not self.context_used or not self.questions or not self.context_size:
            return None
        free = max(0, self.context_size - self.context_used)
        return int(free / (self.context_used / self.questions))


class MeterLog:
    """Collects what the engine reports of one answer after another. `clock` gives seconds,
    monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meter: Meter | None = None
        self._ended_s: float | None = None
        self._timings: Timings | None = None
        self._progress: PromptProgress | None = None
        self._prompt_tokens = 0
        self._cached = 0
        self._answer_tokens = 0
        self._accepted: float | None = None
        self._messages = 0
        self._loaded_anew = True
        self._context_used: int | None = None
        self.context_size = 0
        self.questions = 0
        self.expected: Estimate | None = None
        self.load = SystemLoad()

    @property
    def running(self) -> bool:
        return self._meter is not None and self._ended_s is None

    def loaded(self, context: int) -> None:
        """Note that a model was loaded: nothing is in its cache."""
        self.context_size = context
        self._loaded_anew = True

    def shown(self, path: Sequence[ChatMessage]) -> None:
        """Note the branch that is shown: how much of the context it takes is known when its last
        answer has the engine's numbers."""
        self.questions = sum(message.role is Role.USER for message in path)
        stats = path[-1].stats if path else None
        if stats is not None:
            self._context_used = stats.prompt_tokens + stats.completion_tokens
        elif not self.running:
            self._context_used = None if path else 0

    def counted(self, tokens: int) -> None:
        """Note that the conversation was counted."""
        self._context_used = tokens

    def started(self, messages: tuple[Message, ...]) -> None:
        """Note that a question went to the engine with these messages."""
        self._meter = Meter(started_s=self._clock())
        self._ended_s = self._timings = self._progress = self._accepted = None
        self._messages = len(messages)
        self._answer_tokens = 0

    def prompt_read(self, progress: PromptProgress) -> None:
        """Note how much of the prompt the engine has read."""
        self._progress = progress
        self._prompt_tokens = progress.total
        self._cached = progress.cached

    def token_written(self) -> None:
        """Note that the engine wrote one token."""
        if self._meter is not None:
            self._meter.add(self._clock())
        self._answer_tokens += 1

    def ended(self, finished: Finished | None) -> None:
        """Note the end of the answer; `finished` has the engine's own timings, if it lived."""
        self._ended_s = self._clock()
        if finished is None:
            return
        self._timings = finished.timings
        self._prompt_tokens = finished.prompt_tokens
        self._cached = finished.cached_tokens
        self._answer_tokens = finished.completion_tokens
        self._context_used = finished.prompt_tokens + finished.completion_tokens
        if finished.timings.drafted and finished.completion_tokens:
            self._accepted = finished.timings.accepted / finished.completion_tokens

    def readings(self) -> MeterReadings:
        """Return what is known now."""
        now_s = self._clock() if self._ended_s is None else self._ended_s
        reading = None if self._meter is None else self._meter.read(now_s)
        average_tps = None if reading is None else reading.average_tps
        ttft_s = None if reading is None else reading.ttft_s
        if self._timings is not None:  # what the engine measured is better than what we saw
            average_tps, ttft_s = self._timings.decode_tps, self._timings.ttft_s
        cache = None if self._timings is None else self._timings.cache
        used = self._context_used
        if self.running and self._prompt_tokens:
            used = self._prompt_tokens + self._answer_tokens
        return MeterReadings(
            running=self.running,
            now_tps=reading.now_tps if self.running and reading is not None else None,
            average_tps=average_tps,
            ttft_s=ttft_s,
            history=() if self._meter is None else self._history(now_s),
            prompt_done=0 if self._progress is None else self._progress.processed,
            prompt_total=self._prompt_tokens if self._meter is not None else 0,
            prompt_tps=self._prompt_tps(),
            cached=self._cached,
            sources="" if cache is None else describe_sources(cache),
            forgotten=self._forgotten(),
            context_used=used,
            context_size=self.context_size,
            questions=self.questions,
            saved=self._accepted,
            expected=self.expected,
            load=self.load,
        )

    def settled(self) -> None:
        """Note that the answer is part of what the engine holds now."""
        self._loaded_anew = False

    def _history(self, now_s: float) -> tuple[float, ...]:
        assert self._meter is not None
        return self._meter.history(now_s, buckets=HISTORY_BUCKETS, bucket_s=HISTORY_BUCKET_S)

    def _prompt_tps(self) -> float | None:
        if self._timings is not None and self._timings.prefill_tps is not None:
            return self._timings.prefill_tps
        progress = self._progress
        if progress is None or progress.elapsed_s <= 0:
            return None
        computed = progress.processed - progress.cached
        return computed / progress.elapsed_s if computed > 0 else None

    def _forgotten(self) -> str:
        cache = None if self._timings is None else self._timings.cache
        if cache is None:
            return ""
        if cache.miss is not None:
            return describe_miss(cache.miss)
        if self._loaded_anew and self._messages > 1 and cache.computed >= FORGOTTEN_TOKENS:
            return _("the model was loaded anew")
        return ""


def difference(measured_tps: float, expected: Estimate) -> int:
    """Return how far a rate is above (or below) what was expected, in percent."""
    return round((measured_tps / expected.likely - 1) * 100)
