from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.conversation import Attachment, ChatMessage, Conversation, Ending
from localllm.chat.request import AnswerBuilder, engine_messages, generate_request
from localllm.chat.settings import ChatSettings
from localllm.engine.messages import (
    Finished,
    FinishReason,
    GrammarKind,
    Reasoning,
    Role,
    Timings,
    Token,
    ToolCallArguments,
    ToolCallBegan,
)


def question(text: str) -> ChatMessage:
    return ChatMessage(role=Role.USER, text=text)


def answer(text: str, ending: Ending = Ending.COMPLETE) -> ChatMessage:
    return ChatMessage(role=Role.ASSISTANT, text=text, ending=ending)


def grown(*messages: ChatMessage) -> Conversation:
    conversation = Conversation()
    for message in messages:
        conversation = conversation.with_message(message, after=conversation.leaf)
    return conversation


def texts(conversation: Conversation) -> list[str]:
    return [message.text for message in conversation.path()]


def test_an_answer_again_is_a_version_and_the_old_one_comes_back() -> None:
    first = answer("one")
    conversation = grown(question("q"), first, question("and?"), answer("more"))
    parent = conversation.message(first.id).parent
    again = conversation.with_message(answer("two"), after=parent)
    assert texts(again) == ["q", "two"]
    assert [each.text for each in again.versions(first.id)] == ["one", "two"]
    assert texts(again.showing(first.id)) == ["q", "one", "and?", "more"]


def test_an_edited_question_is_a_version_at_the_beginning_too() -> None:
    conversation = grown(question("q"), answer("a"))
    edited = conversation.with_message(question("Q"), after=None)
    assert texts(edited) == ["Q"]
    assert len(edited.messages) == 3


def test_without_removes_what_is_behind_and_shows_another_version() -> None:
    first = answer("one")
    conversation = grown(question("q"), first, question("and?"))
    again = conversation.with_message(answer("two"), after=conversation.message(first.id).parent)
    assert texts(again.showing(first.id).without(first.id)) == ["q", "two"]
    assert texts(again.without(first.id)) == ["q", "two"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30))
def test_no_step_loses_a_message(steps: list[tuple[int, bool]]) -> None:
    conversation = Conversation()
    for number, (at, show) in enumerate(steps):
        ids = [None, *(each.id for each in conversation.messages)]
        place = ids[at % len(ids)]
        if show and place is not None:
            conversation = conversation.showing(place)
            assert place in [each.id for each in conversation.path()]
        else:
            conversation = conversation.with_message(question(str(number)), after=place)
        path = conversation.path()
        assert [each.parent for each in path] == [None, *(each.id for each in path[:-1])][
            : len(path)
        ]
    added = sum(not (show and number) for number, (_, show) in enumerate(steps))
    assert len(conversation.messages) <= added + len(steps)


def test_a_question_without_an_answer_is_not_sent_again() -> None:
    broken = grown(question("lost"), answer("", Ending.BROKEN), question("next"))
    assert [each.content for each in engine_messages(broken)] == ["next"]


def test_the_request_has_files_schema_and_system_prompt() -> None:
    asked = ChatMessage(
        role=Role.USER,
        text="What is this?",
        attachments=(
            Attachment(name="a.md", media_type="text/markdown", text="```x```"),
            Attachment(name="b.png", media_type="image/png", data=b"png"),
        ),
    )
    conversation = Conversation(
        settings=ChatSettings(system="Be brief.", json_schema='{"type": "object"}')
    ).with_message(asked, after=None)
    request = generate_request(conversation, request_id="r")
    assert request.messages is not None
    system, user = request.messages
    assert system.content == "Be brief."
    assert user.content == "a.md:\n````\n```x```\n````\n\nWhat is this?"
    assert [image.data for image in user.images] == [b"png"]
    assert request.grammar is not None
    assert request.grammar.kind is GrammarKind.JSON_SCHEMA


def test_the_builder_gathers_text_reasoning_calls_and_times() -> None:
    times = iter(range(100))
    builder = AnswerBuilder(model="m", created_s=1.0, clock=lambda: float(next(times)))
    finished = Finished(
        request_id="r",
        reason=FinishReason.STOP,
        prompt_tokens=5,
        completion_tokens=4,
        cached_tokens=2,
        timings=Timings(queue_s=0, ttft_s=0.5, total_s=1, prefill_tps=9, decode_tps=8),
        dropped_messages=4,
        reasoning_tokens=2,
    )
    for event in (
        Token(request_id="r", text=""),
        Reasoning(request_id="r", text="hm"),
        Token(request_id="r", text="yes"),
        ToolCallBegan(request_id="r", call=0, id="c", name="f"),
        ToolCallArguments(request_id="r", call=0, text="{}"),
    ):
        builder.feed(event)
    assert builder.message().ending is Ending.BROKEN
    builder.feed(finished)
    message = builder.message()
    assert (message.text, message.reasoning, message.left_out) == ("yes", "hm", 2)
    assert message.tool_calls[0].arguments == "{}"
    assert message.stats is not None
    assert (message.stats.cached_tokens, message.stats.reasoning_s) == (2, 1.0)
