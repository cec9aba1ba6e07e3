"""The stacked bar: its cells add up, and no part moves to the left when the context grows."""

from hypothesis import given
from hypothesis import strategies as st

from localllm.tui.widgets.memory_bar import (
    STACKED,
    LoadMemory,
    MachineMemory,
    MemoryUse,
    bar_cells,
    runs,
    stacked_ends,
)

GIB = 2**30
_BYTES = st.integers(0, 200 * GIB)
_CELLS = st.integers(1, 60)


def load(machine: MachineMemory, weights: int, kv: int, compute: int) -> LoadMemory:
    room = machine.total_bytes - machine.others_bytes - machine.reserve_bytes
    return LoadMemory(
        weights_bytes=weights,
        kv_bytes=kv,
        compute_bytes=compute,
        fits=weights + kv + compute <= room,
    )


@given(
    total=st.integers(1, 200 * GIB),
    taken=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    parts=st.tuples(_BYTES, _BYTES, _BYTES),
    inside=_CELLS,
    beyond=st.integers(1, 20),
)
def test_the_cells_of_a_bar_add_up_to_its_width(
    total: int, taken: tuple[int, int], parts: tuple[int, int, int], inside: int, beyond: int
) -> None:
    others, reserve = total * taken[0] // 400, total * taken[1] // 400
    machine = MachineMemory(total_bytes=total, others_bytes=others, reserve_bytes=reserve)
    shown = load(machine, *parts)
    cells = bar_cells(machine, shown, inside=inside, beyond=beyond)
    assert len(cells) == inside + 1 + beyond
    assert cells.index(MemoryUse.LIMIT) == inside
    assert sum(len(text) for _, text in runs(cells)) == len(cells)
    over = set(cells[inside + 1 :]) - {MemoryUse.NOTHING}
    assert bool(over) is not shown.fits  # what fits stays left of the line, nothing else does
    order = [use for use, _ in runs(cells) if use in STACKED]
    assert [use for use in STACKED if use in order] == list(dict.fromkeys(order))


@given(
    limit=st.integers(1, 200 * GIB),
    sizes=st.lists(_BYTES, min_size=1, max_size=6),
    more=st.lists(_BYTES, min_size=6, max_size=6),
    inside=_CELLS,
    beyond=st.integers(1, 20),
)
def test_no_part_ends_further_left_when_any_part_grows(
    limit: int, sizes: list[int], more: list[int], inside: int, beyond: int
) -> None:
    larger = [size + more[i] for i, size in enumerate(sizes)]

    def ends(of: list[int]) -> tuple[int, ...]:
        return stacked_ends(
            of, limit_bytes=limit, inside=inside, beyond=beyond, fits=sum(of) <= limit
        )

    assert all(one <= other for one, other in zip(ends(sizes), ends(larger), strict=True))


def test_a_small_cache_is_seen_beside_large_weights() -> None:
    machine = MachineMemory(total_bytes=24 * GIB, others_bytes=GIB)
    cells = bar_cells(machine, load(machine, 19 * GIB, GIB // 8, GIB // 8), inside=24, beyond=6)
    assert MemoryUse.KV in cells
    assert MemoryUse.COMPUTE in cells


def test_nothing_but_other_programs_is_shown_without_a_load() -> None:
    machine = MachineMemory(total_bytes=24 * GIB, others_bytes=12 * GIB)
    cells = bar_cells(machine, None, inside=10, beyond=2)
    assert "".join(text for _, text in runs(cells)) == "▓▓▓▓▓░░░░░│  "
