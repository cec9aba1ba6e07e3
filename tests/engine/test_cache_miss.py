"""What broke a prompt: conversations of random tokens, each with one part changed."""

from array import array
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import CacheMiss, GenerateRequest, Message, MissReason, Role, Tool
from localllm.engine.worker.prompt.outline import PromptOutline, outline_of
from localllm.engine.worker.scheduling.cache_miss import (
    MIN_LOST_TOKENS,
    KnownPrompt,
    Lookup,
    common_runs,
    explain,
    is_timestamp,
)
from localllm.engine.worker.scheduling.prompt_history import PromptHistory

SEEDS = st.integers(0, 2**32)


class Talk:
    """A conversation whose parts are random tokens: a system prompt, tools, `turns` questions with
    their answers, and a last question. An answer may have reasoning, which is not sent back."""

    def __init__(self, random: Random, turns: int = 3) -> None:
        self.random = random
        self.system = self.part(60)
        self.tools = [self.part(50) for _ in range(3)]
        self.messages = [self.part(40) for _ in range(2 * turns + 1)]
        self.reasoning: list[int] = []

    def part(self, tokens: int) -> list[int]:
        return [self.random.randrange(1000, 2**30) for _ in range(tokens)]

    @property
    def tokens(self) -> "array[int]":
        parts = [self.system, *self.tools, *self.messages]
        return array("q", [token for part in parts for token in part])

    @property
    def outline(self) -> PromptOutline:
        messages = [Message(role=Role.SYSTEM, content=str(self.system))]
        for i, tokens in enumerate(self.messages):
            role = Role.ASSISTANT if i % 2 else Role.USER
            messages.append(Message(role=role, content=str(tokens)))
        tools = tuple(
            Tool(name=f"t{tool[0]}", description=str(tool), parameters="{}") for tool in self.tools
        )
        request = GenerateRequest(request_id="", messages=tuple(messages), tools=tools)
        return outline_of(request, messages)

    def answered(self, answer: Sequence[int], reasoning: Sequence[int] = ()) -> KnownPrompt:
        return KnownPrompt(
            tokens=self.tokens + array("q", [*reasoning, *answer]),
            prompt_tokens=len(self.tokens),
            reasoning_tokens=len(reasoning),
            outline=self.outline,
        )


def explained(
    known: KnownPrompt,
    now: Talk,
    *,
    reused: int | None = None,
    obstacle: MissReason | None = MissReason.EVICTED,
) -> CacheMiss | None:
    """Explain with the common beginning found in the cache, or `reused` tokens."""
    tokens = now.tokens
    pairs = enumerate(zip(tokens, known.tokens, strict=False))
    shortest = min(len(tokens), len(known.tokens))
    common = next((i for i, (one, other) in pairs if one != other), shortest)
    lookup = Lookup(
        tokens=tokens, outline=now.outline, known=known, common=common, obstacle=obstacle
    )
    return explain(lookup, common if reused is None else reused, lambda token: b"%d " % token)


@given(seed=SEEDS)
def test_a_conversation_that_goes_on_has_lost_nothing(seed: int) -> None:
    talk = Talk(Random(seed))
    answer = talk.part(40)
    known = talk.answered(answer)
    assert explained(known, talk) is None  # asked again
    talk.messages += [answer, talk.part(200)]
    assert explained(known, talk) is None
    stranger = Talk(Random(seed + 1))
    stranger.system, stranger.tools = talk.system, talk.tools
    assert explained(known, stranger) is None
    assert explained(known, Talk(Random(seed + 2))) is None


@given(seed=SEEDS, edited=st.integers(0, 6))
def test_an_edited_message_is_named_and_what_follows_it_is_lost(seed: int, edited: int) -> None:
    talk = Talk(Random(seed))
    known = talk.answered(talk.part(40))
    talk.messages[edited] = talk.part(33)
    follows = 40 * (6 - edited)
    miss = explained(known, talk)
    if follows < MIN_LOST_TOKENS:
        assert miss is None
        return
    assert miss == CacheMiss(
        reason=MissReason.MESSAGE_EDITED,
        position=60 + 150 + 40 * edited,
        lost_tokens=follows,
        message=edited + 2,
    )


@given(seed=SEEDS)
def test_tools_that_have_changed_are_told_from_those_in_another_order(seed: int) -> None:
    talk = Talk(Random(seed))
    known = talk.answered(talk.part(40))
    first, second, third = talk.tools
    talk.tools = [first, third, second]
    miss = explained(known, talk)
    assert miss is not None
    assert (miss.reason, miss.position) == (MissReason.TOOLS_REORDERED, 110)
    assert miss.lost_tokens == len(talk.tokens) - 110  # all of it is known, at other positions
    talk.tools = [first, talk.part(70), third]
    miss = explained(known, talk)
    assert miss is not None
    assert (miss.reason, miss.position) == (MissReason.TOOLS_CHANGED, 110)
    assert miss.lost_tokens == 50 + 7 * 40


@given(seed=SEEDS, reasoning=st.integers(20, 900))
def test_reasoning_that_is_left_out_is_counted(seed: int, reasoning: int) -> None:
    talk = Talk(Random(seed))
    answer = talk.part(50)
    known = talk.answered(answer, talk.part(reasoning))
    position = len(talk.tokens)
    talk.messages += [answer, talk.part(30)]
    assert explained(known, talk) == CacheMiss(
        reason=MissReason.REASONING_DROPPED,
        position=position,
        lost_tokens=50,
        dropped_tokens=reasoning,
    )
    # A model that cannot go back, with a short answer: all of it is lost.
    talk = Talk(Random(seed))
    short = talk.part(3)
    known = talk.answered(short, talk.part(reasoning))
    talk.messages += [short, talk.part(30)]
    assert explained(known, talk, reused=0, obstacle=None) == CacheMiss(
        reason=MissReason.REASONING_DROPPED,
        position=position,
        lost_tokens=position,
        dropped_tokens=reasoning,
    )


@given(seed=SEEDS, kept=st.integers(0, 400))
def test_what_has_not_changed_was_evicted_or_could_not_be_reached(seed: int, kept: int) -> None:
    talk = Talk(Random(seed))
    answer = talk.part(40)
    known = talk.answered(answer)
    talk.messages += [answer, talk.part(20)]
    lost = len(known.tokens) - kept
    for obstacle in (MissReason.EVICTED, MissReason.ADAPTERS_CHANGED, None):
        assert explained(known, talk, reused=kept, obstacle=obstacle) == CacheMiss(
            reason=obstacle or MissReason.NO_CHECKPOINT, position=kept, lost_tokens=lost
        )


@given(seed=SEEDS, removed=st.integers(0, 2))
def test_messages_that_are_left_out_are_not_called_edited(seed: int, removed: int) -> None:
    talk = Talk(Random(seed))
    known = talk.answered(talk.part(40))
    del talk.messages[2 * removed : 2 * removed + 2]
    miss = explained(known, talk)
    assert miss is not None
    assert miss.reason is MissReason.MESSAGES_REMOVED
    assert miss.lost_tokens == 40 * (5 - 2 * removed)


def test_a_system_prompt_with_a_clock_is_named_as_such() -> None:
    talk = Talk(Random(1))
    talk.system = [*range(40), 1764556800, *range(50, 90)]  # a Unix time
    known = talk.answered([])
    talk.system = [*range(40), 1764556836, *range(50, 90)]
    miss = explained(known, talk)
    assert miss is not None
    assert (miss.reason, miss.timestamp) == (MissReason.SYSTEM_CHANGED, True)
    talk.system = [*range(40), 7, *range(50, 90)]
    miss = explained(known, talk)
    assert miss is not None
    assert (miss.reason, miss.timestamp) == (MissReason.SYSTEM_CHANGED, False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("It is 2026-12-01T02:20:36Z.", "It is 2026-12-01T02:20:41Z."),
        ("It is 9:59 now", "It is 10:00 now"),
        ("Today is 1 December 2026.", "Today is 2 December 2026."),
        ("Today is December 1st, 2026.", "Today is December 2nd, 2026."),
        ("Heute ist der 3. März 2026.", "Heute ist der 4. März 2026."),
        ("on Monday", "on Tuesday"),
        ("the 1.12.2026", "the 2.12.2026"),
    ],
)
def test_a_date_or_a_time_is_recognised(old: str, new: str) -> None:
    assert is_timestamp(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [("you may go", "you can go"), ("at 10:00, Ann", "at 10:00, Bob"), ("rule 1", "rule 2")],
)
def test_another_difference_is_no_date(old: str, new: str) -> None:
    assert not is_timestamp(old, new)


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)), st.integers(0, 9))
def test_runs_are_in_both_and_none_is_over_another(
    old: list[int], new: list[int], start: int
) -> None:
    end = start
    for run in common_runs(old, new, start, start):
        assert run.new >= end
        end = run.new + run.length
        assert old[run.old : run.old + run.length] == new[run.new : end]
        assert run.old >= start


@given(seed=SEEDS)
def test_the_history_finds_the_conversation_and_keeps_one_turn_of_each(seed: int) -> None:
    history, random = PromptHistory(), Random(seed)
    talks = [Talk(random) for _ in range(4)]
    for talk in talks:
        talk.tools, talk.system = talks[0].tools, talks[0].system
        history.remember(talk.answered([]))
        talk.messages += [talk.part(30), talk.part(30)]
        history.remember(talk.answered([]))
    assert len(history._entries) == len(talks)
    for talk in talks:
        before = talk.outline
        talk.system = talk.part(60)  # now it begins as none does
        found = history.most_like(talk.tokens, ())
        assert found is not None
        assert found[0].outline == before


def test_the_history_is_bounded() -> None:
    history = PromptHistory()
    for first in range(0, 5_000_000, 100_000):
        tokens = array("q", range(first, first + 100_000))
        history.remember(KnownPrompt(tokens=tokens, prompt_tokens=100_000))
    assert history._tokens == sum(len(entry.known.tokens) for entry in history._entries) <= 2**19
