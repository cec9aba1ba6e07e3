"""A second, smaller model that guesses for the first: it computes a few tokens ahead, cheaply.

It lives in the same process, with cells of its own for every slot, and is always a prefix behind:
what it has computed for a slot is kept as far as it is still that slot's text.
"""

from collections.abc import Mapping, Sequence

import llama_cpp.llama_cpp as llama

from localllm.engine.worker.kv_cache.radix_tree import common
from localllm.engine.worker.llama.model import Aborted, Model, NoRoom, Row
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.speculative.acceptance import Draft, kind_of_lead
from localllm.errors import LoadFailed

_SIZE_DIFFERS_BY = 128
_TEXTS_DIFFER_FROM = 5
"""Vocabularies of one family differ in padding and unused tokens: llama.cpp allows as much
(`common_speculative_are_compatible`, common/speculative.cpp, b11434)."""


class DraftModel:
    """Guesses by a smaller model with the same vocabulary."""

    def __init__(self, path: str, main: Model, *, log: NativeLog) -> None:
        """Load it beside `main`. Raises LoadFailed, also when the vocabularies differ."""
        settings = main.settings.for_draft()
        self._model = Model(path, settings, log=log, on_progress=lambda _: None)
        try:
            if self._model.recurrent:
                raise LoadFailed(
                    "The draft model has a recurrent memory, which cannot take a wrong guess back. "
                    "Give a draft model that has attention only."
                )
            _check_vocabularies(main, self._model)
        except LoadFailed:
            self._model.close()
            raise
        self.allocations = self._model.allocations
        self._held: dict[int, list[int]] = {slot: [] for slot in range(settings.parallel)}

    def close(self) -> None:
        self._model.close()

    def draft(self, texts: Mapping[int, Sequence[int]], most: int) -> dict[int, Draft]:
        """As `Drafter.draft`. One chunk of what was not read yet is computed at most; a text that
        takes longer has no draft this time."""
        by_slot = sorted(texts.items())  # neighbours are computed together (Batch.of)
        ready = {slot: list(text) for slot, text in by_slot if self._read(slot, text)}
        found: dict[int, list[tuple[int, int]]] = {slot: [] for slot in ready}
        for _ in range(most):
            if not self._decode({slot: [text[-1]] for slot, text in ready.items()}):
                break
            for row, (slot, text) in enumerate(ready.items()):
                token, kind = self._likeliest(row)
                found[slot].append((token, kind))
                text.append(token)
        return {
            slot: Draft(tuple(t for t, _ in guesses), tuple(k for _, k in guesses))
            for slot, guesses in found.items()
        }

    def _read(self, slot: int, text: Sequence[int]) -> bool:
        """Compute a text up to its last token. False when that is not done yet."""
        wanted, held = list(text[:-1]), self._held[slot]
        same = common(held, wanted)
        if same < len(held):
            kept = self._model.keep(slot, same)
            del held[same if kept else 0 :]
        missing = wanted[len(held) : len(held) + self._model.chunk]
        if any(token < 0 for token in missing):
            return False  # a picture: a draft model does not see
        if missing and not self._decode({slot: missing}, output=False):
            return False
        return len(held) == len(wanted)

    def _decode(self, tokens: Mapping[int, list[int]], *, output: bool = True) -> bool:
        """Append tokens to slots. False when they could not be computed; then these slots are
        empty, and read again when they are asked for."""
        rows = [
            Row(token, len(self._held[slot]) + i, slot, output)
            for slot, new in tokens.items()
            for i, token in enumerate(new)
        ]
        if not rows:
            return False
        self._model.abort.lower()
        try:
            self._model.decode(rows)
        except (Aborted, NoRoom, RuntimeError):
            for slot in tokens:
                self._model.keep(slot, 0)
                self._held[slot].clear()
            return False
        for slot, new in tokens.items():
            self._held[slot] += new
        return True

    def _likeliest(self, row: int) -> tuple[int, int]:
        """The likeliest token of an output row, and how sure it is."""
        from localllm.engine.worker.sampling.logits import lead, row_of

        logits = row_of(self._model.handle, row, self._model.vocabulary)
        return int(logits.argmax()), kind_of_lead(lead(logits))


def _check_vocabularies(main: Model, draft: Model) -> None:
    """Raises LoadFailed unless a token means the same to both."""
    if (reason := _difference(main, draft)) is not None:
        raise LoadFailed(
            f"The draft model cannot guess for this model: {reason}. Give a smaller model of the "
            "same family, or another quant of the same model."
        )


def _difference(main: Model, draft: Model) -> str | None:
    kinds = [llama.llama_vocab_type(each.vocab) for each in (main, draft)]
    if kinds[0] != kinds[1]:
        return f"their vocabularies are of different kinds ({kinds[0]} and {kinds[1]})"
    if abs(main.vocabulary - draft.vocabulary) > _SIZE_DIFFERS_BY:
        return f"their vocabularies have {main.vocabulary} and {draft.vocabulary} tokens"
    if (main.bos, main.eos) != (draft.bos, draft.eos):
        return "texts begin or end with different tokens"
    for token in range(_TEXTS_DIFFER_FROM, min(main.vocabulary, draft.vocabulary)):
        if main.token_text(token) != draft.token_text(token):
            return f"token {token} is not the same text in both"
    return None
