"""How a chat template is made to think more, less or not at all. Pure.

Templates do it by variables (`enable_thinking`, `thinking`, `reasoning_effort`, ...) or by a word
in the system message (`/no_think`). Which ones a template reads is found by rendering one question
with both values: a variable that changes nothing is none of its own. What a template cannot do,
the engine does: it ends the reasoning after so many tokens (`parsing/reasoning_budget.py`).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from localllm.engine.messages import Effort, Message, Role, Thinking
from localllm.engine.worker.prompt.template_messages import TemplateTooSlow
from localllm.errors import BadRequest

Options = Mapping[str, object]
"""Variables of a template, and their values."""

Render = Callable[[Sequence[Message], Options], str]
"""Render messages. Raises BadRequest when the template refuses them."""

EFFORT_BUDGETS = {Effort.MINIMAL: 512, Effort.LOW: 1024, Effort.MEDIUM: 8192}
"""Tokens of reasoning where the template does not know the effort; a higher one has no limit. Low
and medium as Google maps them for Gemini (ai.google.dev/gemini-api/docs/openai, 2025)."""

_SWITCHES: tuple[tuple[str, object, object], ...] = (
    ("enable_thinking", True, False),  # Qwen 3, GLM, SmolLM3, Gemma 4 ...
    ("thinking", True, False),  # Granite 3.3, Kimi K3
    ("reasoning", True, False),  # Command A Reasoning
    ("thinking_mode", "enabled", "disabled"),  # MiniMax M3
    ("thinking_budget", -1, 0),  # Seed-OSS
    ("reasoning_effort", "high", "no_think"),  # Hunyuan 3
    ("reasoning_effort", "high", "none"),
)
"""Variables of published templates with their values for on and off, the most usual first."""

_EFFORT_NAMES = ("reasoning_effort", "thinking_effort")
_EFFORT_VALUES = {
    Effort.MINIMAL: ("minimal", "low"),
    Effort.LOW: ("low", "minimal"),
    Effort.MEDIUM: ("medium", "high", "low"),
    Effort.HIGH: ("high", "max"),
    Effort.XHIGH: ("xhigh", "max", "high"),
}
"""Names that templates have for an effort, the nearest first."""

_USUAL_EFFORTS = ("low", "medium", "high")
"""What every template with an effort knows, also one that does not name them (gpt-oss)."""

_ON_WORD, _OFF_WORD = "/think", "/no_think"
_QUESTION = Message(role=Role.USER, content="probed question")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingPlan:
    """What is done to think as a request wants it.

    `options` are the template's variables, `word` one for the system message. `budget`: tokens of
    reasoning after which the engine ends it. `off`: no reasoning at all.
    """

    options: Options = field(default_factory=dict)
    word: str | None = None
    budget: int | None = None
    off: bool = False
    warnings: tuple[str, ...] = ()

    def with_word(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages with the word in the first system message."""
        if self.word is None:
            return messages
        if messages and messages[0].role is Role.SYSTEM:
            first = messages[0]
            text = f"{first.content}\n{self.word}"
            return (replace(first, content=text), *messages[1:])
        return (Message(role=Role.SYSTEM, content=self.word), *messages)


class ThinkingSwitches:
    """The switches of one template, each probed when a request first needs it."""

    def __init__(self, render: Render, source: str, *, reasons: bool) -> None:
        """`reasons`: the engine knows where the model's reasoning begins and ends."""
        self._render = render
        self._source = source
        self._reasons = reasons

    def plan(self, thinking: Thinking, given: Options) -> ThinkingPlan:
        """Plan a request's thinking. `given` are variables that the request sets itself."""
        enabled = _enabled(thinking, given)
        if enabled is None and thinking.effort is None and thinking.budget is None:
            return ThinkingPlan(options=given)
        if enabled is False:
            return self._off(given)
        options: dict[str, object] = {}
        warnings: tuple[str, ...] = ()
        if enabled and self._switch is not None:
            options[self._switch[0]] = self._switch[1]
        elif enabled and not self._reasons and thinking.enabled:
            warnings = ("The model's chat template knows no thinking: the switch has no effect.",)
        budget = thinking.budget
        if thinking.effort is not None:
            value = self._effort_values.get(thinking.effort)
            if value is not None:
                options[self._effort_name] = value
            if budget is None and not self._is_graded(thinking.effort):
                budget = EFFORT_BUDGETS.get(thinking.effort)
        if budget is not None and self._switch is not None and self._switch[0] == "thinking_budget":
            options["thinking_budget"] = budget
        word = _ON_WORD if enabled and self._switch is None and self._has_word else None
        return ThinkingPlan(
            options={**options, **given}, word=word, budget=budget, warnings=warnings
        )

    def _off(self, given: Options) -> ThinkingPlan:
        options: dict[str, object] = {}
        if self._switch is not None:
            options[self._switch[0]] = self._switch[2]
        elif self._effort_name and Effort.MINIMAL in self._effort_values:
            options[self._effort_name] = self._effort_values[Effort.MINIMAL]
        word = _OFF_WORD if self._switch is None and self._has_word else None
        return ThinkingPlan(options={**options, **given}, word=word, budget=0, off=True)

    @functools.cached_property
    def _switch(self) -> tuple[str, object, object] | None:
        for name, on, off in _SWITCHES:
            if isinstance(off, str) and not self._quotes(off):
                continue
            with_on, with_off = self._try({name: on}), self._try({name: off})
            if with_on and with_off and with_on != with_off:
                return name, on, off
        return None

    @functools.cached_property
    def _has_word(self) -> bool:
        """True for a template that looks for `/no_think` in the system message."""
        if _OFF_WORD not in self._source:
            return False

        def rendered(word: str) -> str:
            system = Message(role=Role.SYSTEM, content=f"probed rule {word}")
            return self._try({}, (system, _QUESTION)).replace(_OFF_WORD, "").replace(_ON_WORD, "")

        with_on, with_off = rendered(_ON_WORD), rendered(_OFF_WORD)
        return bool(with_on and with_off) and with_on != with_off

    @functools.cached_property
    def _efforts(self) -> tuple[str, dict[str, str]]:
        """The name of the template's variable for the effort, and what it renders for each value
        that it knows; "" for a template without."""
        names = dict.fromkeys(name for names in _EFFORT_VALUES.values() for name in names)
        on = {} if self._switch is None else {self._switch[0]: self._switch[1]}
        for variable in _EFFORT_NAMES:
            if variable not in self._source:
                continue
            known = [name for name in names if name in _USUAL_EFFORTS or self._quotes(name)]
            texts = {name: self._try({**on, variable: name}) for name in known}
            texts = {name: text for name, text in texts.items() if text}
            if len(set(texts.values())) > 1:
                return variable, texts
        return "", {}

    @property
    def _effort_name(self) -> str:
        return self._efforts[0]

    @functools.cached_property
    def _effort_values(self) -> dict[Effort, str]:
        known = self._efforts[1]
        found = {
            effort: next((name for name in names if name in known), None)
            for effort, names in _EFFORT_VALUES.items()
        }
        return {effort: name for effort, name in found.items() if name is not None}

    def _is_graded(self, effort: Effort) -> bool:
        """Tell whether the template tells this effort from a high one."""
        texts, values = self._efforts[1], self._effort_values
        if effort not in values or Effort.HIGH not in values:
            return False
        return texts[values[effort]] != texts[values[Effort.HIGH]]

    def _quotes(self, text: str) -> bool:
        return re.search(f"(['\"]){re.escape(text)}\\1", self._source) is not None

    def _try(self, options: Options, messages: Sequence[Message] = (_QUESTION,)) -> str:
        try:
            return self._render(messages, options)
        except TemplateTooSlow:
            raise
        except BadRequest:
            return ""


def _enabled(thinking: Thinking, given: Options) -> bool | None:
    """Return whether to think: None as the model does by itself."""
    if thinking.enabled is not None:
        return thinking.enabled and thinking.budget != 0
    for name in ("enable_thinking", "thinking"):
        if isinstance(value := given.get(name), bool):
            return value
    if thinking.budget == 0:
        return False
    effort = thinking.effort
    return True if effort is not None and effort is not Effort.MINIMAL else None
