"""The KV cache's cells: what each slot holds of them, and who may use it again.

The scheduler runs requests; here is known which tokens every slot's cells stand for, so that a
prompt which begins like an earlier or a running one does not compute that beginning again.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from localllm.engine.worker import prefix
from localllm.engine.worker.model import Model


class Cells:
    """Slots that run a request, and slots that remember one.

    A *space* keeps apart what cannot be shared although its tokens are the same, such as what
    different LoRA adapters computed; () is the model's own.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(model.settings.parallel))
        self._held: dict[int, list[int]] = {slot: [] for slot in self._idle}
        self._spaces: dict[int, Hashable] = dict.fromkeys(self._idle, ())
        self._sharing: set[int] = set()
        """Slots that may have cells in common with another one."""

    @property
    def idle(self) -> Iterable[int]:
        """Slots that run nothing, least recently used first."""
        return self._idle.keys()

    @property
    def held(self) -> Mapping[int, Sequence[int]]:
        """The tokens of every slot's cells, by position."""
        return self._held

    def count(self, slot: int) -> int:
        """How many tokens are computed in this slot: the position of the next one."""
        return len(self._held[slot])

    # --- a request comes, grows, goes ---

    def take(self, prompt: list[int], space: Hashable = ()) -> int:
        """Give a prompt an idle slot (there must be one) that holds as much of its beginning as
        can be used again; `count` says how much. Its last token is always computed again."""
        reuse = prefix.plan(
            prompt,
            self._within(space),
            list(self._idle),
            continues=self._model.can_continue_at,
            shares=self._model.shares,
        )
        del self._idle[reuse.slot]
        if reuse.source == reuse.slot:
            kept = self._model.keep(reuse.slot, reuse.tokens)
        else:
            kept = self._share(reuse.source, reuse.slot, reuse.tokens)
        self._spaces[reuse.slot] = space
        self._held[reuse.slot] = prompt[: reuse.tokens] if kept else []
        return reuse.slot

    def catch_up(self, slot: int, prompt: list[int]) -> bool:
        """Share what another slot has computed of this prompt since it was taken. False when
        that is nothing or too little."""
        source, tokens = prefix.longest(
            prompt, self._within(self._spaces[slot]), continues=self._model.can_continue_at
        )
        if tokens - self.count(slot) < prefix.MIN_SHARED_TOKENS:
            return False
        kept = self._share(source, slot, tokens)
        self._held[slot] = prompt[:tokens] if kept else []
        return True

    def grow(self, slot: int, tokens: Sequence[int]) -> None:
        """Note that these tokens have been computed in `slot`, after those it holds."""
        self._held[slot] += tokens

    def cut(self, slot: int, tokens: int) -> bool:
        """Keep the first `tokens` alone, and nothing of a batch that was not computed to its end.
        False, and an empty slot, when this kind of memory cannot be cut there."""
        kept = self._model.keep(slot, tokens)
        del self._held[slot][tokens if kept else 0 :]
        return kept

    def give_back(self, slot: int) -> None:
        """Let `slot` be idle; its cells stay for a prompt that begins the same way."""
        self._idle[slot] = None

    def forget(self, slot: int) -> None:
        self.cut(slot, 0)
        self._sharing.discard(slot)

    # --- room ---

    def evict(self, needed: int) -> bool:
        """Forget what idle slots remember, to have `needed` cells. False: they hold nothing."""
        remembered = [slot for slot in self._idle if self._held[slot]]
        for slot in remembered:
            self.forget(slot)
        return bool(remembered)

    def least_shared(self) -> int | None:
        """The slot that runs, may have cells in common with another one, and holds least."""
        sharing = [s for s in self._sharing if s not in self._idle and self._held[s]]
        return min(sharing, key=self.count, default=None)

    def _share(self, source: int, slot: int, tokens: int) -> bool:
        self._sharing |= {source, slot}
        return self._model.share(source, slot, tokens)

    def _within(self, space: Hashable) -> dict[int, list[int]]:
        """What the slots hold that this space can use."""
        return {s: held if self._spaces[s] == space else [] for s, held in self._held.items()}
