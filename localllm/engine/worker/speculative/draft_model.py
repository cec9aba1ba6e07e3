"""A draft model: a second, smaller one that computes a few tokens ahead of the first, cheaply.

It lives in the same process and has a cache of its own, with the same slots. For each slot it has
computed a prefix of the text; what is not the text any more is cut.
"""

from collections.abc import Mapping, Sequence

from localllm.engine.worker.binding import llama
from localllm.engine.worker.kv_cache.memory_kind import memory_kind
from localllm.engine.worker.kv_cache.radix_tree import common
from localllm.engine.worker.llama.model import Aborted, BatchToken, CacheFull, Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.llama.vocabulary import Vocabulary
from localllm.engine.worker.speculative.acceptance import margin_confidence
from localllm.engine.worker.speculative.draft_state import Draft
from localllm.errors import LoadFailed

_MAX_SIZE_DIFFERENCE = 128
_FIRST_COMPARED_TOKEN = 5
"""Vocabularies of one family differ in padding and unused tokens: llama.cpp allows as much
(`common_speculative_are_compatible`, common/speculative.cpp, b11434)."""


class DraftModel:
    """A smaller model with the same vocabulary; the speculator's `Drafter`."""

    def __init__(self, path: str, main: Model, *, log: NativeLog) -> None:
        """Load it beside `main`. Raises LoadFailed, also when the vocabularies differ."""
        settings = main.settings.for_draft()
        self._model = Model(path, settings, log=log, on_progress=lambda _: None)
        self._memory = memory_kind(self._model)
        try:
            if not self._memory.can_rewind:
                raise LoadFailed(
                    "The draft model has a recurrent memory, which cannot take a wrong guess back. "
                    "Give a draft model that has attention only."
                )
            _check_vocabularies(main.vocab, self._model.vocab)
        except LoadFailed:
            self._model.close()
            raise
        self.allocations = self._model.allocations
        self._tokens: dict[int, list[int]] = {slot: [] for slot in range(settings.parallel)}

    def close(self) -> None:
        self._model.close()

    def draft(self, texts: Mapping[int, Sequence[int]], most: int) -> dict[int, Draft]:
        """As `Drafter.draft`. At most one chunk of each text is computed before; a text that takes
        more has no draft this time."""
        by_slot = sorted(texts.items())  # neighbours are computed together (Batch.of)
        ready = {slot: list(text) for slot, text in by_slot if self._prefill(slot, text)}
        drafted: dict[int, list[tuple[int, int]]] = {slot: [] for slot in ready}
        for _ in range(most):
            if not self._decode({slot: [text[-1]] for slot, text in ready.items()}):
                break
            for row, (slot, text) in enumerate(ready.items()):
                token, level = self._most_likely(row)
                drafted[slot].append((token, level))
                text.append(token)
        return {
            slot: Draft(tuple(t for t, _ in pairs), tuple(level for _, level in pairs))
            for slot, pairs in drafted.items()
        }

    def _prefill(self, slot: int, text: Sequence[int]) -> bool:
        """Compute a text up to its last token. Returns False when that is not done yet."""
        prefix, computed = list(text[:-1]), self._tokens[slot]
        same = common(computed, prefix)
        if same < len(computed):
            cut = self._memory.truncate(slot, same)
            del computed[same if cut else 0 :]
        missing = prefix[len(computed) : len(computed) + self._model.max_batch_tokens]
        if any(token < 0 for token in missing):
            return False  # an image: a draft model has no encoder
        if missing and not self._decode({slot: missing}, output=False):
            return False
        return len(computed) == len(prefix)

    def _decode(self, tokens: Mapping[int, list[int]], *, output: bool = True) -> bool:
        """Append tokens to slots. Returns False when they could not be computed; then these slots
        are empty, and the next draft computes their texts again."""
        batch = [
            BatchToken(token, len(self._tokens[slot]) + i, slot, output)
            for slot, new in tokens.items()
            for i, token in enumerate(new)
        ]
        if not batch:
            return False
        self._model.abort.lower()
        try:
            self._model.decode(batch)
        except (Aborted, CacheFull, RuntimeError):
            for slot in tokens:
                self._memory.truncate(slot, 0)
                self._tokens[slot].clear()
            return False
        for slot, new in tokens.items():
            self._tokens[slot] += new
        return True

    def _most_likely(self, row: int) -> tuple[int, int]:
        """Return the most likely token of an output row, and its confidence level."""
        from localllm.engine.worker.sampling.logits import logits_of, top_margin

        logits = logits_of(self._model.handle, row, self._model.vocab.size)
        return int(logits.argmax()), margin_confidence(top_margin(logits))


def _check_vocabularies(main: Vocabulary, draft: Vocabulary) -> None:
    """Raise LoadFailed unless a token means the same to both."""
    if (reason := _difference(main, draft)) is not None:
        raise LoadFailed(
            f"The draft model cannot guess for this model: {reason}. Give a smaller model of the "
            "same family, or another quant of the same model."
        )


def _difference(main: Vocabulary, draft: Vocabulary) -> str | None:
    types = [llama.llama_vocab_type(each.handle) for each in (main, draft)]
    if types[0] != types[1]:
        return f"their vocabularies are of different kinds ({types[0]} and {types[1]})"
    if abs(main.size - draft.size) > _MAX_SIZE_DIFFERENCE:
        return f"their vocabularies have {main.size} and {draft.size} tokens"
    if (main.bos, main.eos) != (draft.bos, draft.eos):
        return "texts begin or end with different tokens"
    for token in range(_FIRST_COMPARED_TOKEN, min(main.size, draft.size)):
        if main.token_text(token) != draft.token_text(token):
            return f"token {token} is not the same text in both"
    return None
