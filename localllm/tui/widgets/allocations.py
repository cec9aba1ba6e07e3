"""The estimate of a load beside llama.cpp's dry run and real allocations, part by part."""

from collections.abc import Iterator

from textual.containers import Grid
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from localllm.core.sizing.footprint import OVERHEAD, PARTS
from localllm.core.sizing.load import Allocation, BufferKind
from localllm.core.units import format_bytes
from localllm.runtime.runtime import ResidentModel
from localllm.translation import _
from localllm.tui import literal

UNKNOWN = "-"


class Allocations(Grid):
    """A small table; empty until `show` is called.

    Estimate and reality; with `all_three`, llama.cpp's dry run between them where it was asked,
    and how far each was off.
    """

    def __init__(self, *, all_three: bool = False, classes: str = "") -> None:
        super().__init__(classes=classes)
        self._all_three = all_three

    async def show(self, resident: ResidentModel) -> None:
        probed = resident.fit.probed if self._all_three else None
        self.set_class(probed is not None, "-probed")
        async with self.batch():
            await self.remove_children()
            await self.mount_all(_cells(resident, probed))
            if self._all_three:
                sentence = literal.line(resident.comparison.sentence())
                await self.mount(Static(sentence, classes="table-remark"))


def _cells(resident: ResidentModel, probed: tuple[Allocation, ...] | None) -> Iterator[Widget]:
    row = _three if probed is not None else _two
    yield from row(("", _("estimate"), _("dry run"), _("real")), "table-head")
    estimate = resident.fit.footprint
    for part in PARTS:
        estimated_bytes = part.bytes_in(estimate)
        probe = _allocated(probed or (), part.kind) if part.in_dry_run else None
        real = _allocated(resident.loaded.allocations, part.kind)
        if estimated_bytes or probe or real or part is OVERHEAD:
            sizes = format_bytes(estimated_bytes), _size(probe), _size(real)
            yield from row((_(part.short_label), *sizes))
    yield from row((_("total"), format_bytes(estimate.total_bytes), "", ""), "table-total")


def _allocated(allocations: tuple[Allocation, ...], kind: BufferKind | None) -> int | None:
    """Sum the buffers of one kind on all devices; None when llama.cpp named none."""
    sizes = [buffer.size_bytes for buffer in allocations if buffer.kind is kind]
    return sum(sizes) if sizes else None


def _size(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else format_bytes(size_bytes)


def _three(texts: tuple[str, str, str, str], classes: str = "") -> Iterator[Static]:
    label, *numbers = texts
    yield Static(Content(label), classes=f"table-label {classes}")
    for number in numbers:
        yield Static(Content(number), classes=f"table-number {classes}")


def _two(texts: tuple[str, str, str, str], classes: str = "") -> Iterator[Static]:
    """Draw a row without the dry run."""
    cells = tuple(_three(texts, classes))
    yield from (*cells[:2], cells[3])
