"""Draft tokens from the text itself, beside the slow way to find them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.worker.speculative.ngram import LONGEST, NO_MATCH, PLACES, SHORTEST, NgramIndex

few = st.lists(st.integers(0, 3), max_size=80)
parts = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=12)


def indexed(tokens: list[int]) -> NgramIndex:
    index = NgramIndex()
    index.extend(tokens)
    return index


def slowly(tokens: list[int], most: int) -> tuple[tuple[int, ...], int]:
    """The definition: compare every earlier place, latest first, take the longest match."""
    end = tokens[-SHORTEST:]
    places = [
        place
        for place in range(len(tokens) - 1, SHORTEST - 1, -1)
        if tokens[place - SHORTEST : place] == end
    ][:PLACES]
    best, longest = 0, 0
    for place in places:
        match = 0
        while match < min(place, LONGEST) and tokens[place - match - 1] == tokens[-match - 1]:
            match += 1
        if match > longest:
            best, longest = place, match
    if not longest:
        return (), 0
    text = list(tokens)
    for i in range(most):
        text.append(text[best + i])
    return tuple(text[len(tokens) :]), longest


@settings(max_examples=400)
@given(few, st.integers(0, 20))
def test_a_draft_is_what_followed_the_longest_match(tokens: list[int], most: int) -> None:
    match = indexed(tokens).propose(most)
    assert (match.tokens, match.length) == slowly(tokens, most)


@settings(max_examples=200)
@given(parts)
def test_text_that_comes_in_parts_is_the_same_text(parts: list[list[int]]) -> None:
    index = NgramIndex()
    for part in parts:
        index.extend(part)
    whole = [token for part in parts for token in part]
    assert len(index) == len(whole)
    assert index.propose(5) == indexed(whole).propose(5)


def test_text_that_never_repeats_gives_no_draft() -> None:
    assert indexed(list(range(100))).propose(8) == NO_MATCH
    assert indexed([]).propose(8) == NO_MATCH
    assert indexed([7]).propose(8) == NO_MATCH


def test_one_token_for_ever_goes_on_for_ever() -> None:
    match = indexed([5] * 40).propose(6)
    assert match.tokens == (5,) * 6
    assert match.length == LONGEST


def test_a_copied_passage_is_drafted_to_its_end_and_further() -> None:
    passage = list(range(10, 30))
    match = indexed([1, 2, *passage, 3, 4, 10, 11, 12]).propose(7)
    assert match.tokens == (13, 14, 15, 16, 17, 18, 19)
    assert match.length == 3


def test_a_lookup_reads_a_bounded_part_of_a_text_full_of_matches() -> None:
    class Counting(list[int]):
        reads = 0

        def __getitem__(self, at):  # type: ignore[no-untyped-def]
            Counting.reads += 1
            return super().__getitem__(at)

    index = indexed([1, 2, 3] * 3000 + [1, 9] + [1, 2] * 3000)
    index._tokens = Counting(index._tokens)
    index.propose(8)
    assert 0 < Counting.reads <= 2 * PLACES * LONGEST + 1
