"""The estimate beside what llama.cpp really allocated, part by part."""

from collections.abc import Iterator

from textual.containers import Grid
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from localllm.core.load import BufferKind
from localllm.core.units import format_bytes
from localllm.runtime import ResidentModel

UNKNOWN = "-"


class Allocations(Grid):
    """A small table; empty until `show` is called."""

    async def show(self, resident: ResidentModel) -> None:
        async with self.batch():
            await self.remove_children()
            await self.mount_all(_cells(resident))


def _cells(resident: ResidentModel) -> Iterator[Widget]:
    yield from _row("", "estimate", "real", classes="table-head")
    estimate = resident.fit.footprint
    parts = (
        ("weights", estimate.weights_bytes, BufferKind.WEIGHTS),
        ("KV cache", estimate.kv_bytes, BufferKind.KV),
        ("recurrent", estimate.recurrent_bytes, BufferKind.RECURRENT),
        ("compute", estimate.compute_bytes, BufferKind.COMPUTE),
        ("output", estimate.output_bytes, BufferKind.OUTPUT),
    )
    for label, estimated_bytes, kind in parts:
        real_bytes = _allocated(resident, kind)
        if estimated_bytes or real_bytes:
            yield from _row(label, format_bytes(estimated_bytes), _size(real_bytes))
    yield from _row("overhead", format_bytes(estimate.overhead_bytes), UNKNOWN)
    yield from _row("total", format_bytes(estimate.total_bytes), "", classes="table-total")


def _allocated(resident: ResidentModel, kind: BufferKind) -> int | None:
    """Bytes of all buffers of one kind on all devices; None when llama.cpp named none."""
    sizes = [buffer.size_bytes for buffer in resident.loaded.allocations if buffer.kind is kind]
    return sum(sizes) if sizes else None


def _size(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else format_bytes(size_bytes)


def _row(label: str, estimate: str, real: str, *, classes: str = "") -> Iterator[Static]:
    yield Static(Content(label), classes=f"table-label {classes}")
    yield Static(Content(estimate), classes=f"table-number {classes}")
    yield Static(Content(real), classes=f"table-number {classes}")
