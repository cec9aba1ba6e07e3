"""One answer on the command line: written as it comes, counted when it is done."""

import asyncio
import dataclasses
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from localllm.chat.cache_report import describe_miss, describe_sources
from localllm.chat.request import AnswerBuilder
from localllm.cli.output import info, write_stderr
from localllm.core.text import ControlFilter
from localllm.core.units import format_bytes, format_duration, format_rate
from localllm.engine.messages import Finished, GenerateEvent, PromptProgress, Reasoning, Token
from localllm.errors import LocalLLMError
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer. `finished` is None when the user stopped it; `reasoning` is no part of
    `text`."""

    text: str
    finished: Finished | None
    reasoning: str = ""

    @property
    def stopped(self) -> bool:
        return self.finished is None

    def document(self, resident: ResidentModel) -> dict[str, object]:
        """Return what `run --json` prints."""
        comparison = resident.comparison
        done = self.finished
        timings = done.timings if done is not None else None
        cache = timings.cache if timings is not None else None
        return {
            "text": self.text,
            "reasoning": self.reasoning or None,
            "finish_reason": done.reason.value if done is not None else "cancelled",
            "usage": {
                "prompt_tokens": done.prompt_tokens if done is not None else None,
                "completion_tokens": done.completion_tokens if done is not None else None,
                "cached_tokens": done.cached_tokens if done is not None else None,
            },
            "warnings": list(done.warnings) if done is not None else [],
            "timings": {
                "load_s": resident.loaded.load_s,
                "ttft_s": timings.ttft_s if timings is not None else None,
                "prefill_tps": timings.prefill_tps if timings is not None else None,
                "decode_tps": timings.decode_tps if timings is not None else None,
                "drafted": timings.drafted if timings is not None else None,
                "accepted": timings.accepted if timings is not None else None,
                "cache": dataclasses.asdict(cache) if cache is not None else None,
            },
            "memory": {
                "estimated_bytes": comparison.estimated_bytes,
                "probed_bytes": comparison.probed_bytes,
                "allocated_bytes": comparison.allocated_bytes,
                "estimate_error_percent": comparison.estimate_error_percent,
                "probe_error_percent": comparison.probe_error_percent,
            },
        }


class AnswerOutput(Protocol):
    """Where an answer goes while it comes; `finish` is its end, however it ended."""

    def write_progress(self, read: int, total: int) -> None: ...

    def write_reasoning(self, text: str) -> None: ...

    def write(self, text: str) -> None: ...

    def finish(self) -> None: ...


class AnswerWriter:
    """Write text to stdout as it comes.

    On a terminal the model's escapes are taken out: it is untrusted text; in a pipe it is data and
    stays as it is. Reasoning is no part of the answer: it goes to stderr, dimmed, and only to a
    terminal.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._filter = ControlFilter() if sys.stdout.isatty() else None
        self._shows_reasoning = not silent and sys.stderr.isatty()
        self._reasoning: ControlFilter | None = None

    def write_progress(self, read: int, total: int) -> None:
        """Write nothing while the prompt is read."""

    def write_reasoning(self, text: str) -> None:
        if not self._shows_reasoning:
            return
        if self._reasoning is None:
            self._reasoning = ControlFilter()
        write_stderr(self._reasoning.feed(text), dim=True)

    def _end_reasoning(self) -> None:
        if self._reasoning is not None:
            write_stderr(self._reasoning.finish(), dim=True, end="\n")
            self._reasoning = None

    def write(self, text: str) -> None:
        if text:
            self._end_reasoning()
        self._put(text if self._filter is None else self._filter.feed(text))

    def finish(self) -> None:
        """End the line, so that the shell's prompt does not stick to the answer."""
        self._end_reasoning()
        self._put(("" if self._filter is None else self._filter.finish()) + "\n")

    def _put(self, text: str) -> None:
        if self._silent or not text:
            return
        sys.stdout.write(text)
        sys.stdout.flush()


async def read_answer(
    events: AsyncGenerator[GenerateEvent, None],
    writer: AnswerOutput,
    builder: AnswerBuilder,
    grown: Callable[[], None] = lambda: None,
) -> Answer:
    """Write the stream, and build the answer; a first Ctrl+C (a cancelled task) stops it, and what
    has come is the answer. When an error ends it, `builder` has what has come. `grown` is called
    after each piece."""
    try:
        async with aclosing(events):
            async for event in events:
                builder.feed(event)
                if isinstance(event, Token):
                    writer.write(event.text)
                    grown()
                elif isinstance(event, Reasoning):
                    writer.write_reasoning(event.text)
                elif isinstance(event, PromptProgress):
                    writer.write_progress(event.processed, event.total)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    except LocalLLMError:
        if builder.text or builder.reasoning:
            writer.finish()
        raise
    writer.finish()
    return Answer(text=builder.text, finished=builder.finished, reasoning=builder.reasoning)


def print_stats(answer: Answer, resident: ResidentModel, memory_bytes: int | None) -> None:
    """Print counts and rates on stderr."""
    done = answer.finished
    if done is None:
        info(_("stopped"))
        return
    timings = done.timings
    cache = timings.cache
    parts = [
        _("prompt {count} tokens ({cached} cached)").format(
            count=done.prompt_tokens, cached=done.cached_tokens
        ),
        _("prefill {rate}").format(rate=_rate(timings.prefill_tps)),
        _("answer {count} tokens").format(count=done.completion_tokens),
        _("decode {rate}").format(rate=_rate(timings.decode_tps)),
        _("first token {time}").format(time=_duration(timings.ttft_s)),
        _("load {time}").format(time=_duration(resident.loaded.load_s)),
        _("estimated {size}").format(size=format_bytes(resident.fit.with_draft_bytes)),
    ]
    if resident.settings.threads is not None:
        parts.append(_threads(resident))
    if timings.drafted:
        right = _("{accepted} of {drafted} guesses right")
        parts.insert(4, right.format(accepted=timings.accepted, drafted=timings.drafted))
    if memory_bytes is not None:
        parts.append(_("engine {size}").format(size=format_bytes(memory_bytes)))
    if cache is not None and (sources := describe_sources(cache)):
        parts.insert(1, _("from the cache: {sources}").format(sources=sources))
    info(" · ".join(parts))
    if cache is not None and cache.miss is not None:
        info(describe_miss(cache.miss))


def _threads(resident: ResidentModel) -> str:
    """Name the threads that computed, and what they were compared with when it was loaded."""
    threads, trials = resident.settings.threads, resident.loaded.thread_trials
    others = ", ".join(str(each.threads) for each in trials if each.threads != threads)
    if others:
        return _("{threads} threads (fastest beside {others})").format(
            threads=threads, others=others
        )
    return _("{threads} threads").format(threads=threads)


def _rate(tokens_per_s: float | None) -> str:
    return "-" if tokens_per_s is None else format_rate(tokens_per_s)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)
