"""Where a prompt runs: nothing is overwritten without need, and no copy is made for less."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.kv_cache.placement import Candidate, choose, reading_cost


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Slots in any state that a radix tree can be in."""
    found = []
    for slot in range(draw(st.integers(1, 6))):
        held = draw(st.integers(0, 200))
        found.append(
            Candidate(
                slot=slot,
                matched=draw(st.one_of(st.just(held), st.integers(0, held))),
                held=held,
                unshared=draw(st.one_of(st.just(0), st.just(held), st.integers(0, held))),
                last_used=draw(st.integers(0, 9)) if held else 0,
                neighbours=draw(st.integers(0, 2)),
            )
        )
    return found


def most(slots: Sequence[Candidate]) -> int:
    return max(each.matched for each in slots)


copy_costs = st.integers(1, 40)


@given(candidates(), copy_costs)
def test_a_conversation_that_goes_on_finds_its_own_slot(
    slots: list[Candidate], copy_cost: int
) -> None:
    reusable = most(slots)
    if any(0 < each.matched == each.held == reusable for each in slots):
        chosen = slots[choose(slots, reusable, copy_cost)]
        assert (chosen.matched, chosen.lost) == (reusable, 0)


@given(candidates(), st.integers(0, 100), copy_costs)
def test_nothing_is_lost_for_nothing(
    slots: list[Candidate], elsewhere: int, copy_cost: int
) -> None:
    reusable = most(slots) + elsewhere
    chosen = slots[choose(slots, reusable, copy_cost)]
    if chosen.lost and any(each.lost == 0 for each in slots):
        assert chosen.matched == most(slots)  # its own, and less is lost than a copy would cost
        assert chosen.lost <= copy_cost


@given(candidates(), st.integers(0, 100), copy_costs)
def test_another_conversation_is_overwritten_only_when_no_older_one_is_there(
    slots: list[Candidate], elsewhere: int, copy_cost: int
) -> None:
    reusable = most(slots) + elsewhere
    chosen = slots[choose(slots, reusable, copy_cost)]
    if chosen.lost and chosen.matched < most(slots):
        assert chosen.last_used == min(each.last_used for each in slots)


@given(candidates(), st.integers(0, 100), copy_costs)
def test_the_slot_with_most_of_the_prompt_is_never_cheaper_than_the_one_chosen(
    slots: list[Candidate], elsewhere: int, copy_cost: int
) -> None:
    reusable = most(slots) + elsewhere

    def cost(each: Candidate) -> int:
        return each.lost + reading_cost(each.matched, reusable, copy_cost)

    best = [each for each in slots if 0 < each.matched == most(slots)]
    chosen = slots[choose(slots, reusable, copy_cost)]
    oldest = min(best, key=lambda each: (each.last_used, each.slot), default=chosen)
    assert cost(chosen) <= cost(oldest)
