"""ggml's graph allocator: the high-water mark of a graph's temporaries is its buffer's size.

`ggml_dyn_tallocr` and `ggml_gallocr_alloc_graph_impl` (`ggml/src/ggml-alloc.c`, llama.cpp b11434)
again, for one backend: inputs first, then node by node; a node may take over a parent's place, a
parent is freed with its last use, and a block goes where it fits best. It knows nothing of models.
"""

from bisect import insort
from collections.abc import Sequence

ALIGNMENT = 32
"""TENSOR_ALIGNMENT of the CPU backend; devices use 128, which changes nothing that shows."""


class Graph:
    """The nodes of a forward pass, in the order in which they are computed.

    A node is named by its index. A view is not a node: who reads a view reads the node under it.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.parents: list[tuple[int, ...]] = []
        self.in_place_of: list[tuple[int, ...]] = []
        self.inputs: list[int] = []

    def input(self, size_bytes: int) -> int:
        """Add a tensor that is filled before the graph runs."""
        self.inputs.append(self._add(size_bytes, (), ()))
        return self.inputs[-1]

    def node(self, size_bytes: int, *parents: int, in_place_of: Sequence[int] = ()) -> int:
        """Add a computed tensor; it may take the memory of the parents `in_place_of`, in order."""
        return self._add(size_bytes, parents, tuple(in_place_of))

    def elementwise(self, size_bytes: int, *parents: int) -> int:
        """Add an element-wise result that may take over any parent of its size."""
        same = [p for p in parents if self.sizes[p] == _aligned(size_bytes)]
        return self._add(size_bytes, parents, tuple(same))

    def _add(self, size_bytes: int, parents: tuple[int, ...], in_place_of: tuple[int, ...]) -> int:
        self.sizes.append(_aligned(size_bytes))
        self.parents.append(parents)
        self.in_place_of.append(in_place_of)
        return len(self.sizes) - 1

    def peak_bytes(self) -> int:
        """Size of the buffer that holds the graph."""
        uses = [0] * len(self.sizes)
        for parents in self.parents:
            for parent in parents:
                uses[parent] += 1
        arena = _Arena()
        place: list[int | None] = [None] * len(self.sizes)
        for node in self.inputs:
            place[node] = arena.allocate(self.sizes[node])
        for node, parents in enumerate(self.parents):
            if place[node] is None:
                place[node] = self._place(node, uses, place, arena)
            for parent in parents:
                uses[parent] -= 1
                at = place[parent]
                if uses[parent] == 0 and at is not None and at >= 0:
                    arena.release(at, self.sizes[parent])
                    place[parent] = _GONE
        return arena.peak

    def _place(self, node: int, uses: list[int], place: list[int | None], arena: "_Arena") -> int:
        for parent in self.in_place_of[node]:
            at = place[parent]
            if uses[parent] == 1 and at is not None and at >= 0:
                place[parent] = _GONE
                return at
        return arena.allocate(self.sizes[node])


_GONE = -1


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Arena:
    """Free blocks by address, and one end that grows."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []  # (offset, size), never the open end
        self._end = 0
        self.peak = 0

    def allocate(self, size: int) -> int:
        """Return the offset of the smallest free block that is large enough; the last of equals."""
        best = None
        for i, (_, free) in enumerate(self._free):
            if free >= size and (best is None or free <= self._free[best][1]):
                best = i
        if best is None:
            offset, self._end = self._end, self._end + size
            self.peak = max(self.peak, self._end)
            return offset
        offset, free = self._free.pop(best)
        if free > size:
            insort(self._free, (offset + size, free - size))
        return offset

    def release(self, offset: int, size: int) -> None:
        """Free a block and join it with its free neighbours."""
        if size == 0:
            return
        merged: list[tuple[int, int]] = []
        for at, free in self._free:
            if at + free == offset:
                offset, size = at, free + size
            elif offset + size == at:
                size += free
            else:
                merged.append((at, free))
        if offset + size == self._end:
            self._end = offset
        else:
            insort(merged, (offset, size))
        self._free = merged
