"""The probabilities of an answer's tokens, the branches from them, duels, and steps of settings."""

import itertools
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.commands.setting_steps import fraction, step
from localllm.chat.commands.setting_values import SAMPLING_NAMES, is_default
from localllm.chat.conversation import ChatMessage, Conversation
from localllm.chat.duels import DuelStore, Vote, sides
from localllm.chat.settings import ChatSettings
from localllm.chat.token_scores import (
    Alternative,
    branch_text,
    continuing_request,
    scored_tokens,
    scoring_request,
    summarize,
)
from localllm.engine.messages import GenerateRequest, Overflow, Role, Sampling, Token, TokenLogprob
from localllm.engine.messages.validation import check_generate
from localllm.errors import UsageError


def logprob(raw: bytes, probability: float) -> TokenLogprob:
    return TokenLogprob(
        token=len(raw),
        text=raw.decode("utf-8", "replace"),
        raw=tuple(raw),
        logprob=math.log(probability),
    )


def echoed(*pieces: bytes) -> list[Token]:
    """Return the tokens of a prompt; the first has no probability, as llama.cpp has none."""
    first = Token(request_id="1", text="", of_prompt=True)
    tokens = [
        Token(
            request_id="1",
            text="",
            of_prompt=True,
            logprob=logprob(piece, 0.5),
            top_logprobs=(logprob(b"other", 0.5), logprob(piece, 0.5)),
        )
        for piece in pieces
    ]
    return [first, *tokens]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at the places, also within a character."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(min_size=1), st.text(), st.lists(st.integers(0, 400), max_size=30))
def test_the_tokens_of_an_answer_are_found_however_they_are_cut(
    answer: str, before: str, places: list[int]
) -> None:
    data = answer.encode("utf-8", "replace")
    prompt = f"user: {before}\n".encode("utf-8", "replace")
    tokens = scored_tokens(answer, echoed(*cut(prompt + data, places)))
    joined = b"".join(each.raw for each in tokens)
    assert joined.endswith(data)
    assert tokens[-1].start + len(tokens[-1].raw) >= len(data)
    for token in tokens:
        branch = branch_text(answer, token, token.alternatives[0])
        assert branch is None or branch.encode() == data[: token.start] + b"other"
    assert summarize(tokens).not_first == sum(each.raw != b"other" for each in tokens)


def test_an_answer_that_the_template_has_changed_is_not_guessed_at() -> None:
    assert [each.raw for each in scored_tokens("  hi ", echoed(b"x", b"hi"))] == [b"hi"]
    for answer, pieces in (("hi", (b"ho",)), (" ", (b"x",)), ("hi", ())):
        with pytest.raises(UsageError, match="template"):
            scored_tokens(answer, echoed(*pieces))


def test_a_branch_never_tears_a_character_and_may_end_the_answer() -> None:
    tokens = scored_tokens("é!", echoed(b"\xc3", b"\xa9", b"!"))
    other = Alternative(token=1, text="x", raw=b"x", probability=0.1)
    end = Alternative(token=2, text="<|im_end|>", raw=b"", probability=0.1)
    assert branch_text("é!", tokens[1], other) is None
    assert branch_text("é!", tokens[2], other) == "éx"
    assert branch_text("é!", tokens[2], end) == "é"
    assert end.ends_answer


def asked() -> tuple[Conversation, ChatMessage]:
    conversation = Conversation(settings=ChatSettings(system="Be terse."))
    conversation = conversation.with_message(ChatMessage(role=Role.USER, text="Hi?"), after=None)
    question = conversation.leaf
    answer = ChatMessage(role=Role.ASSISTANT, text="Hello you")
    conversation = conversation.with_message(answer, after=question)
    conversation = conversation.with_message(
        ChatMessage(role=Role.USER, text="later"), after=conversation.leaf
    )
    return conversation, conversation.message(answer.id)


def texts(request: GenerateRequest) -> list[str]:
    check_generate(request)
    return [each.content for each in request.messages or ()]


def test_an_answer_is_scored_and_continued_where_it_stands() -> None:
    conversation, answer = asked()
    request = scoring_request(conversation, answer, request_id="1")
    assert texts(request) == ["Be terse.", "Hi?", "Hello you"]
    assert (request.echo, request.max_tokens, request.continue_final_message) == (True, 0, True)
    assert request.overflow is Overflow.ROLL  # as the answer was written, of a long conversation
    request = continuing_request(conversation, answer, "Hello there", request_id="1")
    assert texts(request) == ["Be terse.", "Hi?", "Hello there"]
    with pytest.raises(UsageError):
        scoring_request(conversation, conversation.path()[0], request_id="1")


def test_votes_are_counted_for_the_models_wherever_they_stood(tmp_path: Path) -> None:
    store = DuelStore(tmp_path / "duels.json")
    store.record("b", "a", Vote.LEFT)
    store.record("a", "b", Vote.RIGHT)
    store.record("a", "b", Vote.LEFT)
    tally = store.record("a", "b", Vote.SAME)
    assert (tally.wins("a"), tally.wins("b"), tally.same, tally.duels) == (1, 2, 1, 4)
    store.record("a", "c", Vote.LEFT)
    assert store.record("a", "a", Vote.LEFT).duels == 0
    assert [each.model for each in store.standings()] == ["b", "a", "c"]
    assert (tmp_path / "duels.json").read_text().count('"first"') == 2
    store.forget()
    assert store.standings() == ()
    chance = random.Random(1)
    assert {sides("a", "b", blind=True, chance=chance) for _ in range(50)} == {
        ("a", "b"),
        ("b", "a"),
    }
    assert sides("a", "b", blind=False, chance=chance) == ("a", "b")


names = st.sampled_from([*SAMPLING_NAMES, "max_tokens", "context", "kv_type", "thinking"])


@given(names, st.lists(st.booleans(), max_size=60), st.sampled_from([None, 256, 5000, 131072]))
def test_steps_stay_within_what_the_engine_accepts(
    name: str, ways: list[bool], most: int | None
) -> None:
    settings = ChatSettings(context=None)
    for up in ways:
        settings = step(settings, name, up, most)
        if name in (*SAMPLING_NAMES, "context"):
            at = fraction(settings, name, most)
            assert at is None or 0 <= at <= 1
    check_generate(
        GenerateRequest(
            request_id="1",
            prompt="x",
            sampling=settings.sampling,
            max_tokens=settings.max_tokens,
            thinking=settings.thinking,
        )
    )
    assert settings.context is None or 1 <= settings.context <= (most or 2**20)


def test_a_step_back_undoes_one() -> None:
    settings = ChatSettings(sampling=Sampling(temperature=0.7))
    assert step(step(settings, "temperature", True, None), "temperature", False, None) == settings
    assert step(settings, "context", True, 131_072).context == 8192
    assert step(settings, "context", True, 6000).context == 6000
    assert step(settings, "seed", True, None).sampling.seed == 0
    assert is_default(step(step(settings, "seed", True, None), "seed", False, None), "seed")
    assert step(settings, "max_tokens", True, None).max_tokens == 64
