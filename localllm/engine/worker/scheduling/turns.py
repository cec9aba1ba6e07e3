"""Whose prompt is computed next, and in which pieces: pure functions of the scheduler."""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Chunks

from localllm.engine.worker.sequences.batch import Chunk
from localllm.engine.worker.sequences.sequence import Sequence

PATIENCE = 8
"""Full batches of other prompts' tokens that may be computed before a prompt: then it is its turn.
Whatever comes after it, a prompt of several batches takes nine times as long as alone at most."""


def in_turns(
    prefilling: Iterable[Sequence], left: Callable[[Sequence], int], *, patience: int
) -> list[Sequence]:
    """Order sequences by the tokens of their prompts that are left, fewest first: that is the least
    waiting for all together, and of equal prompts one is finished before the next begins. Those
    before which `patience` tokens of others were computed come first, that with most of them at
    the front.

    `left`: the tokens of a prompt that have yet to be computed.
    """

    def turn(sequence: Sequence) -> tuple[int, int, float]:
        passed_over = sequence.prompt.passed_over
        overdue = passed_over if passed_over >= patience else 0
        return -overdue, left(sequence), sequence.metrics.arrived

    return sorted(prefilling, key=turn)


def count_passed_over(prefilling: Iterable[Sequence], chunks: Chunks[Chunk]) -> None:
    """Record whose turn this was, and by how many tokens the others were passed over."""
    tokens = sum(len(chunk.tokens) for chunk in chunks)
    served = {id(chunk.sequence) for chunk in chunks}
    for sequence in prefilling:
        prompt = sequence.prompt
        prompt.passed_over = 0 if id(sequence) in served else prompt.passed_over + tokens


def first_part(tokens: int, alike: int) -> int:
    """Return how many of the last `tokens` of a prompt are computed now: all that give the last one
    the bits that it gets alone, when all others are found in the cache, or else all others.

    `alike`: see `Model.alike`.
    """
    return tokens if tokens <= alike else tokens - 1
