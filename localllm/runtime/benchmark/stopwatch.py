"""Measure a loaded model: prompts that no cache answers, answers that do not end early.

The engine's threads wait for each other at every step of the graph. When one of them has to wait
for a processor all of them do, and a rate falls to a tenth or less, evenly: the standard deviation
does not show it. So the CPU time of other programs is measured beside each run.
"""

import asyncio
import random
import statistics
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from localllm.engine.messages import Finished, GenerateEvent, GenerateRequest, Sampling, Token
from localllm.errors import GenerationFailed

Generate = Callable[[GenerateRequest], AsyncGenerator[GenerateEvent, None]]

MIN_PROMPT_TOKENS = 16
"""Shorter prompts cannot be told from each other by a cache that remembers beginnings."""

_WORDS = (  # noqa: SIM905  # ninety quoted words are no easier to read
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea kid body information back"
).split()
"""Common English nouns: one token each in nearly every vocabulary."""

_WARM_UP_TOKENS = 16
_LARGEST_CACHED_PART = 0.1
_TRIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """The rates of some runs in tokens/s; `tokens` is what each run read or decoded."""

    tokens: int
    tps: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.tps)

    @property
    def stdev(self) -> float | None:
        """Of the sample; None for a single run."""
        return statistics.stdev(self.tps) if len(self.tps) > 1 else None


def context_for(*, prompt_tokens: int, gen_tokens: int) -> int:
    """Tokens of context that the tests need, with a margin for a first prompt that comes out
    long."""
    return max(prompt_tokens + max(64, prompt_tokens // 8), gen_tokens + 64)


class Stopwatch:
    """Times one loaded model. `ran` is called after each run, the warm-ups included."""

    def __init__(
        self,
        generate: Generate,
        *,
        ran: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generate = generate
        self._ran = ran
        self._clock = clock
        self._random = random.Random(0)  # the same prompts every time, on every machine

    async def prompt(self, tokens: int, *, repetitions: int) -> Timed:
        """Read a prompt of `tokens`, another one each time, as the engine times it.

        Where a vocabulary makes that number impossible, the result says what it was. Raises
        GenerationFailed classes.
        """
        words = await self._words(tokens)
        runs: list[Finished] = []
        for _ in range(1 + repetitions):
            self._random.shuffle(words)
            runs.append(await self._read(words))
            self._ran()
        del runs[0]
        return Timed(
            tokens=round(statistics.fmean(done.prompt_tokens for done in runs)),
            tps=tuple(_uncached_rate(done) for done in runs),
        )

    async def decode(self, tokens: int, *, parallel: int, repetitions: int) -> Timed:
        """Decode `tokens` one after the other in each of `parallel` conversations at once.

        One alone is timed by the engine; several together by their tokens' arrival here. Raises
        GenerationFailed classes.
        """
        await self._decode(min(tokens, _WARM_UP_TOKENS), parallel)
        self._ran()
        rates: list[float] = []
        for _ in range(repetitions):
            rates.append(await self._decode(tokens, parallel))
            self._ran()
        return Timed(tokens=tokens, tps=tuple(rates))

    async def _words(self, tokens: int) -> list[str]:
        """Choose words whose text is `tokens` long, or the next length below that can be had.

        The engine counts them; each try begins like the one before, so its cache has most of it.
        """
        pool = [self._random.choice(_WORDS) for _ in range(2 * tokens)]
        count, best = max(1, tokens // 8), 1
        for _ in range(_TRIES):
            counted = (await self._read(pool[:count])).prompt_tokens
            if counted <= tokens:
                best = max(best, count)
            if counted == tokens:
                break
            missing = (tokens - counted) / max(1.0, counted / count)
            step = round(missing) or (1 if missing > 0 else -1)
            count = min(max(1, count + step), len(pool))
        return pool[:best]

    async def _read(self, words: Sequence[str]) -> Finished:
        request = GenerateRequest(
            request_id=uuid.uuid4().hex, prompt=" ".join(words), max_tokens=1, ignore_eos=True
        )
        return (await self._follow(request))[0]

    async def _decode(self, tokens: int, parallel: int) -> float:
        # The first token of an answer comes out of its prompt: one more is asked for.
        requests = [
            GenerateRequest(
                request_id=uuid.uuid4().hex,
                prompt=" ".join(self._random.sample(_WORDS, 4)),
                sampling=Sampling(seed=self._random.getrandbits(31)),
                max_tokens=tokens + 1,
                ignore_eos=True,
            )
            for _ in range(parallel)
        ]
        answers = await asyncio.gather(*(self._follow(request) for request in requests))
        for done, _ in answers:
            if done.completion_tokens != tokens + 1:
                raise GenerationFailed(
                    f"An answer ended after {done.completion_tokens} of {tokens + 1} tokens "
                    f"({done.reason.value}): its rate would not be comparable."
                )
        if parallel == 1:
            return _positive(answers[0][0].timings.decode_tps)
        return rate_together([times for _, times in answers])

    async def _follow(self, request: GenerateRequest) -> tuple[Finished, list[float]]:
        """Wait for an answer's end, and note when each of its tokens came."""
        times: list[float] = []
        async with aclosing(self._generate(request)) as events:
            async for event in events:
                if isinstance(event, Token):
                    times.append(self._clock())
                elif isinstance(event, Finished):
                    return event, times
        raise GenerationFailed("The engine ended an answer without saying so.")


def rate_together(times: Sequence[Sequence[float]]) -> float:
    """Compute the rate of several answers at once from the times of their tokens (seconds).

    Counted from the moment when the last of them has its first token, so that no prompt is being
    read any more, to the last token of all. Raises GenerationFailed when no time passed.
    """
    start = max(answer[0] for answer in times)
    end = max(answer[-1] for answer in times)
    if end <= start:
        raise GenerationFailed("The answers came too fast to be timed. Give more --gen-tokens.")
    return sum(at > start for answer in times for at in answer) / (end - start)


def _uncached_rate(done: Finished) -> float:
    if done.cached_tokens > _LARGEST_CACHED_PART * done.prompt_tokens:
        raise GenerationFailed(
            f"{done.cached_tokens} of {done.prompt_tokens} prompt tokens came from the cache: "
            "the rate would not be that of reading a prompt. Give more --prompt-tokens."
        )
    return _positive(done.timings.prefill_tps)


def _positive(tps: float | None) -> float:
    if tps is None:
        raise GenerationFailed("The engine timed nothing. Give more tokens.")
    return tps
