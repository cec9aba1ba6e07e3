"""The rolling window: what is left out, what stays, and that it stays where it was cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import GenerateRequest, Message, Overflow, Role
from localllm.engine.messages.validation import check_generate
from localllm.engine.worker.prompt import context_window
from localllm.engine.worker.prompt.context_window import (
    FILL_AFTER_CUT,
    RollingWindow,
    prompt_limit,
    turn_starts,
)
from localllm.errors import BadRequest, ContextOverflow
from tests.engine.answers import GREEDY, collect

any_message = st.builds(
    Message, role=st.sampled_from(Role), content=st.text("ab", min_size=1, max_size=30)
)
conversations = st.lists(any_message, min_size=1, max_size=24)


def render(rest: tuple[Message, ...]) -> list[str]:
    """A prompt of one token for each character, and three around each message."""
    return [c for m in rest for c in (m.role.value, "<", *m.content, ">")]


def length(*rest: Message) -> int:
    return len(render(rest))


def message(role: Role, content: str = "x" * 10) -> Message:
    return Message(role=role, content=content)


def dialogue(turns: int, *, system: bool = True) -> list[Message]:
    head = [message(Role.SYSTEM)] if system else []
    pairs = [
        (message(Role.USER, f"q{i:08}"), message(Role.ASSISTANT, f"a{i:08}")) for i in range(turns)
    ]
    return [*head, *itertools.chain(*pairs)][: -1 if turns else None]


@given(conversations, st.integers(1, 400))
def test_what_stays_is_the_system_prompt_and_an_end_of_the_rest_that_begins_with_a_turn(
    conversation: list[Message], limit: int
) -> None:
    prompt, dropped = RollingWindow().fit(conversation, limit, render)
    starts = turn_starts(conversation)
    head = starts[0] if starts else len(conversation)
    stays = (*conversation[:head], *conversation[head + dropped :])
    assert prompt == render(stays)
    assert all(m.role is Role.SYSTEM for m in conversation[:head])
    if dropped:
        assert head + dropped in starts
        assert conversation[head + dropped].role is Role.USER


@given(conversations, st.integers(1, 400))
def test_it_fits_unless_the_last_turn_alone_does_not(
    conversation: list[Message], limit: int
) -> None:
    prompt, dropped = RollingWindow().fit(conversation, limit, render)
    starts = turn_starts(conversation)
    last = starts[-1] if starts else 0
    assert len(prompt) <= limit or dropped == last - (starts[0] if starts else 0)


@given(conversations, st.integers(1, 400))
def test_nothing_is_left_out_that_fits(conversation: list[Message], limit: int) -> None:
    _, dropped = RollingWindow().fit(conversation, limit, render)
    if length(*conversation) <= limit:
        assert dropped == 0
        return
    starts = turn_starts(conversation)
    if len(starts) < 2:
        assert dropped == 0
        return
    turn = starts.index(starts[0] + dropped)
    if turn > 1:  # one turn more would be over what a cut may fill
        more = (*conversation[: starts[0]], *conversation[starts[turn - 1] :])
        assert length(*more) > int(limit * FILL_AFTER_CUT)


@given(st.integers(2, 400), st.integers(60, 300))
def test_few_prompts_are_made_to_find_the_cut(turns: int, limit: int) -> None:
    made = 0

    def counted(rest: tuple[Message, ...]) -> list[str]:
        nonlocal made
        made += 1
        return render(rest)

    RollingWindow().fit(dialogue(turns), limit, counted)
    assert made <= 2 + turns.bit_length()


def test_a_growing_conversation_is_cut_at_the_same_place_until_that_is_full() -> None:
    window, limit = RollingWindow(), 300
    cuts, made = [], 0

    def counted(rest: tuple[Message, ...]) -> list[str]:
        nonlocal made
        made += 1
        return render(rest)

    for turns in range(1, 60):
        prompt, dropped = window.fit(dialogue(turns), limit, counted)
        assert len(prompt) <= limit
        cuts.append(dropped)
    assert cuts == sorted(cuts)
    moved = sum(a != b for a, b in itertools.pairwise(cuts))
    per_turn = length(*dialogue(3)) - length(*dialogue(2))
    assert moved <= 60 * per_turn / (limit * (1 - FILL_AFTER_CUT)) + 1  # not one move for each turn
    assert made <= 59 + moved * 7  # one prompt for a turn that moves nothing


def test_two_conversations_do_not_share_a_cut() -> None:
    window = RollingWindow()
    first = dialogue(20)
    other = [first[0], message(Role.USER, "another beginning"), *first[2:]]
    cut = window.fit(first, 200, render)
    assert window.fit(other, 200, render) == RollingWindow().fit(other, 200, render)
    assert window.fit(first, 200, render) == cut


def test_more_conversations_than_are_remembered_are_cut_all_the_same() -> None:
    window = RollingWindow()
    for number in range(context_window.MAX_CUTS + 10):
        conversation = [message(Role.USER, f"{number:09}"), *dialogue(20, system=False)]
        assert len(window.fit(conversation, 200, render)[0]) <= 200
    assert len(window._cuts) == context_window.MAX_CUTS


def test_a_tool_call_goes_with_its_result() -> None:
    turn = [message(r) for r in (Role.USER, Role.ASSISTANT, Role.TOOL, Role.TOOL, Role.ASSISTANT)]
    conversation = [*turn, *turn, message(Role.USER)]
    assert turn_starts(conversation) == [0, 5, 10]
    _, dropped = RollingWindow().fit(conversation, length(*turn, message(Role.USER)) + 5, render)
    assert dropped in (5, 10)


def test_what_is_far_too_long_to_be_counted_is_left_out() -> None:
    def bounded(rest: tuple[Message, ...]) -> list[str]:
        if length(*rest) > 150:
            raise ContextOverflow("far too long")
        return render(rest)

    prompt, dropped = RollingWindow().fit(dialogue(200), 100, bounded)
    assert len(prompt) <= 100
    assert dropped > 300
    with pytest.raises(ContextOverflow, match="far too long"):
        RollingWindow().fit([*dialogue(3), message(Role.USER, "x" * 200)], 100, bounded)


@pytest.mark.parametrize(
    ("context", "max_tokens", "expected"),
    [(4096, None, 3072), (4096, 100, 3996), (4096, 4096, 2048), (1, None, 1), (2, 2, 1)],
)
def test_the_answer_has_a_place_too(context: int, max_tokens: int | None, expected: int) -> None:
    assert prompt_limit(context, max_tokens) == expected


def test_a_plain_prompt_cannot_roll() -> None:
    with pytest.raises(BadRequest, match="no turns"):
        check_generate(GenerateRequest(request_id="a", prompt="x", overflow=Overflow.ROLL))


# --- the real engine, with a context of 512 tokens ---


def talk(turns: int, *, last: str = "Say yes.") -> tuple[Message, ...]:
    """A system prompt, so many turns of about a hundred tokens, and a question."""
    story = "the cat sat on the mat and looked at the moon " * 8
    pairs = [
        (message(Role.USER, f"{i}: {story}"), message(Role.ASSISTANT, f"I see, {i}."))
        for i in range(turns)
    ]
    system = message(Role.SYSTEM, "You are brief.")
    return (system, *itertools.chain(*pairs), message(Role.USER, last))


def request(name: str, *messages: Message, overflow: Overflow = Overflow.ROLL) -> GenerateRequest:
    return GenerateRequest(
        request_id=name, messages=messages, sampling=GREEDY, max_tokens=8, overflow=overflow
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_a_conversation_that_rolls_is_answered_and_says_what_was_left_out(
    engine: ProcessEngine,
) -> None:
    with pytest.raises(ContextOverflow, match=r"\d+ tokens and the context holds 512"):
        await collect(engine, request("error", *talk(8), overflow=Overflow.ERROR))
    text, end, _ = await collect(engine, request("roll", *talk(8)))
    assert end.dropped_messages > 0
    assert end.dropped_messages % 2 == 0
    assert end.prompt_tokens <= 512 - 8
    conversation = talk(8)
    shorter = (conversation[0], *conversation[1 + end.dropped_messages :])
    again, same, _ = await collect(engine, request("short", *shorter))
    assert (again, same.prompt_tokens, same.dropped_messages) == (text, end.prompt_tokens, 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_turn_after_a_cut_finds_the_one_before_in_the_cache(
    engine: ProcessEngine,
) -> None:
    _, first, _ = await collect(engine, request("turn1", *talk(9)))
    _, second, _ = await collect(
        engine,
        request("turn2", *talk(9), message(Role.ASSISTANT, "yes"), message(Role.USER, "And no?")),
    )
    assert second.dropped_messages == first.dropped_messages
    assert second.cached_tokens >= first.prompt_tokens - 8


@pytest.mark.asyncio(loop_scope="module")
async def test_a_last_turn_that_does_not_fit_is_the_error_with_both_numbers(
    engine: ProcessEngine,
) -> None:
    long = "the cat sat on the mat " * 100
    with pytest.raises(ContextOverflow, match=r"last turn .* alone have \d+ tokens .* holds 512"):
        await collect(engine, request("long", *talk(4, last=long)))
    with pytest.raises(ContextOverflow, match="holds 512"):
        await collect(engine, request("longer", *talk(4, last=long * 20)))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_conversation_that_fits_is_left_as_it_is(engine: ProcessEngine) -> None:
    rolled = await collect(engine, request("fits", *talk(2)))
    plain = await collect(engine, request("plain", *talk(2), overflow=Overflow.ERROR))
    assert rolled[0] == plain[0]
    assert rolled[1].dropped_messages == 0
    assert rolled[1].prompt_tokens == plain[1].prompt_tokens
