"""Explains the prompts of a scheduler: what was in the cache when one was admitted, and which
earlier one it is compared with, is known then and no longer when its answer has ended."""

from array import array
from dataclasses import dataclass

from localllm.engine.messages import CacheMiss, MissReason
from localllm.engine.worker.kv_cache.kv_cache import KvCache
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.scheduling.cache_miss import (
    MIN_LOST_TOKENS,
    KnownPrompt,
    Lookup,
    explain,
)
from localllm.engine.worker.scheduling.prompt_history import PromptHistory
from localllm.engine.worker.sequences.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Admitted:
    prompt_tokens: int
    lookup: Lookup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The most tokens of a prompt's beginning that any slot has, and that one has in which nothing
    runs."""

    tokens: int
    idle_tokens: int


class CacheExplainer:
    """Follows every sequence that has a slot, from `admit` to `finish`."""

    def __init__(self, kv_cache: KvCache, vocab: Vocabulary) -> None:
        self._kv_cache = kv_cache
        self._vocab = vocab
        self._history = PromptHistory()
        self._admitted: dict[Sequence, _Admitted] = {}

    def held(self, sequence: Sequence) -> Held:
        """Look up what the cache has of a prompt that is about to be admitted."""
        slots = self._kv_cache.held(sequence.prompt.tokens, sequence.lora_key)
        idle = self._kv_cache.idle
        return Held(
            tokens=max(slots.values(), default=0),
            idle_tokens=max((slots.get(slot, 0) for slot in idle), default=0),
        )

    def admit(self, sequence: Sequence, held: Held) -> None:
        """Look for the earlier prompt that explains a new one, which has just got its slot. `held`:
        what the cache had of it before."""
        if sequence in self._admitted:  # it was preempted
            return
        tokens = sequence.prompt.tokens
        reused = self._kv_cache.reuse(sequence.slot).total
        lookup = None
        if sequence.parent is None and len(tokens) - reused > MIN_LOST_TOKENS:
            lookup = self._look_up(sequence, held)
        self._admitted[sequence] = _Admitted(prompt_tokens=len(tokens), lookup=lookup)

    def _look_up(self, sequence: Sequence, held: Held) -> Lookup | None:
        tokens = array("q", sequence.prompt.tokens)
        found = self._history.most_like(tokens, sequence.lora_key)
        if found is None:
            return None
        known, common = found
        memory, enough = self._kv_cache.memory, common - MIN_LOST_TOKENS
        obstacle: MissReason | None = None
        if sequence.scores_prompt:
            obstacle = MissReason.SCORED
        elif known.lora_key != sequence.lora_key:
            obstacle = MissReason.ADAPTERS_CHANGED
        elif held.tokens < enough:
            obstacle = MissReason.EVICTED
        elif sequence.prompt.fixed_chunks:
            obstacle = MissReason.REPEATABLE
        elif memory.can_share:  # what is there can be used, if it was not too old
            obstacle = MissReason.EVICTED
        elif held.idle_tokens < enough:
            obstacle = MissReason.IN_USE
        return Lookup(
            tokens=tokens,
            outline=sequence.prompt.outline,
            known=known,
            common=common,
            obstacle=obstacle,
            least=max(MIN_LOST_TOKENS, memory.min_gain + 1),
        )

    def miss(self, sequence: Sequence) -> CacheMiss | None:
        """Explain the prompt of a sequence, or of its parent, as far as there is something to."""
        admitted = self._admitted.get(sequence)
        if admitted is None or admitted.lookup is None:
            return None if sequence.parent is None else sequence.parent.prompt.miss
        return explain(admitted.lookup, sequence.prompt.cached_tokens, self._vocab.written)

    def finish(self, sequence: Sequence) -> None:
        """Remember the prompt of a sequence that gives up its slot for good."""
        admitted = self._admitted.pop(sequence, None)
        if admitted is None or sequence.parent is not None:
            return
        tokens = self._kv_cache.tokens[sequence.slot] if sequence.slot >= 0 else ()
        if len(tokens) < admitted.prompt_tokens:
            return
        self._history.remember(
            KnownPrompt(
                tokens=array("q", tokens),
                prompt_tokens=admitted.prompt_tokens,
                reasoning_tokens=sequence.output.events.reasoning_tokens,
                outline=sequence.prompt.outline,
                lora_key=sequence.lora_key,
            )
        )
