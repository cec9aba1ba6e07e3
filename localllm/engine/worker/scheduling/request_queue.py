"""Sequences that wait for a slot, in the order of their priority and then of their arrival."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from localllm.engine.messages import GenerateRequest, Grammar
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.parsing.call_grammar import CallGrammar
from localllm.engine.worker.prompt.prompt import Prompt
from localllm.engine.worker.scheduling import admission
from localllm.engine.worker.sequences.parallel_sampling import sequences_of
from localllm.engine.worker.sequences.sequence import FINISHED, WAITING, Sequence
from localllm.errors import BadRequest, GenerationFailed, QueueFull

if TYPE_CHECKING:
    # Imports llguidance and numpy, which a worker without grammars does not need.
    from localllm.engine.worker.sampling.grammar import Constraint, GrammarCompiler

MAX_WAITING = 256
"""Sequences that may wait for a slot; a request for more is refused at once."""

_GRAMMAR_WAIT_S = 0.02
"""No longer than a cancel may wait."""


def _priority(sequence: Sequence) -> int:
    return sequence.request.priority


class RequestQueue:
    """First come, first served among those of one priority, but for those whose grammar is still
    being compiled, and for those of whose prompt the cache has more (`admission.py`)."""

    def __init__(self, model: Model, *, can_share: bool) -> None:
        """`can_share`: the sequences of one request can share its prompt's cells."""
        self._model = model
        self._can_share = can_share
        self._grammars: GrammarCompiler | None = None
        self._waiting: deque[Sequence] = deque()
        self._unchecked: list[Sequence] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def remove(self, sequence: Sequence) -> None:
        self._waiting.remove(sequence)

    def add(self, request: GenerateRequest, prompt: Prompt, arrived: float) -> None:
        """Queue all sequences of a request. Raises BadRequest, ContextOverflow, QueueFull."""
        if len(self._waiting) + request.n > MAX_WAITING:
            raise QueueFull(f"{len(self._waiting)} answers are waiting already. Try again later.")
        answer_format = prompt.answer_format
        sequences = sequences_of(
            request,
            prompt,
            arrived,
            model=self._model,
            can_share=self._can_share,
            constraints=self._constraints(answer_format.forced or request.grammar, request.n),
        )
        if answer_format.lazy is not None:
            calls = self._constraints(answer_format.lazy, request.n)
            for sequence, constraint in zip(sequences, calls, strict=True):
                sequence.output.events.attach(constraint)
                sequence.output.grammar = constraint
        self._waiting += sequences
        self._unchecked.append(sequences[0])

    def accepted(self, refuse: Callable[[Sequence, GenerationFailed], None]) -> list[Sequence]:
        """Return, once, the first sequence of every request with which nothing is wrong as far as
        that can be known: its grammar is compiled, if it has one. One whose grammar cannot be used
        is passed to `refuse`."""
        accepted = []
        for sequence in self._unchecked:
            constraint = sequence.output.constraint
            if sequence.status is FINISHED or (constraint is not None and not constraint.ready):
                continue
            if self._usable(sequence, refuse):
                accepted.append(sequence)
        self._unchecked = [
            s for s in self._unchecked if s.status is not FINISHED and s not in accepted
        ]
        return accepted

    def _usable(
        self, sequence: Sequence, refuse: Callable[[Sequence, GenerationFailed], None]
    ) -> bool:
        """Refuse a sequence whose grammar, which is compiled, cannot be used; return False then."""
        try:
            if sequence.output.constraint is not None:
                sequence.output.constraint.check()
        except BadRequest as error:
            refuse(sequence, error)
            return False
        return True

    def next_ready(
        self,
        refuse: Callable[[Sequence, GenerationFailed], None],
        cached: Callable[[Sequence], int] | None = None,
    ) -> Sequence | None:
        """Return the sequence that starts or goes on next. One whose grammar is being compiled is
        overtaken; one whose grammar cannot be used is passed to `refuse`, which removes it.

        `cached`: the tokens of its prompt that the cache has, which decide among equals; None: the
        first is returned.
        """
        ready = self._ready(refuse)
        first = next(ready, None)
        if first is None or cached is None:
            return first
        rest = itertools.takewhile(lambda each: _priority(each) == _priority(first), ready)
        equals = [first, *itertools.islice(rest, admission.MAX_COMPARED - 1)]
        if len(equals) == 1:
            return first
        overtaken = [each.prompt.overtaken for each in equals]
        chosen = admission.choose(overtaken, [cached(each) for each in equals])
        for each in equals[:chosen]:
            each.prompt.overtaken += 1
        return equals[chosen]

    def _ready(self, refuse: Callable[[Sequence, GenerationFailed], None]) -> Iterator[Sequence]:
        for sequence in sorted(self._waiting, key=_priority):  # stable: by arrival
            if sequence.status is not WAITING:  # refused together with the one before it
                continue
            constraint = sequence.output.constraint
            if constraint is None or (constraint.ready and self._usable(sequence, refuse)):
                yield sequence

    def requeue(self, sequence: Sequence) -> None:
        """Queue a sequence again that has lost its slot, before those that arrived after it."""
        self._waiting.appendleft(sequence)

    def wait_for_grammar(self) -> None:
        """Wait a moment for a grammar, before which no sequence can start."""
        for sequence in self._waiting:
            if sequence.output.constraint is not None:
                sequence.output.constraint.wait(_GRAMMAR_WAIT_S)
                self._model.heartbeat.beat()
                return

    def close(self) -> None:
        """End the threads of grammars."""
        if self._grammars is not None:
            self._grammars.close()

    def _constraints(self, grammar: Grammar | CallGrammar | None, n: int) -> "list[Constraint]":
        if grammar is None:
            return []
        if self._grammars is None:
            from localllm.engine.worker.sampling.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(self._model.vocab)
        return self._grammars.start(grammar, n)
