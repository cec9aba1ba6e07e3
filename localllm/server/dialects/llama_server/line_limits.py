"""Where code that is written into an editor ends: `n_indent` and `t_max_predict_ms` of /infill.

Both look at whole lines, as in llama-server: an editor wants no half of one. Text is passed on as
soon as it is certain to stay, so that a stream takes nothing back.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    PromptProgress,
    Timings,
    Token,
)
from localllm.server.generation.choices import Events


class LineLimits:
    """Decides after each piece of text whether the answer ends.

    It ends before the first later line that is indented by fewer than `min_indent` spaces and tabs
    (blank ones do not count), and at the first line break after `time_s` seconds (None: any time).
    """

    def __init__(
        self,
        *,
        min_indent: int = 0,
        time_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._min_indent = min_indent
        self._time_s = time_s
        self._clock = clock
        self._started: float | None = None
        self._held = ""
        """A line break, and what is known of the line behind it."""

    def add(self, text: str) -> tuple[str, bool]:
        """Take the next piece; return what stays of all that was held, and True at the end."""
        now = self._clock()
        self._started = now if self._started is None else self._started
        late = self._time_s is not None and now - self._started > self._time_s
        rest, kept = self._held + text, ""
        self._held = ""
        if not rest.startswith("\n"):
            kept, rest = _before_break(rest)
        while rest:
            if late:
                return kept, True
            line = rest[1:].lstrip(" \t")
            if not line:
                self._held = rest
                return kept, False
            indent = len(rest) - 1 - len(line)
            if line[0] != "\n" and indent < self._min_indent:
                return kept, True
            begin = rest[: 1 + indent]
            whole, rest = _before_break(line)
            kept += begin + whole
        return kept, False

    def flush(self) -> str:
        """Return what is held when the model itself has ended the answer."""
        held, self._held = self._held, ""
        return held


def _before_break(text: str) -> tuple[str, str]:
    at = text.find("\n")
    return (text, "") if at < 0 else (text[:at], text[at:])


async def limited(events: Events, limits: LineLimits) -> AsyncGenerator[GenerateEvent, None]:
    """Pass on the events of one answer until a limit ends it, which cancels the request."""
    progress: PromptProgress | None = None
    tokens, began, first = 0, time.monotonic(), 0.0
    async with aclosing(events) as source:
        async for event in source:
            if isinstance(event, PromptProgress):
                progress = event
            if isinstance(event, Finished) and (held := limits.flush()):
                yield Token(request_id=event.request_id, text=held)
            if not isinstance(event, Token):
                yield event
                continue
            first = first or time.monotonic()
            tokens += 1
            text, ends = limits.add(event.text)
            yield replace(event, text=text)
            if ends:
                yield _ended(event.request_id, progress, tokens, began, first)
                return


def _ended(
    request_id: str, progress: PromptProgress | None, tokens: int, began: float, first: float
) -> Finished:
    """Make the end of an answer that was cancelled, of what was seen of it."""
    now = time.monotonic()
    read = 0 if progress is None else progress.processed - progress.cached
    read_s = 0.0 if progress is None else progress.elapsed_s
    return Finished(
        request_id=request_id,
        reason=FinishReason.LENGTH,
        prompt_tokens=0 if progress is None else progress.total,
        completion_tokens=tokens,
        cached_tokens=0 if progress is None else progress.cached,
        timings=Timings(
            queue_s=0.0,
            ttft_s=first - began,
            total_s=now - began,
            prefill_tps=read / read_s if read_s else None,
            decode_tps=(tokens - 1) / (now - first) if tokens > 1 and now > first else None,
        ),
    )
