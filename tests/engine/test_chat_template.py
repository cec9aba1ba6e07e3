"""Chat templates are code from a file: what they may do, and how little else."""

import sys

import pytest

from localllm.engine.messages import Message, Role
from localllm.engine.worker.prompt import chat_template
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.errors import BadRequest

HELLO = (Message(role=Role.USER, content="Hello {{ 7 * 7 }}"),)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_conversation_is_rendered_and_its_text_is_not_executed() -> None:
    assert ChatTemplate(CHATML).render(HELLO) == (
        "<|im_start|>user\nHello {{ 7 * 7 }}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_templates_see_what_transformers_gives_them() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index0 % 2 == 0 %}{% continue %}"
        "{% endif %}{% endfor %}{{ {'a': 'é<>'} | tojson }}{{ strftime_now('%Y') | length }}"
    )
    assert ChatTemplate(source, bos_token="<s>").render(HELLO) == '<s>{"a": "é<>"}4'


def test_a_template_may_refuse_a_conversation_in_its_own_words() -> None:
    with pytest.raises(BadRequest, match="only user and assistant roles"):
        ChatTemplate("{{ raise_exception('only user and assistant roles') }}").render(HELLO)


@pytest.mark.parametrize(
    "attack",
    [
        # CVE-2024-34359: server-side template injection through a model's metadata.
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ ['{0.__class__.__init__.__globals__}'] | map('format', messages) | list }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        # Huge values from small ones.
        "{{ 'a' * 10000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a'.zfill(10000000000) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a' | indent(10000000000, true) }}",
        "{% for i in range(10000000000) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ undefined_thing.x.y }}",
        "{{ 1 / 0 }}",
        "{% include 'secret' %}",
        "{% import 'os' as os %}",
        "{{ messages[99].content }}",
        "{% set x = namespace(v=7) %}{% for i in range(70) %}{% set x.v = x.v * x.v %}{% endfor %}",
    ],
)
def test_an_attack_is_a_bad_request(attack: str) -> None:
    with pytest.raises(BadRequest):
        ChatTemplate(attack).render(HELLO)


@pytest.mark.parametrize(
    "attack",
    [
        # CVE-2024-56326: a stored reference to str.format.
        "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
        # CVE-2025-27516: |attr gets at format.
        "{{ ('{0.__class__}' | attr('format'))(messages) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
    ],
)
def test_an_attack_that_is_not_refused_learns_nothing(attack: str) -> None:
    assert ChatTemplate(attack).render(HELLO) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
@pytest.mark.parametrize(
    "grow", ["x.v ~ x.v", "x.v + x.v", "x.v.replace('a', 'aa')", "[x.v, x.v] | join"]
)
def test_a_string_that_doubles_for_ever_is_a_bad_request(grow: str) -> None:
    source = (
        "{% set x = namespace(v='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"
        f"{{% set x.v = {grow} %}}{{% endfor %}}"
    )
    with pytest.raises(BadRequest):
        ChatTemplate(source).render(HELLO)


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "TIME_LIMIT_S", 0.2)
    loop = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    with pytest.raises(BadRequest, match="was stopped"):
        ChatTemplate(loop).render(HELLO)
    assert ChatTemplate(CHATML).render(HELLO)  # and the next one is not hit by the late timer


def test_a_template_that_writes_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_RENDERED_CHARS", 1000)
    with pytest.raises(BadRequest, match="more than 1000 characters"):
        ChatTemplate("{% for i in range(9999) %}xx{% endfor %}").render(HELLO)


@pytest.mark.parametrize("source", ["{% if %}", "{{", "{% endfor %}", "x" * (512 * 1024 + 1)])
def test_a_template_that_does_not_compile_is_a_bad_request(source: str) -> None:
    with pytest.raises(BadRequest):
        ChatTemplate(source)


SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""As SmolVLM publishes it: a content is a list of parts, and never a text."""


def test_a_template_that_takes_content_parts_only_is_given_parts() -> None:
    turns = (Message(role=Role.USER, content="What is <here>?"),)
    assert ChatTemplate(SMOLVLM).render(turns) == (
        "<|im_start|>User: What is <here>?<end_of_utterance>\nAssistant:"
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages }}\n{{ messages[0].nothing.at_all }}",
        "\n{{ messages[0].content + 1 }}",
        "\n{% for a, b in messages[0].content|items %}{% endfor %}",
        "\n{{ messages[0].content.nothing() }}",
        "\n{{ 1 // 0 }}",
    ],
)
def test_a_failing_template_is_said_in_words_for_people(source: str) -> None:
    with pytest.raises(BadRequest, match="failed on this conversation, in its line 2") as raised:
        ChatTemplate(source).render([Message(role=Role.USER, content="hi")])
    for word in ("object", "Error", "NoneType", "undefined", "str"):
        assert word not in str(raised.value)
