"""Sampler chains: one C object per sequence, built from `Sampling`.

The order is llama.cpp's (common/sampling.cpp, common_params_sampling::samplers): logit bias,
penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature, draw. With mirostat:
logit bias, penalties, temperature, mirostat, which draws.

Bias, penalties and DRY change the logits of tokens that are named or recent, each by itself. The
bias is added here; the others are a chain of their own (`_adjustments`) that sees these few tokens
instead of the whole vocabulary.
"""

import contextlib
import ctypes
import secrets
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from localllm.engine.messages import Sampling
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.vocabulary import Vocabulary

if TYPE_CHECKING:  # and numpy with it
    from localllm.engine.worker.sampling.logits import Allowed, Logits

_MAX_SEED = 2**32 - 2  # 2**32 - 1 is LLAMA_DEFAULT_SEED, "choose one"

_GREEDY_BELOW = 1e-6
"""Lower temperatures divide logits into infinities: what they mean is greedy."""

_MIROSTAT_CANDIDATES = 100  # `m` of mirostat 1, as in common_sampler_init

NativeSampler = object
"""A `llama_sampler *`. The chain that it is added to owns it."""


class Sampler:
    """Draws the next token of one sequence. Close it when the sequence ends."""

    def __init__(self, sampling: Sampling, vocab: Vocabulary) -> None:
        self.seed = secrets.randbelow(_MAX_SEED) if sampling.seed is None else sampling.seed
        self._vocab_size = vocab.size
        self._chain = _chain(_selection(sampling, self.seed, vocab.size))
        self._adjustments = (
            _chain(_adjustments(sampling, vocab)) if adjusts_logits(sampling) else None
        )
        self._greedy = is_greedy(sampling)
        self._bias = sampling.logit_bias
        window = max(
            sampling.penalty_last_n if _has_penalties(sampling) else 0,
            sampling.dry_penalty_last_n if _has_dry(sampling) else 0,
        )
        self._recent: deque[int] = deque(maxlen=window)

    def accept_prompt(self, tokens: list[int]) -> None:
        """Let the penalties see the end of the prompt."""
        for token in tokens[-maxlen:] if (maxlen := self._recent.maxlen) else ():
            if token >= 0:  # an image has no tokens
                self._accept(token)

    def sample(self, context: int, row: int) -> int:
        """Draw from output row `row` of the last decode, and remember the draw."""
        if self._adjustments is None and not self._greedy:
            return int(llama.llama_sampler_sample(self._chain, context, row))
        from localllm.engine.worker.sampling.logits import logits_of

        logits = logits_of(context, row, self._vocab_size)
        with self._adjusted(logits):
            if self._greedy:  # without a list of candidates: a tenth of the time
                token = int(logits.argmax())
            else:
                token = int(llama.llama_sampler_sample(self._chain, context, row))
        self._accept(token)
        return token

    def sample_among(self, logits: "Logits", allowed: "Allowed") -> int:
        """Draw one of the `allowed` tokens (at least one), and remember it."""
        from localllm.engine.worker.sampling.logits import draw_among

        with self._adjusted(logits):
            token = draw_among(self._chain, logits, allowed)
        llama.llama_sampler_accept(self._chain, token)
        self._accept(token)
        return token

    def close(self) -> None:
        for chain in (self._chain, self._adjustments):
            if chain is not None:
                llama.llama_sampler_free(chain)
        self._chain = self._adjustments = None

    def _accept(self, token: int) -> None:
        if self._adjustments is not None:
            llama.llama_sampler_accept(self._adjustments, token)
            self._recent.append(token)

    @contextlib.contextmanager
    def _adjusted(self, logits: "Logits") -> Iterator[None]:
        """Apply bias and penalties to this row until the context ends: other sequences may draw
        from it, too."""
        if self._adjustments is None:
            yield
            return
        from localllm.engine.worker.sampling.logits import adjusted

        with adjusted(logits, self._bias, self._adjustments, self._recent):
            yield


def is_greedy(sampling: Sampling) -> bool:
    """Return True when every token is the most likely one."""
    return sampling.temperature < _GREEDY_BELOW


def adjusts_logits(sampling: Sampling) -> bool:
    """Return True when bias or penalties may make another token than the model's the most likely
    one."""
    return bool(sampling.logit_bias) or _has_penalties(sampling) or _has_dry(sampling)


def _chain(stages: Iterator[NativeSampler]) -> NativeSampler:
    params = llama.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = llama.llama_sampler_chain_init(params)
    for stage in stages:
        llama.llama_sampler_chain_add(chain, stage)
    return chain


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.penalty_last_n != 0 and (
        sampling.repeat_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )


def _has_dry(sampling: Sampling) -> bool:
    return (
        sampling.dry_multiplier > 0 and sampling.dry_base >= 1 and sampling.dry_penalty_last_n != 0
    )


def _adjustments(sampling: Sampling, vocab: Vocabulary) -> Iterator[NativeSampler]:
    """Yield the stages that change tokens one by one, without looking at the others."""
    if _has_penalties(sampling):
        yield llama.llama_sampler_init_penalties(
            vocab.size,
            sampling.penalty_last_n,
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
    if _has_dry(sampling) and (is_greedy(sampling) or not sampling.mirostat):
        yield _dry(sampling, vocab.handle)


def _selection(sampling: Sampling, seed: int, vocab_size: int) -> Iterator[NativeSampler]:
    if is_greedy(sampling):
        yield llama.llama_sampler_init_greedy()
    elif sampling.mirostat:
        yield llama.llama_sampler_init_temp(sampling.temperature)
        yield _mirostat(sampling, seed, vocab_size)
    else:
        yield from _truncation(sampling, seed, vocab_size)
        yield llama.llama_sampler_init_temp_ext(
            sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent
        )
        yield llama.llama_sampler_init_dist(seed)


def _truncation(sampling: Sampling, seed: int, vocab_size: int) -> Iterator[NativeSampler]:
    """Yield the stages that leave fewer candidates, but for those that would leave all."""
    if sampling.top_n_sigma > 0:
        yield llama.llama_sampler_init_top_n_sigma(sampling.top_n_sigma)
    if 0 < sampling.top_k < vocab_size:
        yield llama.llama_sampler_init_top_k(sampling.top_k)
    if sampling.typical_p < 1:
        yield llama.llama_sampler_init_typical(sampling.typical_p, 1)
    if sampling.top_p < 1:
        yield llama.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0:
        yield llama.llama_sampler_init_min_p(sampling.min_p, 1)
    if sampling.xtc_probability > 0:
        yield llama.llama_sampler_init_xtc(
            sampling.xtc_probability, sampling.xtc_threshold, 1, seed
        )


def _dry(sampling: Sampling, vocab: int) -> NativeSampler:
    breakers = [text.encode() for text in sampling.dry_sequence_breakers]
    return llama.llama_sampler_init_dry(
        vocab,
        sampling.dry_multiplier,
        sampling.dry_base,
        sampling.dry_allowed_length,
        sampling.dry_penalty_last_n,
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )


def _mirostat(sampling: Sampling, seed: int, vocab_size: int) -> NativeSampler:
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    if sampling.mirostat == 1:
        return llama.llama_sampler_init_mirostat(vocab_size, seed, tau, eta, _MIROSTAT_CANDIDATES)
    return llama.llama_sampler_init_mirostat_v2(seed, tau, eta)
