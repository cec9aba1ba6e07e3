"""Output of sequences: draws the next token, and makes the events of tokens, prompts and ends."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from localllm.engine.messages import (
    Event,
    Finished,
    FinishReason,
    HostCacheStats,
    Token,
    TokenLogprob,
)
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.sequences.batch import Chunk
from localllm.engine.worker.sequences.sequence import OutputState, Sequence

if TYPE_CHECKING:  # and numpy with it
    from localllm.engine.worker.sampling.logits import Logits

_CACHED_TOKENS = 8192
"""Texts of tokens that are cached, for log probabilities."""


class OutputProcessor:
    """Makes the events of every sequence of one model. (vLLM: v1/engine/output_processor.py)"""

    def __init__(
        self, model: Model, emit: Callable[[Event], None], clock: Callable[[], float]
    ) -> None:
        self._handle = model.handle
        self._vocab = model.vocab
        self._emit = emit
        self._clock = clock
        self._text_of = functools.lru_cache(_CACHED_TOKENS)(self._read_text)

    def emit_token(self, sequence: Sequence, row: int) -> FinishReason | None:
        """Draw a token from output row `row` and emit it. Returns the reason when the answer ends
        with it.

        Raises GenerationFailed when a grammar cannot be followed.
        """
        request, output = sequence.request, sequence.output
        token = self._draw(sequence, row)
        sequence.add_token(token, self._clock())
        constraint, events = output.constraint, output.events
        if self._ends(sequence, token):
            if constraint is not None and token not in request.stop_tokens:
                constraint.check_end()
            return FinishReason.STOP
        complete = constraint is not None and not constraint.accept(token)
        text = output.detokenizer.push(self._vocab.piece(token) or events.marker(token))
        logprob, top = self._logprobs(sequence, token, row)
        piece = Token(
            request_id=request.request_id,
            text=text,
            logprob=logprob,
            top_logprobs=top,
            index=sequence.index,
        )
        for event in events.push(piece, token):
            self._emit_of(output, event)
        if output.detokenizer.stopped or events.ended or (complete and not events.in_lazy_grammar):
            return FinishReason.STOP
        output.constraint = events.next_constraint(
            constraint, complete=complete, text=output.detokenizer
        )
        return FinishReason.LENGTH if output.count >= output.limit else None

    def _emit_of(self, output: OutputState, event: Event) -> None:
        if output.check is not None:
            output.check.push(event)
        self._emit(event)

    def _draw(self, sequence: Sequence, row: int) -> int:
        request, output = sequence.request, sequence.output
        sampler, constraint = output.sampler, output.constraint
        assert sampler is not None
        forced = output.events.forced_token(output.detokenizer)
        if forced is None and constraint is None and output.count >= request.min_tokens:
            return sampler.sample(self._handle, row)
        from localllm.engine.worker.sampling.logits import all_except, only

        if forced is not None and (constraint is None or forced in constraint.allowed()):
            allowed = only(forced)
        elif constraint is not None:
            allowed = constraint.allowed()
        else:
            stops = frozenset(request.stop_tokens)
            ends = stops if request.ignore_eos else stops | self._vocab.end_tokens
            allowed = all_except(ends, self._vocab.size)
        return sampler.sample_among(self._logits(row), allowed)

    def _ends(self, sequence: Sequence, token: int) -> bool:
        request = sequence.request
        if token in request.stop_tokens:
            return True
        return self._vocab.is_end(token) and not request.ignore_eos

    # --- log probabilities ---

    def _logits(self, row: int) -> "Logits":
        from localllm.engine.worker.sampling.logits import logits_of

        return logits_of(self._handle, row, self._vocab.size)

    def _logprobs(
        self, sequence: Sequence, token: int, row: int
    ) -> tuple[TokenLogprob | None, tuple[TokenLogprob, ...]]:
        """Return those of a token that was drawn from (or stands after) output row `row`, as far as
        the request asks for them."""
        if sequence.request.top_logprobs is None:
            return None, ()
        from localllm.engine.worker.sampling.logits import logprobs

        own, top = logprobs(self._logits(row), token, sequence.request.top_logprobs)
        return self._logprob(token, own), tuple(self._logprob(*each) for each in top)

    def _logprob(self, token: int, logprob: float) -> TokenLogprob:
        text, raw = self._text_of(token)
        return TokenLogprob(token=token, text=text, raw=raw, logprob=logprob)

    def _read_text(self, token: int) -> tuple[str, tuple[int, ...]]:
        raw = self._vocab.piece(token)
        text = raw.decode("utf-8", "replace") if raw else self._vocab.token_text(token)
        return text, tuple(raw)

    # --- the prompt ---

    def emit_prompt(self, sequence: Sequence, chunk: Chunk) -> None:
        """Emit what `echo` asks for after a chunk of the prompt was computed.

        With log probabilities a token can be emitted when the row before it is there.
        """
        prompt, echo = sequence.prompt, sequence.prompt.echo
        assert echo is not None
        if not sequence.scores_prompt:
            while echo.count < prompt.cells:
                self._emit_prompt_token(sequence, prompt.tokens[echo.count], None, ())
        elif echo.count == 0:
            self._emit_prompt_token(sequence, prompt.tokens[0], None, ())
        first_row = chunk.last_row - len(chunk.tokens) + 1
        while echo.count < min(chunk.start + len(chunk.tokens) + 1, prompt.cells):
            token = prompt.tokens[echo.count]
            row = first_row + echo.count - 1 - chunk.start
            self._emit_prompt_token(sequence, token, *self._logprobs(sequence, token, row))
        if echo.count == prompt.cells and (rest := echo.finish()):
            self._emit(Token(request_id=sequence.id, text=rest, of_prompt=True))

    def _emit_prompt_token(
        self,
        sequence: Sequence,
        token: int,
        logprob: TokenLogprob | None,
        top: tuple[TokenLogprob, ...],
    ) -> None:
        assert sequence.prompt.echo is not None
        self._emit(
            Token(
                request_id=sequence.id,
                text=sequence.prompt.echo.push(token),
                logprob=logprob,
                top_logprobs=top,
                of_prompt=True,
            )
        )

    # --- the end ---

    def emit_finished(
        self,
        sequence: Sequence,
        reason: FinishReason,
        *,
        remaining: int,
        host_cache: HostCacheStats | None = None,
    ) -> None:
        """Emit what is pending, and that the answer has ended."""
        output, prompt = sequence.output, sequence.prompt
        rest = Token(request_id=sequence.id, text=output.detokenizer.finish(), index=sequence.index)
        for event in output.events.finish(rest):
            self._emit_of(output, event)
        self._emit(
            Finished(
                request_id=sequence.id,
                reason=output.events.finish_reason(reason),
                prompt_tokens=prompt.cells,
                completion_tokens=output.count,
                cached_tokens=prompt.cached_tokens,
                timings=sequence.timings(self._clock()),
                dropped_messages=prompt.dropped_messages,
                warnings=(*prompt.warnings, *output.schema_warnings(reason)),
                reasoning_tokens=output.events.reasoning_tokens,
                stop=output.detokenizer.stop,
                index=sequence.index,
                remaining=remaining,
                batches=sequence.metrics.batches,
                batch_share=sequence.metrics.batch_share,
                host_cache=host_cache,
            )
        )
