"""Strict chat templates get conversations that they take, and nothing of a conversation is lost.

Set CHAT_TEMPLATES_DIR to a folder of `*.jinja` files (llama.cpp has one: models/templates) to run
the last tests over all of them.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.messages import Image, Message, Role, Tool, ToolCall
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.turns import StrictestRules, TurnRules, fit_turns
from localllm.errors import BadRequest
from tests.engine.tool_formats import TEMPLATES

WRITE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}{% endfor %}"
)
NEEDS_USER = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('No user query found in messages.') }}{% endif %}"
)
NO_EMPTY_ANSWER = (
    "{% for m in messages %}{% if m.role == 'assistant' and not m.content %}"
    "{{ raise_exception('Assistant message must have content') }}{% endif %}{% endfor %}"
)
FIRST_WINS = (  # later system messages are left out without a word
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}[{{ m.role }}]{{ m.content }}"
    "{% endif %}{% endfor %}[assistant]"
)
LAST_WINS = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.system = m.content %}{% endif %}{% endfor %}{{ ns.system }}"
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
SYSTEM_WITH_LAST_QUESTION = (
    "{% for m in messages %}{% if m.role != 'system' %}{% if loop.last and m.role == 'user' and "
    "messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}[{{ m.role }}]"
    "{{ m.content }}{% endif %}{% endfor %}"
)
STRICT = {
    "no system role": NO_SYSTEM + WRITE,
    "alternating, no system role": NO_SYSTEM + ALTERNATE + WRITE,
    "system first": SYSTEM_FIRST + WRITE,
    "system first, a user": SYSTEM_FIRST + NEEDS_USER + WRITE,
    "first system wins": FIRST_WINS,
    "last system wins": LAST_WINS,
    "system with the last question": SYSTEM_WITH_LAST_QUESTION,
    "no empty answer": NO_EMPTY_ANSWER + WRITE,
}


def system(text: str) -> Message:
    return Message(role=Role.SYSTEM, content=text)


def user(text: str) -> Message:
    return Message(role=Role.USER, content=text)


def assistant(text: str, *calls: str) -> Message:
    made = tuple(ToolCall(id=call, name="get_weather", arguments='{"c": "K"}') for call in calls)
    return Message(role=Role.ASSISTANT, content=text, tool_calls=made)


def result(text: str, call: str) -> Message:
    return Message(role=Role.TOOL, content=text, tool_call_id=call)


TOOLS = (Tool(name="get_weather", description="weather"),)
CONVERSATIONS = {
    "system first": (system("rule one"), user("ask one")),
    "two systems": (system("rule one"), system("rule two"), user("ask one")),
    "system in the middle": (user("ask one"), assistant("say one"), system("rule one"), user("x2")),
    "system twice": (
        system("rule one"), user("ask one"), assistant("say one"), system("rule two"), user("x2"),
    ),
    "system after the question": (user("ask one"), system("rule one")),
    "system last": (user("ask one"), assistant("say one"), system("rule one")),
    "system alone": (system("rule one"),),
    "user twice": (user("ask one"), user("ask two")),
    "assistant first": (assistant("say one"), user("ask one")),
    "assistant first, after a system": (system("rule one"), assistant("say one"), user("ask one")),
    "assistant twice": (user("ask one"), assistant("say one"), assistant("say two"), user("x2")),
    "assistant alone": (assistant("say one"),),
    "system and assistant": (system("rule one"), assistant("say one")),
    "system, to be continued": (system("rule one"), user("ask one"), assistant("say one")),
    "empty answer": (user("ask one"), assistant(""), user("ask two")),
}  # fmt: skip
WITH_CALLS = {
    "two calls": (
        user("ask one"), assistant("", "a", "b"), result("cold", "a"), result("warm", "b"),
    ),
    "the same ids again": (
        user("ask one"), assistant("", "a", "b"), result("cold", "a"), result("warm", "b"),
        assistant("say one"), user("ask two"),
        assistant("", "a", "b"), result("mild", "a"), result("wet", "b"),
    ),
    "user after a result": (
        user("ask one"), assistant("", "a"), result("cold", "a"), user("ask two"),
    ),
    "systems around a call": (
        system("rule one"), user("ask one"), system("rule two"), assistant("", "a"),
        system("rule three"), result("cold", "a"), system("rule four"), user("ask two"),
    ),
}  # fmt: skip


def rendered(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool] = ()
) -> str:
    return template.render(template.fit(messages, tools).messages, tools)


def assert_whole(text: str, messages: Sequence[Message]) -> None:
    for message in messages:
        if message.content:
            assert text.count(message.content) == 1, f"{message.content!r} in {text!r}"


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("source", STRICT.values(), ids=STRICT)
def test_a_strict_template_writes_every_text_of_a_conversation(
    source: str, conversation: tuple[Message, ...]
) -> None:
    assert_whole(rendered(ChatTemplate(source), conversation), conversation)


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_template_that_takes_everything_gets_it_unchanged(
    conversation: tuple[Message, ...],
) -> None:
    fitted = ChatTemplate(WRITE).fit(conversation)
    assert fitted.messages == conversation
    assert fitted.warnings == ()


@pytest.mark.parametrize(
    ("source", "conversation", "expected", "warning"),
    [
        (NO_SYSTEM + WRITE, "system first", "[user]rule one\n\nask one[assistant]",
         "has no system role: the system message was put before the first user message"),
        (SYSTEM_FIRST + WRITE, "two systems",
         "[system]rule one\n\nrule two[user]ask one[assistant]", "takes one system message: 2"),
        (SYSTEM_FIRST + WRITE, "system twice",
         "[system]rule one[user]ask one[assistant]say one[user]rule two\n\nx2[assistant]",
         "at the beginning only: 1 later one was put into user messages"),
        (SYSTEM_FIRST + WRITE, "system after the question",
         "[user]ask one\n\nrule one[assistant]", "at the beginning only"),
        (NO_SYSTEM + ALTERNATE + WRITE, "user twice", "[user]ask one\n\nask two[assistant]",
         "turns that alternate: 2 user messages in a row were joined"),
        (NO_SYSTEM + ALTERNATE + WRITE, "assistant first",
         "[user][assistant]say one[user]ask one[assistant]",
         "an empty user message was put before the first assistant message"),
        (SYSTEM_FIRST + NEEDS_USER + WRITE, "system alone", "[system]rule one[user][assistant]",
         "an empty user message was put before the answer"),
        (SYSTEM_WITH_LAST_QUESTION, "system, to be continued",
         "[user]rule one\n\nask one[assistant]say one", "that ends with an answer"),
        (NO_SYSTEM + NO_EMPTY_ANSWER + ALTERNATE + WRITE, "empty answer",
         "[user]ask one\n\nask two[assistant]", "1 empty ones were left out"),
    ],
)  # fmt: skip
def test_where_a_message_goes_and_what_the_answer_says_of_it(
    source: str, conversation: str, expected: str, warning: str
) -> None:
    template, messages = ChatTemplate(source), CONVERSATIONS[conversation]
    assert rendered(template, messages) == expected
    assert warning in " ".join(template.fit(messages).warnings)


def test_a_second_rendering_probes_nothing_again() -> None:
    template = ChatTemplate(NO_SYSTEM + WRITE)
    template.fit(CONVERSATIONS["system first"])
    template._accepts = None  # type: ignore[assignment, method-assign]
    assert template.fit(CONVERSATIONS["system first"]).warnings


def test_a_template_that_hangs_is_not_probed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localllm.engine.worker.prompt.chat_template.TIME_LIMIT_S", 0.1)
    hangs = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(BadRequest, match="was stopped"):
        ChatTemplate(hangs).fit(CONVERSATIONS["two systems"])


# --- rules of any kind ---

texts = st.text("abc", min_size=1, max_size=3)
turns = st.lists(
    st.one_of(texts.map(system), texts.map(user), texts.map(assistant), st.just(assistant(""))),
    min_size=1,
    max_size=8,
)


def alternates(messages: Sequence[Message]) -> bool:
    rest = messages[1:] if messages[0].role is Role.SYSTEM else messages
    wanted = [Role.USER, Role.ASSISTANT] * len(rest)
    return bool(rest) and [m.role for m in rest] == wanted[: len(rest)]


@given(turns)
def test_the_strictest_rules_give_turns_that_alternate(conversation: list[Message]) -> None:
    fitted = fit_turns(conversation, StrictestRules())
    assert alternates(fitted.messages)
    assert all(message.role is not Role.SYSTEM for message in fitted.messages)
    assert_all_words(conversation, fitted.messages)


@given(turns)
def test_turns_that_must_alternate_do_and_keep_every_word(conversation: list[Message]) -> None:
    fitted = fit_turns(conversation, TurnRules(alternates))
    assert alternates(fitted.messages)
    assert_all_words(conversation, fitted.messages)
    if tuple(conversation) != fitted.messages:
        assert fitted.warnings
    again = fit_turns(fitted.messages, TurnRules(alternates))
    assert again.messages == fitted.messages


def assert_all_words(before: Sequence[Message], after: Sequence[Message]) -> None:
    def words(messages: Sequence[Message]) -> list[str]:
        return sorted(word for each in messages for word in each.content.split("\n\n") if word)

    assert words(before) == words(after)


def test_images_stay_at_their_place_when_turns_are_joined() -> None:
    image = Image(data=b"x", offset=3)
    joined = fit_turns(
        [user("one"), replace(user("two three"), images=(image,))], TurnRules(alternates)
    ).messages
    (message,) = joined
    (moved,) = message.images
    assert message.content[moved.offset :] == " three"


# --- real templates ---


def real_templates() -> list[Path]:
    folder = os.environ.get("CHAT_TEMPLATES_DIR")
    return sorted(Path(folder).glob("*.jinja")) if folder else sorted(TEMPLATES.glob("*.jinja"))


def renders_a_question(template: ChatTemplate) -> bool:
    try:
        return "ask one" in template.render((user("ask one"),))
    except BadRequest:
        return False


@pytest.mark.parametrize("path", real_templates(), ids=lambda path: path.stem)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["plain", "tools"])
def test_a_real_template_writes_every_text_of_every_conversation(
    path: Path, tools: tuple[Tool, ...]
) -> None:
    template = ChatTemplate(path.read_text(encoding="utf-8"), bos_token="<s>", eos_token="</s>")
    if not renders_a_question(template):
        pytest.skip("it takes no conversation at all")
    for conversation in (*CONVERSATIONS.values(), *WITH_CALLS.values()):
        assert_whole(rendered(template, conversation, tools), conversation)
