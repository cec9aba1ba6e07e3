"""Titles, and the search in conversations."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.conversation import Attachment, Conversation
from localllm.chat.history.memory_store import MemoryStore
from localllm.chat.history.search import Query, excerpt, searchable
from localllm.chat.history.store import summary_of
from localllm.chat.history.titles import MAX_TITLE, title_from, title_of
from localllm.errors import NotFound
from tests.chat.history.conversations import answer, conversation, question


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ("Why is the sky blue?", "Why is the sky blue?"),
        ("\n\n  ## Plan\nmore", "Plan"),
        ("```python\nprint(1)\n```", "python"),
        ("1. first\n2. second", "first"),
        ("\x1b[31mred\x1b[0m sky", "red sky"),
        ("!!!", "!!!"),
        ("word " * 30, "word word word word word word word word word word word…"),
        ("x" * 100, "x" * 59 + "…"),
        ("", ""),
    ],
)
def test_a_title_is_the_beginning_of_the_question(asked: str, title: str) -> None:
    assert title_from(asked) == title


@given(st.text())
def test_every_title_is_one_short_line(asked: str) -> None:
    title = title_from(asked)
    assert len(title) <= MAX_TITLE
    assert "\n" not in title


def test_a_title_that_the_person_gave_wins_and_a_file_names_a_chat_without_words() -> None:
    made = conversation("Why?", "So.")
    assert title_of(replace(made, title="  My\x1b[2J title ")) == "My title"
    attached = replace(question(""), attachments=(Attachment(name="a.pdf", media_type="x"),))
    assert title_of(Conversation().with_message(attached, after=None)) == "a.pdf"
    assert title_of(Conversation()) == "Untitled"


def test_a_summary_counts_the_questions_that_are_shown_and_all_branches() -> None:
    made = conversation("one", "two", "three", "four")
    again = made.with_message(answer("other"), after=made.messages[2].id)
    summary = summary_of(again)
    assert (summary.questions, summary.branches) == (2, 2)
    assert summary_of(conversation("one")).branches == 1


@pytest.mark.parametrize("asked", ["SKY blue", "blue sky", "blu", "uber", "ÜBER", "strasse", ""])
def test_all_words_are_found_in_any_order_without_case_and_accents(asked: str) -> None:
    made = conversation("Why is the sky blue?", "Über der Straße, 空")
    assert Query.of(asked).matches(searchable(made))
    assert not Query.of("sky green").matches(searchable(made))
    assert Query.of("空").matches(searchable(made))


def test_an_excerpt_shows_the_words_around_the_first_find() -> None:
    made = conversation("Question", "ß " * 50 + "then the SKY\nturns red" + " and more" * 50)
    message_id, text = excerpt(made, Query.of("sky"))
    assert message_id == made.messages[1].id
    assert text.startswith("… ")
    assert "then the SKY turns red" in text
    assert text.endswith(" …")
    assert excerpt(replace(made, title="Stars"), Query.of("stars")) == (None, "")


@given(st.text(), st.text(min_size=1), st.text())
def test_whatever_is_written_is_found_again(before: str, word: str, after: str) -> None:
    made = conversation(before + word + after)
    query = Query.of(word)
    assert query.matches(searchable(made))
    excerpt(made, query)


def test_the_store_in_memory_keeps_lists_finds_and_forgets() -> None:
    store = MemoryStore()
    old, new = conversation("old sky", "yes", at_s=1), conversation("new sky", at_s=5)
    pinned = replace(conversation("pinned", at_s=0), pinned=True)
    for each in (old, new, pinned, Conversation()):
        store.save(each)
    assert [each.id for each in store.list()] == [pinned.id, new.id, old.id]
    assert [each.summary.id for each in store.search("SKY")] == [new.id, old.id]
    assert store.open(old.id) is old
    store.erase(old.id)
    store.save(old)
    with pytest.raises(NotFound):
        store.open(old.id)
