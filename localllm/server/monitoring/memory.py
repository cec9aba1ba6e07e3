"""The memory of the models, read when somebody looks at `/metrics`: estimated, and as it is.

Reading it asks no engine and counts as no use: whoever watches a server keeps no model in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from localllm.core.sizing.load import BufferKind
from localllm.runtime.model_pool.warm_swap import KeptConversations
from localllm.runtime.runtime import ResidentModel


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One part of a model on one device: its estimate, and what llama.cpp then allocated."""

    device: str
    part: str
    estimated_bytes: int
    allocated_bytes: int


def memory_parts(resident: ResidentModel) -> Iterator[MemoryPart]:
    """Compare estimate and allocation of a load, device by device: weights, cache, computing."""
    devices = (resident.fit.estimated or resident.fit.placement).devices
    names = {share.engine_name: share.name for share in devices[:-1]}
    host = devices[-1].name
    weights: dict[str, int] = {}
    for buffer in resident.loaded.allocations:
        if buffer.kind is BufferKind.WEIGHTS:
            name = names.get(buffer.device, host)
            weights[name] = weights.get(name, 0) + buffer.size_bytes
    for share in devices:
        yield MemoryPart(
            device=share.name,
            part="weights",
            estimated_bytes=share.weights_bytes,
            allocated_bytes=weights.get(share.name, 0),
        )
    for part in resident.comparison.parts:
        yield MemoryPart(
            device=part.device,
            part=part.part,
            estimated_bytes=part.estimated_bytes,
            allocated_bytes=part.allocated_bytes,
        )


class MemoryCollector(Collector):
    """Reads the models in memory; `engine_bytes` measures the process of one, None: it is gone;
    `kept` are the conversations of models that are not."""

    def __init__(
        self,
        resident: Callable[[], Iterable[ResidentModel]],
        engine_bytes: Callable[[str], int | None],
        kept: Callable[[], Mapping[str, KeptConversations]],
    ) -> None:
        self._resident = resident
        self._kept = kept
        self._engine_bytes = engine_bytes

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "device", "part")
        estimated = GaugeMetricFamily(
            "localllm_memory_estimated_bytes",
            "Memory of a loaded model as it was planned.",
            labels=labels,
        )
        allocated = GaugeMetricFamily(
            "localllm_memory_allocated_bytes",
            "Memory of a loaded model as llama.cpp allocated it. Of weights that are mapped from "
            "the file it is the span of the mapping.",
            labels=labels,
        )
        process = GaugeMetricFamily(
            "localllm_engine_memory_bytes",
            "Resident memory of the model's process, mapped weights that are in memory included.",
            labels=("model",),
        )
        loaded = GaugeMetricFamily(
            "localllm_model_loaded", "1 for each model in memory.", labels=("model",)
        )
        for resident in self._resident():
            name = resident.model.name
            loaded.add_metric((name,), 1)
            for each in memory_parts(resident):
                where = (name, each.device, each.part)
                estimated.add_metric(where, each.estimated_bytes)
                allocated.add_metric(where, each.allocated_bytes)
            if (size_bytes := self._engine_bytes(name)) is not None:
                process.add_metric((name,), size_bytes)
        yield from (loaded, estimated, allocated, process)
        yield from self._conversations()

    def _conversations(self) -> Iterator[Metric]:
        count = GaugeMetricFamily(
            "localllm_kept_conversations",
            "Conversations of an unloaded model that wait for its next load.",
            labels=("model",),
        )
        size = GaugeMetricFamily(
            "localllm_kept_bytes",
            "What they take in memory and, encrypted, on the disk.",
            labels=("model", "where"),
        )
        for name, kept in self._kept().items():
            count.add_metric((name,), kept.conversations)
            size.add_metric((name, "memory"), kept.ram_bytes)
            size.add_metric((name, "disk"), kept.disk_bytes)
        yield from (count, size)
