"""The store of responses: bounded in bytes and age, closed to other keys, whole conversations."""

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.server.dialects.openai.responses.store import Item, ResponseStore

MAX_BYTES, MAX_AGE_S = 100, 10.0
OWNERS = ("ann", "bob")

step = st.tuples(
    st.sampled_from(["put", "put", "put", "get", "delete", "wait"]),
    st.sampled_from(OWNERS),
    st.integers(0, 12),  # which response, or how long
    st.integers(0, 60),  # bytes
)


@settings(max_examples=60)
@given(st.lists(step, max_size=40))
def test_whatever_is_stored_it_stays_within_its_bounds_and_answers_truly(
    steps: list[tuple[str, str, int, int]],
) -> None:
    now = 0.0
    store = ResponseStore(max_bytes=MAX_BYTES, max_age_s=MAX_AGE_S, clock=lambda: now)
    conversations: dict[str, tuple[Item, ...]] = {}
    owners: dict[str, str] = {}
    for number, (verb, owner, which, size) in enumerate(steps):
        named = list(conversations)[which % len(conversations)] if conversations else "none"
        if verb == "wait":
            now += which
        elif verb == "delete":
            assert store.delete(named, owner) <= (owners.get(named) == owner)
            assert store.get(named, owner) is None
        else:
            found = store.get(named, owner)
            if found is not None:
                assert owners[named] == owner
                assert found.conversation == conversations[named]
                assert store.item(f"out {named}", owner) is not None
            for other in OWNERS:
                assert owners.get(named) == other or store.get(named, other) is None
                assert owners.get(named) == other or store.item(f"out {named}", other) is None
        if verb == "put":
            name, previous = str(number), named if found is not None else None
            asked: Item = {"id": f"in {name}"}
            answered: Item = {"id": f"out {name}"}
            store.put(
                name,
                owner,
                b"",
                previous_id=previous,
                new_input=[asked],
                output=[answered],
                size_bytes=size,
            )
            before = conversations[previous] if previous is not None else ()
            conversations[name], owners[name] = (*before, asked, answered), owner
        assert 0 <= store.size_bytes <= MAX_BYTES
    now += MAX_AGE_S + 1
    assert all(store.get(name, owners[name]) is None for name in conversations)
    assert store.size_bytes == 0
    assert not any(store.item(f"out {name}", owners[name]) for name in conversations)


def test_the_least_recently_used_makes_room_and_what_is_used_stays() -> None:
    now = 0.0
    store = ResponseStore(max_bytes=100, max_age_s=10, clock=lambda: now)

    def put(name: str, previous: str | None = None, size: int = 40) -> None:
        item: Item = {"id": name}
        store.put(name, "", b"", previous_id=previous, new_input=[], output=[item], size_bytes=size)

    put("one")
    put("two")
    assert store.get("one", "") is not None
    put("three")
    assert store.get("two", "") is None
    # A conversation stays whole though the response that began it is gone.
    put("four", previous="one", size=10)
    assert store.delete("one", "")
    found = store.get("four", "")
    assert found is not None
    assert [item["id"] for item in found.conversation] == ["one", "four"]
    assert [item["id"] for item in found.output] == ["four"]
    put("huge", size=101)
    assert store.get("huge", "") is None
    assert store.get("four", "") is not None
