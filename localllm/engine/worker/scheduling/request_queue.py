"""Answers that wait for a slot, in the order in which they were asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from localllm.engine.messages import GenerateRequest, Grammar
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sequences.parallel_sampling import answers_to
from localllm.engine.worker.sequences.sequence import Sequence
from localllm.errors import BadRequest, GenerationFailed, QueueFull

if TYPE_CHECKING:
    from localllm.engine.worker.parsing.model_format import Manner
    from localllm.engine.worker.sampling.grammar import Constraint, GrammarCompiler

_GRAMMAR_WAIT_S = 0.02
MAX_WAITING = 256
"""Answers that may wait for a slot; a request for more is refused at once."""


class Waiting:
    """First come, first served, but for those whose grammar is still being compiled."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._grammars: GrammarCompiler | None = None
        self._answers: deque[Sequence] = deque()

    def __bool__(self) -> bool:
        return bool(self._answers)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._answers)

    def remove(self, sequence: Sequence) -> None:
        self._answers.remove(sequence)

    def add(
        self,
        request: GenerateRequest,
        prompt: list[int],
        arrived: float,
        *,
        dropped: int,
        manner: "Manner | None",
    ) -> None:
        """Queue all answers to a request. Raises BadRequest, ContextOverflow, QueueFull."""
        if len(self._answers) + request.n > MAX_WAITING:
            raise QueueFull(f"{len(self._answers)} answers are waiting already. Try again later.")
        constraints = self._constraints(request.grammar, request.n)
        answers = answers_to(
            request, prompt, arrived, model=self._model, constraints=constraints, dropped=dropped
        )
        if manner is not None:
            manner.teach(answers, self._constraints(manner.calls, request.n))
        self._answers += answers

    def next_ready(self, refuse: Callable[[Sequence, GenerationFailed], None]) -> Sequence | None:
        """The first that waits, but for those whose grammar is being compiled: they are overtaken
        as long as somebody else can be served. `refuse` gets those whose grammar is no use."""
        for sequence in list(self._answers):
            if sequence.ended:  # with the one before it
                continue
            if sequence.constraint is None:
                return sequence
            if sequence.constraint.ready:
                try:
                    sequence.constraint.check()
                except BadRequest as error:
                    refuse(sequence, error)
                    continue
                return sequence
        return None

    def wait_for_grammar(self) -> None:
        """Nobody can be served before a grammar is compiled: wait, but not longer than a cancel
        may."""
        for sequence in self._answers:
            if sequence.constraint is not None:
                sequence.constraint.wait(_GRAMMAR_WAIT_S)
                self._model.vitals.beat()
                return

    def _constraints(self, grammar: Grammar | None, answers: int) -> "list[Constraint]":
        if grammar is None:
            return []
        if self._grammars is None:
            from localllm.engine.worker.sampling.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(self._model)
        return self._grammars.start(grammar, answers)
