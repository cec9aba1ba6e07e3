"""The LoRA adapters of a model: loaded once, switched between batches.

llama.cpp applies adapters to a whole batch, and what they compute is in the cache. So a sequence
shares batches and cells only with sequences of the same `LoraKey`. A switch makes llama.cpp reserve
its buffers again, so the scheduler computes several batches for one key before it turns to the next
(`Rotation`).
"""

import ctypes
import os
import struct
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from localllm.core.sizing.load import Lora
from localllm.engine.messages import LoraScale
from localllm.engine.worker.binding import llama
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import BadRequest, LoadFailed

LoraKey = tuple[tuple[int, float], ...]
"""Adapters by their number, ascending, each with its scale, none of them 0: () is the model alone.
Equal keys compute the same."""

Key = TypeVar("Key", bound=Hashable)

STEPS_PER_TURN = 8
"""Batches for one key while others wait. A switch cost 6 ms of processor time beside 15 ms for a
step of one token (starter model, an adapter of rank 16, one thread, 2026-11-21)."""


class LoraAdapters:
    """The adapters of one model, freed by llama.cpp together with it."""

    def __init__(self, model: int, loras: tuple[Lora, ...], log: NativeLog) -> None:
        """Load the files, whose headers were checked before. Raises LoadFailed."""
        self._handles = [_load(model, lora, log) for lora in loras]
        self._default_key = lora_key(
            LoraScale(id=i, scale=lora.scale) for i, lora in enumerate(loras)
        )
        self._applied: LoraKey = ()

    @property
    def default_key(self) -> LoraKey:
        """The key of requests that name no adapters: all of them, as they were loaded."""
        return self._default_key

    def key_of(self, loras: tuple[LoraScale, ...] | None) -> LoraKey:
        """Return the key of a request's adapters. Raises BadRequest for one that is not loaded."""
        if loras is None:
            return self._default_key
        for adapter in loras:
            if not 0 <= adapter.id < len(self._handles):
                raise BadRequest(f"There is no LoRA adapter {adapter.id}; {self._available()}.")
        if len({adapter.id for adapter in loras}) < len(loras):
            raise BadRequest("A LoRA adapter is named twice; each can have one scale.")
        return lora_key(loras)

    def apply(self, context: int, key: LoraKey) -> None:
        """Compute the next batches of llama.cpp's `context` with these adapters."""
        if key == self._applied:
            return
        count = len(key)
        handles = (ctypes.c_void_p * count)(*(self._handles[number] for number, _ in key))
        scales = (ctypes.c_float * count)(*(scale for _, scale in key))
        if llama.llama_set_adapters_lora(context, handles, count, scales) != 0:
            raise RuntimeError("llama_set_adapters_lora refused the adapters")
        self._applied = key

    def _available(self) -> str:
        if not self._handles:
            return "none was loaded with this model (--lora)"
        return f"0 to {len(self._handles) - 1} were loaded with this model"


class Rotation(Generic[Key]):
    """Round robin over the keys of the running sequences, a few batches each: those of one key can
    be in one batch."""

    def __init__(self, steps: int = STEPS_PER_TURN) -> None:
        self._steps = steps
        self._steps_left = 0
        self._turn = 0
        self._waiting_since: dict[Key, int] = {}
        """The turn since which each key waits."""
        self.current: Key | None = None

    def next(self, keys: Iterable[Key]) -> Key | None:
        """Choose the next batch's key among those of the running sequences: the current one until
        its turn is over, then the one that has waited longest."""
        self._waiting_since = {key: self._waiting_since.get(key, self._turn) for key in keys}
        since = self._waiting_since
        if self.current in since and (self._steps_left > 0 or len(since) == 1):
            self._steps_left -= 1
        elif since:
            current = self.current
            self.current = min(since, key=lambda key: (since[key], key == current))
            self._turn += 1
            since[self.current] = self._turn
            self._steps_left = self._steps - 1
        return self.current


def lora_key(loras: Iterable[LoraScale]) -> LoraKey:
    """Return the key of these adapters. Their order does not count, nor does one with scale 0.
    Scales are rounded to float32, as llama.cpp compares them."""
    scaled = sorted((adapter.id, _float32(adapter.scale)) for adapter in loras)
    return tuple((number, scale) for number, scale in scaled if scale)


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _load(model: int, lora: Lora, log: NativeLog) -> int:
    handle = llama.llama_adapter_lora_init(model, os.fsencode(lora.path))
    if not handle:
        raise LoadFailed(log.refusal(f"the adapter {lora.path}"))
    return int(handle)
