from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.prefix import MIN_SHARED_TOKENS, common, plan


def always(_slot: int, _tokens: int) -> bool:
    """Every cell is still there."""
    return True


tokens = st.lists(st.integers(0, 3), max_size=80)


@given(tokens, tokens)
def test_common_is_the_longest_shared_beginning(one: list[int], other: list[int]) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.dictionaries(st.integers(0, 5), tokens, min_size=1),
    st.data(),
)
def test_a_plan_only_reuses_what_is_there(
    prompt: list[int], cached: dict[int, list[int]], data: st.DataObject
) -> None:
    idle = data.draw(
        st.permutations(sorted(cached)).map(lambda slots: slots[: len(slots) // 2 + 1])
    )
    reuse = plan(prompt, cached, idle, continues=always)
    assert reuse.slot in idle
    assert reuse.source in cached
    assert reuse.tokens < len(prompt)
    assert cached[reuse.source][: reuse.tokens] == prompt[: reuse.tokens]
    best = max(common(cached[slot], prompt[:-1]) for slot in idle)
    assert best < reuse.tokens + MIN_SHARED_TOKENS


def test_a_conversation_goes_on_in_the_slot_that_holds_it() -> None:
    first, second = list(range(100, 150)), list(range(200, 250))
    reuse = plan([*first, 7, 8], {0: second, 1: first}, [0, 1], continues=always)
    assert (reuse.slot, reuse.source, reuse.tokens) == (1, 1, 50)


def test_a_system_prompt_that_another_slot_holds_is_shared() -> None:
    system = list(range(MIN_SHARED_TOKENS * 4))
    reuse = plan([*system, 900, 901], {0: [], 1: [*system, 5, 6]}, [0], continues=always)
    assert (reuse.slot, reuse.source, reuse.tokens) == (0, 1, len(system))


def test_the_least_recently_used_slot_is_overwritten_when_nothing_matches() -> None:
    reuse = plan([1, 2, 3], {0: [9] * 30, 1: [8] * 30}, [1, 0], continues=always)
    assert (reuse.slot, reuse.tokens) == (1, 0)


def test_cells_that_are_gone_are_not_counted_on() -> None:
    long, short = list(range(100)), list(range(40))
    reuse = plan(
        [*long, 900, 901], {0: long, 1: short}, [0, 1], continues=lambda slot, _: slot == 1
    )
    assert (reuse.slot, reuse.source, reuse.tokens) == (1, 1, 40)


def test_a_system_prompt_in_common_does_not_cost_another_conversation_its_cells() -> None:
    system = list(range(MIN_SHARED_TOKENS * 2))
    conversation = [*system, *range(200, 300)]
    reuse = plan([*system, 900, 901], {0: [], 1: conversation}, [0, 1], continues=always)
    assert (reuse.slot, reuse.source, reuse.tokens) == (0, 1, len(system))


def test_where_slots_cannot_share_each_uses_its_own_cells() -> None:
    system = list(range(MIN_SHARED_TOKENS * 2))
    cached = {0: [], 1: [*system, *range(200, 300)]}
    reuse = plan([*system, 900, 901], cached, [0, 1], continues=always, shares=False)
    assert (reuse.slot, reuse.source, reuse.tokens) == (1, 1, len(system))
