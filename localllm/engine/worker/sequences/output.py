"""What a sequence says: draws its next token, and makes the events of tokens, prompts and ends."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from localllm.engine.messages import Event, Finished, FinishReason, Token, TokenLogprob
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sequences.sequence import Chunk, Sequence, timings

if TYPE_CHECKING:
    from localllm.engine.worker.sampling.logits import Row


class Voice:
    """Speaks for every sequence of one model."""

    def __init__(
        self, model: Model, emit: Callable[[Event], None], clock: Callable[[], float]
    ) -> None:
        self._model = model
        self._emit = emit
        self._clock = clock
        self._shown = functools.lru_cache(8192)(self._show)

    def say_next(self, sequence: Sequence, row: int) -> FinishReason | None:
        """Draw a token from output row `row` and say it; why the answer ends with it, or None.

        Raises GenerationFailed when a grammar cannot be followed.
        """
        token = self._draw(sequence, row)
        sequence.last_token = self._clock()
        if sequence.first_token is None:
            sequence.first_token = sequence.last_token
        sequence.next_token = token
        sequence.produced += 1
        if self._ends(sequence, token):
            if sequence.constraint is not None and token not in sequence.request.stop_tokens:
                sequence.constraint.check_end()
            return FinishReason.STOP
        complete = sequence.constraint is not None and not sequence.constraint.accept(token)
        speech, text = sequence.speech, sequence.text
        said = text.push(self._model.piece(token) or speech.piece(token))
        logprob, top = self._logprobs(sequence, token, row)
        for event in speech.say(
            Token(
                request_id=sequence.id,
                text=said,
                logprob=logprob,
                top_logprobs=top,
                index=sequence.index,
            )
        ):
            self._emit(event)
        if text.stopped or speech.ended or (complete and not speech.bound):
            return FinishReason.STOP
        sequence.constraint = speech.next_constraint(
            sequence.constraint, complete=complete, text=text
        )
        return FinishReason.LENGTH if sequence.produced >= sequence.limit else None

    def _draw(self, sequence: Sequence, row: int) -> int:
        request, constraint, sampler = sequence.request, sequence.constraint, sequence.sampler
        assert sampler is not None
        if constraint is None and sequence.produced >= request.min_tokens:
            return sampler.sample(self._model.handle, row)
        from localllm.engine.worker.sampling.logits import all_but

        if constraint is not None:
            allowed = constraint.allowed()
        else:
            stops = frozenset(request.stop_tokens)
            ends = stops if request.ignore_eos else stops | self._model.ends
            allowed = all_but(ends, self._model.vocabulary)
        return sampler.sample_among(self._row(row), allowed)

    def _ends(self, sequence: Sequence, token: int) -> bool:
        request = sequence.request
        if token in request.stop_tokens:
            return True
        return self._model.is_end(token) and not request.ignore_eos

    # --- log probabilities ---

    def _row(self, index: int) -> "Row":
        from localllm.engine.worker.sampling.logits import row_of

        return row_of(self._model.handle, index, self._model.vocabulary)

    def _logprobs(
        self, sequence: Sequence, token: int, row: int
    ) -> tuple[TokenLogprob | None, tuple[TokenLogprob, ...]]:
        """Those of a token that follows output row `row`, as far as the request asks for them."""
        if sequence.request.top_logprobs is None:
            return None, ()
        from localllm.engine.worker.sampling.logits import logprobs

        own, top = logprobs(self._row(row), token, sequence.request.top_logprobs)
        return self._logprob(token, own), tuple(self._logprob(*each) for each in top)

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        text, raw = self._shown(token)
        return TokenLogprob(token=token, text=text, raw=raw, logprob=logprob)

    def _show(self, token: int) -> tuple[str, tuple[int, ...]]:
        raw = self._model.piece(token)
        text = raw.decode("utf-8", "replace") if raw else self._model.token_text(token)
        return text, tuple(raw)

    # --- the prompt ---

    def say_prompt(self, sequence: Sequence, chunk: Chunk, start: int) -> None:
        """Say what `echo` asks for after a chunk of the prompt was computed, from `start` on.

        With log probabilities a token can be said when the row before it is there.
        """
        echo = sequence.echo
        assert echo is not None
        if not sequence.scores:
            while echo.said < sequence.prompt_tokens:
                self._say(sequence, sequence.prompt[echo.said], None, ())
        elif echo.said == 0:
            self._say(sequence, sequence.prompt[0], None, ())
        first_row = chunk.last_row - len(chunk.tokens) + 1
        while echo.said < min(start + len(chunk.tokens) + 1, sequence.prompt_tokens):
            token = sequence.prompt[echo.said]
            row = first_row + echo.said - 1 - start
            self._say(sequence, token, *self._logprobs(sequence, token, row))
        if echo.said == sequence.prompt_tokens and (rest := echo.finish()):
            self._emit(Token(request_id=sequence.id, text=rest, of_prompt=True))

    def _say(
        self,
        sequence: Sequence,
        token: int,
        logprob: TokenLogprob | None,
        top: tuple[TokenLogprob, ...],
    ) -> None:
        assert sequence.echo is not None
        text = sequence.echo.say(token)
        self._emit(
            Token(
                request_id=sequence.id, text=text, logprob=logprob, top_logprobs=top, of_prompt=True
            )
        )

    # --- the end ---

    def say_end(self, sequence: Sequence, reason: FinishReason, *, remaining: int) -> None:
        """Say what is still held back, and that the answer has ended."""
        rest = sequence.text.finish()
        for event in sequence.speech.say_rest(
            Token(request_id=sequence.id, text=rest, index=sequence.index)
        ):
            self._emit(event)
        self._emit(
            Finished(
                request_id=sequence.id,
                reason=sequence.speech.reason(reason),
                prompt_tokens=sequence.prompt_tokens,
                completion_tokens=sequence.produced,
                cached_tokens=sequence.cached,
                timings=timings(sequence, self._clock()),
                dropped_messages=sequence.dropped,
                index=sequence.index,
                remaining=remaining,
            )
        )
