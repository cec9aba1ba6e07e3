"""What gives way to a load: never the busy or pinned, no more than needed, always the same."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.runtime.model_pool.eviction import (
    Assess,
    Assessment,
    Candidate,
    CannotFit,
    Evict,
    EvictionPlan,
    WaitFor,
    plan_eviction,
)

DEVICES = ("host", "gpu0", "gpu1")
Bytes = Mapping[str, int]

sizes = st.fixed_dictionaries({device: st.integers(0, 8) for device in DEVICES})
candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from("abcdef"),
        idle_s=st.floats(0, 1000),
        load_s=st.floats(0, 60),
        uses=st.integers(0, 50),
        busy=st.booleans(),
        remaining_s=st.none() | st.floats(0, 100),
        pinned=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda candidate: candidate.name,
)
held = st.fixed_dictionaries(dict.fromkeys("abcdef", sizes))


def by_sums(need: Bytes, free: Bytes, held: Mapping[str, Bytes], limit: int = 10**6) -> Assess:
    """What fits by plain sums on each device, and by a limit on all of them."""

    def assess(gone: frozenset[str]) -> Assessment:
        fits = all(need[d] <= free[d] + sum(held[name][d] for name in gone) for d in DEVICES)
        beside = sum(sum(held[name].values()) for name in held.keys() - gone)
        return Assessment(fits=fits and beside + sum(need.values()) <= limit)

    return assess


def gone_of(plan: EvictionPlan) -> frozenset[str]:
    match plan:
        case Evict(names=names):
            return frozenset(names)
        case WaitFor(busy=busy, idle=idle):
            return frozenset((*busy, *idle))
        case CannotFit(pinned=pinned):
            return frozenset(pinned)


@settings(max_examples=150)
@given(sizes, sizes, held, candidates, st.integers(0, 60))
def test_a_plan_fits_and_needs_all_that_it_unloads(
    need: Bytes, free: Bytes, held: Mapping[str, Bytes], residents: list[Candidate], limit: int
) -> None:
    held = {each.name: held[each.name] for each in residents}
    assess = by_sums(need, free, held, limit)
    plan = plan_eviction(assess, residents)
    busy = {each.name for each in residents if each.busy and not each.pinned}
    pinned = {each.name for each in residents if each.pinned}
    idle = {each.name for each in residents} - busy - pinned
    gone = gone_of(plan)
    match plan:
        case Evict():
            assert gone <= idle
        case WaitFor():
            assert set(plan.busy) <= busy
            assert plan.busy
            assert set(plan.idle) <= idle
            assert not assess(frozenset(idle)).fits
        case CannotFit():
            assert not assess(frozenset(idle | busy)).fits
            assert gone <= pinned
            return
    assert assess(gone).fits
    if isinstance(plan, Evict):
        assert not any(assess(gone - {name}).fits for name in gone)
    else:
        assert not any(assess(gone - {name}).fits for name in plan.idle)
    assert plan == plan_eviction(assess, residents[::-1])


@settings(max_examples=50)
@given(sizes, held, candidates)
def test_what_fits_at_once_unloads_nothing(
    free: Bytes, held: Mapping[str, Bytes], residents: list[Candidate]
) -> None:
    held = {each.name: held[each.name] for each in residents}
    assert plan_eviction(by_sums(free, free, held), residents) == Evict()


def needing(count: int) -> Assess:
    return lambda gone: Assessment(fits=len(gone) >= count)


def test_the_least_valuable_gives_way() -> None:
    used = Candidate(name="used", idle_s=10, load_s=2, uses=30)
    slow = Candidate(name="slow", idle_s=10, load_s=60, uses=1)
    forgotten = Candidate(name="forgotten", idle_s=5000, load_s=60, uses=100)
    new = Candidate(name="new", idle_s=0, load_s=2)
    everything = (slow, new, used, forgotten)
    assert plan_eviction(needing(1), everything) == Evict(names=("forgotten",))
    assert plan_eviction(needing(2), everything) == Evict(names=("forgotten", "new"))


def test_idle_models_give_way_for_layers_on_a_gpu_and_busy_ones_do_not() -> None:
    def assess(gone: frozenset[str]) -> Assessment:
        return Assessment(fits=True, gpu_layers=10 + 10 * len(gone))

    idle, busy = Candidate(name="idle"), Candidate(name="busy", busy=True)
    assert plan_eviction(assess, (idle, busy)) == Evict(names=("idle",))
    assert plan_eviction(assess, (busy,)) == Evict()


def test_a_wait_is_as_long_as_the_last_of_those_waited_for() -> None:
    short = Candidate(name="short", busy=True, remaining_s=3)
    long = Candidate(name="long", busy=True, remaining_s=50)
    unknown = Candidate(name="unknown", busy=True)
    assert plan_eviction(needing(1), (long, short)) == WaitFor(busy=("short",), wait_s=3)
    assert plan_eviction(needing(2), (long, short)) == WaitFor(busy=("short", "long"), wait_s=50)
    assert plan_eviction(needing(2), (unknown, short)) == WaitFor(busy=("short", "unknown"))
    pinned = Candidate(name="kept", pinned=True, busy=True)
    assert plan_eviction(needing(1), (pinned,)) == CannotFit(pinned=("kept",))
    assert plan_eviction(needing(2), (pinned,)) == CannotFit()
