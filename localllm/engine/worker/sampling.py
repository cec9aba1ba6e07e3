"""Sampler chains: one C object per sequence, built from `Sampling`.

The order is llama.cpp's (common/sampling.cpp): penalties, top-k, top-p, min-p, temperature, draw.
"""

import secrets

import llama_cpp.llama_cpp as llama

from localllm.engine.events import Sampling

_MAX_SEED = 2**32 - 2  # 2**32 - 1 is LLAMA_DEFAULT_SEED, "choose one"

_GREEDY_BELOW = 1e-6
"""Temperatures that divide logits into infinities: what they mean is greedy."""


class Sampler:
    """Draws the next token of one sequence. Close it when the sequence ends."""

    def __init__(self, sampling: Sampling, *, vocabulary: int) -> None:
        self.seed = secrets.randbelow(_MAX_SEED) if sampling.seed is None else sampling.seed
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = llama.llama_sampler_chain_init(params)
        self._remembers = _has_penalties(sampling)
        for stage in _stages(sampling, self.seed, vocabulary):
            llama.llama_sampler_chain_add(self._chain, stage)

    def accept_prompt(self, tokens: list[int], last_n: int) -> None:
        """Let the penalties see the end of the prompt."""
        if self._remembers:
            for token in tokens[-last_n:]:
                llama.llama_sampler_accept(self._chain, token)

    def sample(self, context: int, row: int) -> int:
        """Draw from output row `row` of the last decode, and remember the draw."""
        return int(llama.llama_sampler_sample(self._chain, context, row))

    def close(self) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.penalty_last_n != 0 and (
        sampling.repeat_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )


def _stages(sampling: Sampling, seed: int, vocabulary: int) -> list[int]:
    stages: list[int] = []
    if _has_penalties(sampling):
        stages.append(
            llama.llama_sampler_init_penalties(
                vocabulary,
                sampling.penalty_last_n,
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature < _GREEDY_BELOW:
        return [*stages, llama.llama_sampler_init_greedy()]
    if 0 < sampling.top_k < vocabulary:
        stages.append(llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        stages.append(llama.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        stages.append(llama.llama_sampler_init_min_p(sampling.min_p, 1))
    stages.append(llama.llama_sampler_init_temp(sampling.temperature))
    return [*stages, llama.llama_sampler_init_dist(seed)]
