"""Records of a conversation: whatever is changed is kept, and nothing more is written."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.conversation import AnswerStats, Attachment, Citation, Conversation, Ending
from localllm.chat.history.records import (
    GrowthRecord,
    MessageRecord,
    Record,
    all_records,
    apply,
    changes,
    connected,
    decode,
    encode,
)
from localllm.chat.settings import ChatSettings
from localllm.engine.messages import Sampling, Thinking, ToolCall
from tests.chat.history.conversations import answer, conversation, question


def written(records: list[Record]) -> list[Record]:
    return [decode(encode(each)) for each in records]


def rich() -> Conversation:
    made = conversation("Why?", "Because.", "And?")
    full = replace(
        answer("It is [1] so."),
        reasoning="hm",
        attachments=(Attachment(name="a.png", media_type="image/png", data=b"\x89\0", tokens=3),),
        tool_calls=(ToolCall(id="1", name="now", arguments="{}"),),
        citations=(Citation(number=1, collection="docs", path="a.md", line=3, text="so"),),
        ending=Ending.CUT,
        warnings=("one",),
        stats=AnswerStats(prompt_tokens=3, decode_tps=2.5),
    )
    made = made.with_message(full, after=made.leaf).with_message(answer("No."), after=made.leaf)
    return replace(
        made,
        title="T",
        folder="F",
        pinned=True,
        settings=ChatSettings(
            system="Be short.",
            sampling=Sampling(temperature=0.1, logit_bias=((1, 2.0),)),
            thinking=Thinking(budget=5),
            stop=("a",),
        ),
    )


def test_a_whole_conversation_comes_back() -> None:
    made = rich()
    assert apply(Conversation(id=made.id), written(list(all_records(made)))) == made


def test_a_growing_answer_is_written_once() -> None:
    asked = conversation("Why?")
    grown = asked.with_message(answer("Be"), after=asked.leaf)
    kept, size = grown, 0
    for length in range(3, 1000):
        now = grown.with_changed(replace(grown.messages[1], text="Because " * 200, reasoning="r"))
        now = now.with_changed(replace(now.messages[1], text=now.messages[1].text[:length]))
        records = list(changes(kept, now, kept))
        assert [type(each) for each in records] == ([GrowthRecord] if length > 2 else [])
        size += len(records[0].text) if isinstance(records[0], GrowthRecord) else 0
        kept = apply(kept, written(records))
        assert kept == now
    assert size == 997
    ended = kept.with_changed(replace(kept.messages[1], ending=Ending.STOPPED))
    assert [type(each) for each in changes(kept, ended, kept)] == [MessageRecord]


def test_nothing_is_written_of_what_did_not_change() -> None:
    made = rich()
    assert list(changes(made, made, made)) == []


def test_two_windows_keep_what_both_wrote_and_erased() -> None:
    start = conversation("one", "two")
    mine = start.with_message(question("mine"), after=start.leaf)
    theirs = start.without(start.messages[1].id).with_message(
        question("theirs"), after=start.messages[0].id
    )
    kept = apply(start, written(list(changes(start, theirs, start))))
    kept = apply(kept, written(list(changes(start, mine, kept))))
    assert {each.text for each in kept.messages} == {"one", "theirs", "mine"}
    assert [each.text for each in kept.path()][-1] == "mine"


def test_a_title_of_another_window_stays_when_a_question_is_asked_here() -> None:
    start = conversation("one", "two")
    kept = apply(start, list(changes(start, replace(start, title="Renamed", pinned=True), start)))
    mine = start.with_message(question("mine", at_s=9), after=start.leaf)
    kept = apply(kept, written(list(changes(start, mine, kept))))
    assert (kept.title, kept.pinned, kept.updated_s, kept.leaf) == ("Renamed", True, 9, mine.leaf)


def test_half_a_surrogate_pair_does_not_stop_the_writing() -> None:
    made = conversation("a\ud800b \U0001f600", "fine")
    kept = apply(Conversation(id=made.id), written(list(all_records(made))))
    assert kept.messages[0].text == "a?b \U0001f600"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("qavdert"), st.integers(0, 9)), max_size=12))
def test_every_change_is_kept(steps: list[tuple[str, int]]) -> None:
    now = kept = Conversation()
    for step, number in steps:
        before = now
        ids = [each.id for each in now.messages]
        chosen = ids[number % len(ids)] if ids else None
        match step:
            case "q" | "a":
                made = question("q") if step == "q" else answer("a" * number)
                now = now.with_message(made, after=now.leaf)
            case "v":
                parent = now.message(chosen).parent if chosen else None
                now = now.with_message(answer("v"), after=parent)
            case "d" if chosen:
                now = now.without(chosen)
            case "e" if chosen:
                now = now.showing(chosen)
            case "r" if chosen:
                changed = replace(now.message(chosen), text="x" * number, remark="r")
                now = now.with_changed(changed)
            case _:
                now = replace(now, title=f"t{number}", settings=ChatSettings(preset=str(number)))
        kept = apply(kept, written(list(changes(before, now, kept))))
        assert replace(kept, id=now.id) == now


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 6)), max_size=8))
def test_messages_from_anywhere_make_a_tree(pairs: list[tuple[int, int | None]]) -> None:
    messages = tuple(
        replace(question("q"), id=str(own), parent=None if parent is None else str(parent))
        for own, parent in pairs
    )
    made = connected(messages, "3")
    for each in made.messages:
        assert made.showing(each.id).path()
    made.path()
