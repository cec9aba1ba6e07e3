"""Decode a few tokens with different numbers of threads, right after a load, and keep the best.

Nothing is in the cache yet and nobody waits for an answer; what it costs is bounded by
`core.speed.threads`. A load that came with a number of threads is not tried.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from localllm.core.speed.threads import ThreadTrial, best_of, rounds_in
from localllm.engine.cpu_time import CpuTime, cpu_time, crowded
from localllm.engine.worker.llama.model import BatchToken, CacheFull, Model

_PROMPT_TOKENS = 8

Disturbed = Callable[[CpuTime | None, int], bool]


def other_programs(before: CpuTime | None, threads: int) -> bool:
    """Return True when other programs have left fewer processors than `threads` since `before`."""
    return crowded(before, cpu_time(), threads=threads, processors=psutil.cpu_count())


def try_threads(
    model: Model,
    counts: Sequence[int],
    *,
    clock: Callable[[], float] = time.perf_counter,
    disturbed: Disturbed = other_programs,
) -> tuple[ThreadTrial, ...]:
    """Compare `counts`, the usual one first, and let `model` use the best from now on.

    Returns nothing, and changes nothing, when that would take too long, or other programs have
    disturbed it.
    """
    if len(counts) < 2 or not model.has_cache:
        return ()
    try:
        return _Trial(model, clock).compare(counts, disturbed)
    except (CacheFull, RuntimeError):  # what is wrong with the model, an answer will say
        model.set_threads(counts[0], counts[0])
        return ()
    finally:
        model.remove_cells(0)


@dataclass(frozen=True, slots=True)
class _Trial:
    model: Model
    clock: Callable[[], float]

    def compare(self, counts: Sequence[int], disturbed: Disturbed) -> tuple[ThreadTrial, ...]:
        model, usual = self.model, counts[0]
        model.set_threads(usual, usual)
        self._step_s(1)  # brings the weights into memory
        rounds = rounds_in(self._step_s(1), len(counts), model.load_s)
        if not rounds:
            return ()
        before = cpu_time()
        steps: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(rounds):  # in turns: a machine's speed drifts
            for count in counts:
                model.set_threads(count, count)
                steps[count].append(self._step_s(1))
        trials = tuple(ThreadTrial(threads=n, steps_s=tuple(each)) for n, each in steps.items())
        best = best_of(trials)
        for_prompts = usual if best == usual else self._best_for_prompts(usual, best)
        if disturbed(before, usual):
            model.set_threads(usual, usual)
            return ()
        model.set_threads(best, for_prompts)
        return trials

    def _best_for_prompts(self, usual: int, fewer: int) -> int:
        """Compare two counts on short batches: prompts are bound by multiplying, so that more
        threads may serve them than one token."""
        trials = []
        for count in (usual, fewer):
            self.model.set_threads(count, count)
            steps_s = (self._step_s(_PROMPT_TOKENS), self._step_s(_PROMPT_TOKENS))
            trials.append(ThreadTrial(threads=count, steps_s=steps_s))
        return best_of(trials)

    def _step_s(self, tokens: int) -> float:
        """Decode a batch of a sequence of its own; return its seconds."""
        self.model.remove_cells(0)
        last = tokens - 1
        batch = [BatchToken(0, position, 0, position == last) for position in range(tokens)]
        started = self.clock()
        self.model.decode(batch)
        return self.clock() - started
