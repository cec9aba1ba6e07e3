"""What fits beside what: the memory of this machine, and how much of it each resident model holds.

A snapshot and pure arithmetic, so that a load can be planned against any set of models that would
be unloaded for it, before one of them is.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from localllm.core.hardware import HardwareInfo
from localllm.core.sizing.fit import Fit, fit_on
from localllm.core.sizing.load import LoadSettings
from localllm.core.sizing.placement.budget import NO_BYTES, Budget, budget_of
from localllm.core.units import format_bytes
from localllm.engine.messages import Loaded
from localllm.runtime.load_plan import LoadPlan

MAPPED_FILES_COUNT_AS_FREE = sys.platform == "linux"
"""Whether "available" memory includes the pages of files that processes have mapped. Linux:
MemAvailable counts the page cache, mapped or not (kernel documentation, proc.rst). Windows and
macOS count pages in a working set as used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMemory:
    """The memory that a resident model holds, in bytes.

    `host_bytes` are its process's own, `mapped_bytes` weights in the page cache, `gpu_bytes` those
    of each device by the engine's name of it; `total_bytes` counts the draft model too. `running`:
    False after a crash: it holds nothing now, and takes it again when it is restarted.
    """

    host_bytes: int
    mapped_bytes: int = 0
    gpu_bytes: Mapping[str, int] = field(default_factory=lambda: NO_BYTES)
    total_bytes: int
    running: bool = True


def held_memory(fit: Fit, loaded: Loaded, *, running: bool = True) -> HeldMemory:
    """Work out what a load holds: cache and compute buffers as they were allocated, the rest as it
    was estimated."""
    *gpus, host = fit.allocated(loaded.allocations)
    draft = fit.draft
    draft_weights = draft.weights_bytes if draft is not None else 0
    # Beside a GPU nobody knows which device has the draft model.
    draft_host = draft.total_bytes - draft_weights if draft is not None and not gpus else 0
    weights = host.weights_bytes + (draft_weights if not gpus else 0)
    mapped = weights if fit.settings.mmap else 0
    return HeldMemory(
        host_bytes=host.total_bytes - host.weights_bytes + draft_host + weights - mapped,
        mapped_bytes=mapped,
        gpu_bytes={gpu.engine_name: gpu.total_bytes for gpu in gpus if gpu.engine_name is not None},
        total_bytes=sum(share.total_bytes for share in (*gpus, host))
        + (draft.total_bytes if draft is not None else 0),
        running=running,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOutlook:
    """This machine's free memory, what the resident models (`held`, by name) take of it, and the
    limits: `reserve_bytes` stay free on each device, all models together take at most
    `max_memory_bytes`. `releasable_bytes` of the host are given back before a load that needs them.
    """

    hardware: HardwareInfo
    held: Mapping[str, HeldMemory] = field(default_factory=lambda: MappingProxyType({}))
    reserve_bytes: int = 0
    max_memory_bytes: int | None = None
    releasable_bytes: int = 0
    mapped_is_free: bool = MAPPED_FILES_COUNT_AS_FREE

    def fit(self, plan: LoadPlan, unloading: Collection[str] = ()) -> Fit:
        """Place a load beside the resident models without `unloading` and one of its own name.

        The result is that of the first candidate that fits, else of the last. Raises GgufError for
        a model whose memory nobody can work out.
        """
        gone = {plan.model.name, *unloading}
        for candidate in plan.candidates:
            fit = self._fit(plan, candidate, gone)
            if fit.fits and self.over_limit_bytes(plan, fit, unloading) == 0:
                break
        return fit

    def without_others(self) -> "MemoryOutlook":
        """Imagine the machine with no other program and no model on it."""
        ram = self.hardware.ram
        total = min(ram.total_bytes, ram.limit_bytes or ram.total_bytes)
        devices = tuple(
            replace(
                device,
                free_bytes=device.total_bytes or device.free_bytes,
                dedicated_free_bytes=device.dedicated_bytes,
            )
            for device in self.hardware.devices
        )
        empty = replace(self.hardware, ram=replace(ram, available_bytes=total), devices=devices)
        return replace(self, hardware=empty, held={}, releasable_bytes=0)

    def over_limit_bytes(self, plan: LoadPlan, fit: Fit, unloading: Collection[str] = ()) -> int:
        """Return the bytes by which this load would exceed `max_memory_bytes`; 0: it does not."""
        if self.max_memory_bytes is None:
            return 0
        beside = self.beside_bytes({plan.model.name, *unloading})
        return max(0, beside + fit.with_draft_bytes - self.max_memory_bytes)

    def beside_bytes(self, gone: Collection[str]) -> int:
        """Sum the bytes of the resident models that stay when those called `gone` do not."""
        return sum(held.total_bytes for name, held in self.held.items() if name not in gone)

    def free_host_bytes(self, gone: Collection[str]) -> int:
        """Return what is free of the host's memory when the models called `gone` are not there and
        all is released that can be."""
        free = budget_of(self.hardware, reserve_bytes=self.reserve_bytes).host_bytes
        return free + self._returned_bytes(gone)[0]

    def budget(self, gone: Collection[str]) -> Budget:
        """Return what is free on each device when the models called `gone` are not there."""
        host_bytes, gpu_bytes = self._returned_bytes(gone)
        return budget_of(
            self.hardware,
            reserve_bytes=self.reserve_bytes,
            returned_bytes=host_bytes,
            returned_gpu_bytes=gpu_bytes,
        )

    def limit_message(self, plan: LoadPlan, fit: Fit, unloading: Collection[str] = ()) -> str:
        """Describe, with its numbers, that a load exceeds `max_memory_bytes`."""
        assert self.max_memory_bytes is not None
        beside = self.beside_bytes({plan.model.name, *unloading})
        others = f", and other models hold {format_bytes(beside)}" if beside else ""
        return (
            f"{plan.model.name} needs {format_bytes(fit.with_draft_bytes)}{others}; models may use "
            f"{format_bytes(self.max_memory_bytes)} in all (--max-memory)."
        )

    def _fit(self, plan: LoadPlan, candidate: LoadSettings, gone: Collection[str]) -> Fit:
        host_bytes, gpu_bytes = self._returned_bytes(gone)
        threads = candidate.threads or self.hardware.cpu.threads
        return fit_on(
            plan.spec,
            replace(candidate, threads=threads),
            self.hardware,
            draft=plan.draft,
            reserve_bytes=self.reserve_bytes,
            returned_bytes=host_bytes,
            returned_gpu_bytes=gpu_bytes,
        )

    def _returned_bytes(self, gone: Collection[str]) -> tuple[int, dict[str, int]]:
        """Correct the measured free bytes, of the host and of each GPU: what `gone` give back is
        added, and what can be released. Of those that stay, what is measured as free and is not
        theirs to lose is taken off: mapped weights, and all of a crashed one that will restart."""
        host, gpus = self.releasable_bytes, dict[str, int]()
        for name, held in self.held.items():
            mapped_free = held.mapped_bytes if self.mapped_is_free else 0
            if name in gone:
                sign, mapped = 1 if held.running else 0, held.mapped_bytes - mapped_free
            elif held.running:
                host -= mapped_free
                continue
            else:
                sign, mapped = -1, held.mapped_bytes
            host += sign * (held.host_bytes + mapped)
            for gpu, size_bytes in held.gpu_bytes.items():
                gpus[gpu] = gpus.get(gpu, 0) + sign * size_bytes
        return host, gpus
