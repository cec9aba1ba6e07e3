"""The LoRA adapters of a model: loaded once, switched between batches.

llama.cpp applies adapters to a whole batch, and what they compute is in the cache: a sequence's
*space*, the adapters it asks for, says with whom it can share either. A change makes llama.cpp
reserve its buffers again, so the scheduler stays with one space for a few steps (`Turns`).
"""

import ctypes
import os
import struct
from collections.abc import Iterable

import llama_cpp.llama_cpp as llama

from localllm.core.sizing.load import Lora
from localllm.engine.messages import LoraScale
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.errors import BadRequest, LoadFailed

Space = tuple[tuple[int, float], ...]
"""Adapters by their number, ascending, and their scale, none of them 0: () is the model alone."""

STEPS_A_TURN = 8
"""Batches that one space computes while others wait. A change cost 6 ms of processor time beside
15 ms for a step of one token (starter model, an adapter of rank 16, one thread, 2026-11-21)."""


class Adapters:
    """The adapters of one model, which frees them with itself."""

    def __init__(self, model: int, loras: tuple[Lora, ...], log: NativeLog) -> None:
        """Load the files, which the gatekeeper has passed. Raises LoadFailed."""
        self._handles = [_load(model, lora, log) for lora in loras]
        self._usual = space_of(LoraScale(id=i, scale=lora.scale) for i, lora in enumerate(loras))
        self._used: Space = ()

    def __len__(self) -> int:
        return len(self._handles)

    def space(self, asked: tuple[LoraScale, ...] | None) -> Space:
        """What a request computes with. Raises BadRequest for an adapter that is not there."""
        if asked is None:
            return self._usual
        for adapter in asked:
            if not 0 <= adapter.id < len(self._handles):
                raise BadRequest(f"There is no LoRA adapter {adapter.id}; {self._known()}.")
        if len({adapter.id for adapter in asked}) < len(asked):
            raise BadRequest("A LoRA adapter is named twice; each can have one scale.")
        return space_of(asked)

    def use(self, context: int, space: Space) -> None:
        """Compute the next batches of `context` with these."""
        if space == self._used:
            return
        count = len(space)
        handles = (llama.llama_adapter_lora_p_ctypes * count)()
        for i, (number, _) in enumerate(space):
            handles[i] = ctypes.cast(self._handles[number], llama.llama_adapter_lora_p_ctypes)
        scales = (ctypes.c_float * count)(*(scale for _, scale in space))
        if llama.llama_set_adapters_lora(context, handles, count, scales) != 0:
            raise RuntimeError("llama_set_adapters_lora refused the adapters")
        self._used = space

    def _known(self) -> str:
        if not self._handles:
            return "none was loaded with this model (--lora)"
        return f"0 to {len(self._handles) - 1} were loaded with this model"


class Turns:
    """Whose batch is next when sequences of several spaces run: each in its turn."""

    def __init__(self, steps: int = STEPS_A_TURN) -> None:
        self._steps = steps
        self._left = 0
        self._turn = 0
        self._since: dict[Space, int] = {}
        """The turn since which each space waits."""
        self.current: Space = ()

    def next(self, spaces: Iterable[Space]) -> Space:
        """Choose among the spaces of the running sequences: the one that has the turn, while it
        lasts, else the one that has waited the longest."""
        self._since = {space: self._since.get(space, self._turn) for space in spaces}
        if self.current in self._since and (self._left > 0 or len(self._since) == 1):
            self._left -= 1
        elif self._since:
            now = self.current
            self.current = min(self._since, key=lambda each: (self._since[each], each == now))
            self._turn += 1
            self._since[self.current] = self._turn
            self._left = self._steps - 1
        return self.current


def space_of(loras: Iterable[LoraScale]) -> Space:
    """The space of these: what differs only in order, or in adapters that count for nothing, is
    the same. Scales are those that llama.cpp compares (float32)."""
    scaled = sorted((adapter.id, _float32(adapter.scale)) for adapter in loras)
    return tuple((number, scale) for number, scale in scaled if scale)


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _load(model: int, lora: Lora, log: NativeLog) -> int:
    handle = llama.llama_adapter_lora_init(model, os.fsencode(lora.path))
    if not handle:
        raise LoadFailed(f"llama.cpp refused the adapter {lora.path}: {log.last_error()}")
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
