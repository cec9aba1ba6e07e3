"""Thinking is switched on and off where a template can, and ends at its budget where it cannot."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.messages import (
    Effort,
    Finished,
    GenerateRequest,
    Message,
    Reasoning,
    Role,
    Sampling,
    Thinking,
    Token,
    Tool,
    ToolChoice,
    ToolMode,
)
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.prompt_builder import PromptBuilder
from localllm.engine.worker.prompt.thinking import ThinkingPlan
from localllm.errors import BadRequest
from tests.engine.stepped_scheduler import SteppedScheduler, settings
from tests.engine.tool_formats import TEMPLATES

QUESTION = Message(role=Role.USER, content="Why?")
WRITE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
OFF, ON = Thinking(enabled=False), Thinking(enabled=True)
OPENS = WRITE + "<think>\n"
HARD_SWITCH = WRITE + "{% if enable_thinking is false %}<think></think>{% endif %}"
OFF_BY_DEFAULT = WRITE + "{% if thinking %}<think>{% else %}</think>{% endif %}"
MODE = WRITE + "{% if thinking_mode == 'disabled' %}</think>{% else %}<think>{% endif %}"
WORD = (
    "{% set ns = namespace(on=true) %}{% for m in messages %}{% if '/no_think' in m.content %}"
    "{% set ns.on = false %}{% endif %}[{{ m.role }}]{{ m.content | replace('/no_think', '') }}"
    "{% endfor %}[assistant]{% if not ns.on %}<think></think>{% endif %}"
)
PASTED_EFFORT = "Reasoning: {{ reasoning_effort | default('medium') }} <think>" + WRITE
STRICT_EFFORT = (
    "{% if reasoning_effort not in ['high', 'low', 'no_think'] %}{{ raise_exception('which?') }}"
    "{% endif %}{{ reasoning_effort }}<think>" + WRITE
)
MAX_ONLY = "{% if reasoning_effort == 'max' %}Think hard.{% endif %}<think>" + WRITE


def plan(source: str, thinking: Thinking, **given: object) -> ThinkingPlan:
    return ChatTemplate(source).thinking.plan(thinking, given)


@pytest.mark.parametrize(
    ("source", "on", "off"),
    [
        (HARD_SWITCH, {"enable_thinking": True}, {"enable_thinking": False}),
        (OFF_BY_DEFAULT, {"thinking": True}, {"thinking": False}),
        (MODE, {"thinking_mode": "enabled"}, {"thinking_mode": "disabled"}),
        (OPENS, {}, {}),
    ],
)
def test_a_template_is_given_the_switch_that_it_reads(
    source: str, on: dict[str, object], off: dict[str, object]
) -> None:
    assert plan(source, ON) == ThinkingPlan(options=on)
    assert plan(source, OFF) == ThinkingPlan(options=off, budget=0, off=True)
    assert plan(source, Thinking()) == ThinkingPlan()


def test_a_word_in_the_system_message_is_used_where_the_template_looks_for_it() -> None:
    template = ChatTemplate(WORD)
    off = template.thinking.plan(OFF, {})
    assert off.word == "/no_think"
    assert template.render(off.with_word([QUESTION])).endswith("[assistant]<think></think>")
    system = Message(role=Role.SYSTEM, content="Be brief.")
    assert off.with_word([system, QUESTION])[0].content == "Be brief.\n/no_think"
    assert plan("no_think <think>" + WRITE, OFF).word is None


@pytest.mark.parametrize(
    ("effort", "source", "options", "budget"),
    [
        (Effort.LOW, PASTED_EFFORT, {"reasoning_effort": "low"}, None),
        (Effort.MINIMAL, PASTED_EFFORT, {"reasoning_effort": "low"}, None),
        (Effort.XHIGH, PASTED_EFFORT, {"reasoning_effort": "high"}, None),
        (Effort.LOW, OPENS, {}, 1024),
        (Effort.MINIMAL, OPENS, {}, 512),
        (Effort.MEDIUM, OPENS, {}, 8192),
        (Effort.HIGH, OPENS, {}, None),
        (Effort.XHIGH, MAX_ONLY, {"reasoning_effort": "max"}, None),
        (Effort.LOW, MAX_ONLY, {"reasoning_effort": "low"}, 1024),
        (Effort.LOW, OFF_BY_DEFAULT, {"thinking": True}, 1024),
        (Effort.MINIMAL, OFF_BY_DEFAULT, {}, 512),
    ],
)
def test_an_effort_is_the_template_s_word_or_a_budget(
    effort: Effort, source: str, options: dict[str, object], budget: int | None
) -> None:
    expected = ThinkingPlan(options=options, budget=budget)
    assert plan(source, Thinking(effort=effort)) == expected


def test_an_effort_that_a_template_refuses_is_not_given_to_it() -> None:
    assert plan(STRICT_EFFORT, Thinking(effort=Effort.MEDIUM)).options == {
        "reasoning_effort": "high"
    }
    assert plan(STRICT_EFFORT, OFF).options == {"reasoning_effort": "no_think"}


def test_variables_of_the_request_come_before_the_switch() -> None:
    assert plan(HARD_SWITCH, OFF, enable_thinking=True).options == {"enable_thinking": True}
    given = plan(OFF_BY_DEFAULT, Thinking(), enable_thinking=True)
    assert given.options == {"thinking": True, "enable_thinking": True}
    assert plan(OPENS, Thinking(), enable_thinking=False).off


def test_a_model_that_cannot_think_ignores_it_and_says_so_when_it_was_told_to() -> None:
    assert plan(WRITE, Thinking(effort=Effort.LOW)).options == {}
    assert plan(WRITE, Thinking(effort=Effort.LOW)).warnings == ()
    assert "knows no thinking" in plan(WRITE, ON).warnings[0]


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("Qwen-Qwen3-0.6B", "<|im_start|>assistant\n", "<think>\n\n</think>\n\n"),
        ("deepseek-ai-DeepSeek-V3.1", "<think>", "</think>"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "<think>\n", "<think>\n</think>"),
        ("google-gemma-4-31B-it", "<|turn>model\n", "<|channel>thought\n<channel|>"),
    ],
)
def test_real_templates_end_as_they_should(name: str, on: str, off: str) -> None:
    template = ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))

    def prompt(thinking: Thinking) -> str:
        options = template.thinking.plan(thinking, {}).options
        text = template.render_answer((QUESTION,), options=options).text
        return template.with_reasoning_closed(text) if thinking is OFF else text

    assert prompt(ON).endswith(on)
    assert prompt(OFF).endswith(off)


def test_gpt_oss_has_a_low_effort_for_off() -> None:
    template = ChatTemplate((TEMPLATES / "openai-gpt-oss-120b.jinja").read_text(encoding="utf-8"))
    off = template.thinking.plan(OFF, {})
    assert off == ThinkingPlan(options={"reasoning_effort": "low"}, budget=0, off=True)


# --- an answer that goes on with a text ---


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_a_real_template_ends_with_the_answer_that_is_to_go_on(path: Path) -> None:
    template = ChatTemplate(path.read_text(encoding="utf-8"))
    begun = Message(role=Role.ASSISTANT, content="It is because ")
    fitted = template.fit((QUESTION, begun)).messages
    assert template.render_answer(fitted, continues=True).text.endswith("It is because ")


def test_reasoning_that_has_begun_goes_on() -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}<think>"
        "{{ m.reasoning_content | trim }}</think>{% endif %}{{ m.content }}<end>{% endfor %}"
    )
    begun = Message(role=Role.ASSISTANT, content="", reasoning="Let me ")
    answer = ChatTemplate(source).render_answer((QUESTION, begun), continues=True)
    assert answer.text.endswith("[assistant]<think>Let me ")
    # Where the template leaves reasoning out, its tags are written around it.
    answer = ChatTemplate(OPENS).render_answer((QUESTION, begun), continues=True)
    assert answer.text.endswith("[assistant]<think>Let me ")


# --- the budget, on a real vocabulary ---


@pytest.fixture(scope="module")
def starter(shallow_smollm2: Path) -> Iterator[SteppedScheduler]:
    stepped = SteppedScheduler(shallow_smollm2, settings(context=512))
    yield stepped
    stepped.close()


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
HARMONY_LIKE = CHATML + "{# <|start|> <|channel|> <|message|> #}<|channel|>analysis<|message|>"
_requests = iter(range(10**6))


def answer(
    stepped: SteppedScheduler, source: str, thinking: Thinking, **fields: object
) -> tuple[str, str, int]:
    """The reasoning, the text, and the number of tokens of the reasoning."""
    request = GenerateRequest(
        request_id=f"r{next(_requests)}",
        messages=(QUESTION,),
        sampling=Sampling(temperature=0),
        max_tokens=40,
        thinking=thinking,
        **fields,  # type: ignore[arg-type]
    )
    vocab = stepped.model.vocab
    prompt = PromptBuilder(vocab, ChatTemplate(source), context=512).build(request)
    start = len(stepped.events)
    stepped.scheduler.submit(request, prompt, 0.0)
    stepped.run()
    events = stepped.events[start:]
    reasoning = "".join(e.text for e in events if isinstance(e, Reasoning))
    text = "".join(e.text for e in events if isinstance(e, Token))
    finished = next(e for e in reversed(events) if isinstance(e, Finished))
    return reasoning, text, finished.reasoning_tokens


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8])
def test_the_reasoning_ends_after_so_many_tokens(starter: SteppedScheduler, budget: int) -> None:
    free, _, _ = answer(starter, CHATML + "<think>\n", Thinking())
    cut, text, tokens = answer(starter, CHATML + "<think>\n", Thinking(budget=budget))
    vocab = starter.model.vocab
    closing = vocab.tokenize("\n</think>\n\n", special=True, ends=False)
    assert budget <= tokens <= budget + len(closing)
    assert len(vocab.tokenize(cut, special=False, ends=False)) <= budget
    assert free.startswith(cut)
    assert len(cut) < len(free)
    assert text.strip()


def test_a_budget_of_none_opens_no_reasoning(starter: SteppedScheduler) -> None:
    for thinking in (Thinking(budget=0), OFF):
        reasoning, text, tokens = answer(starter, CHATML + "<think>\n", thinking)
        assert (reasoning, tokens) == ("", 0)
        assert text.strip()


def test_a_large_budget_changes_nothing(starter: SteppedScheduler) -> None:
    source = CHATML + "<think>\n"
    assert answer(starter, source, Thinking(budget=10_000)) == answer(starter, source, Thinking())


def test_each_of_several_answers_has_its_own_budget(starter: SteppedScheduler) -> None:
    start = len(starter.events)
    answer(starter, CHATML + "<think>\n", Thinking(budget=4), n=3)
    ends = [event for event in starter.events[start:] if isinstance(event, Finished)]
    assert len(ends) == 3
    assert len({end.reasoning_tokens for end in ends}) == 1
    assert ends[0].reasoning_tokens < 20


def test_harmony_s_reasoning_ends_with_the_channel_of_the_answer(
    starter: SteppedScheduler,
) -> None:
    source = CHATML + "{# <|start|> #}<|channel|>analysis<|message|>"
    reasoning, text, _ = answer(starter, source, Thinking(budget=5))
    assert "<|" not in reasoning + text
    assert text.strip()


def test_a_forced_call_follows_the_end_of_the_reasoning(starter: SteppedScheduler) -> None:
    tools = {"tools": (Tool(name="now"),), "tool_choice": ToolChoice(mode=ToolMode.REQUIRED)}
    source = CHATML + "{# <tool_call> arguments #}<think>\n"
    start = len(starter.events)
    answer(starter, source, Thinking(budget=5), **tools)
    kinds = [type(event).__name__ for event in starter.events[start:]]
    assert "ToolCallBegan" in kinds
    assert kinds.index("Reasoning") < kinds.index("ToolCallBegan")


def test_the_range_of_a_budget_is_checked() -> None:
    from localllm.engine.messages.validation import check_generate

    request = GenerateRequest(request_id="a", messages=(QUESTION,))
    with pytest.raises(BadRequest, match="thinking: budget is -1"):
        check_generate(replace(request, thinking=Thinking(budget=-1)))
