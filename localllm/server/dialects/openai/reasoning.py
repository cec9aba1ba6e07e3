"""The fields of a request that steer the model's thinking, under the names of many servers.

`reasoning_effort` is OpenAI's, `reasoning` OpenRouter's, `thinking` that of Anthropic and DeepSeek,
`think` Ollama's; `enable_thinking` and `thinking_budget` are Qwen's, `chat_template_kwargs` is that
of vLLM and llama-server. They come together as one `Thinking`; two that contradict each other are
an error.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Effort, Thinking
from localllm.engine.messages.limits import (
    MAX_TEMPLATE_OPTIONS,
    MAX_TEMPLATE_OPTIONS_CHARS,
    RESERVED_TEMPLATE_OPTIONS,
    ranges_of,
)
from localllm.server.schema import (
    WHOLE,
    RequestModel,
    also_named,
    field_error,
    in_range,
    minus_one_is,
)

T = TypeVar("T")

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default", "auto"]
"""OpenAI's; `max` is that of llama-server and Anthropic, `default` and `auto` leave it open."""

Budget = Annotated[
    Annotated[int, in_range(ranges_of(Thinking)["budget"]), WHOLE] | None, minus_one_is(None)
]
"""Tokens of reasoning; -1 is any number of them, as in llama-server."""


def _switch(value: object) -> object:
    """Read a switch: on, off, an effort, or an object that says more."""
    if isinstance(value, bool):
        return {"enabled": value}
    return {"effort": value} if isinstance(value, str) else value


class ReasoningOptions(RequestModel):
    """`exclude`: the model thinks, and the answer leaves it out. What a summary is to be like, or
    how much of earlier reasoning is read, changes nothing: the chat template decides that."""

    effort: EffortName | None = None
    summary: object = None
    generate_summary: object = None
    context: object = None
    mode: object = None
    max_tokens: Budget = None
    enabled: bool | None = None
    exclude: bool | None = None


class ThinkingOptions(RequestModel):
    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Budget = None


def _thinking(value: object) -> object:
    if isinstance(value, bool):
        return {"type": "enabled" if value else "disabled"}
    return value


class ReasoningFields(RequestModel):
    """See the module. Each field alone is enough."""

    reasoning_effort: EffortName | None = None
    reasoning: Annotated[ReasoningOptions | None, BeforeValidator(_switch)] = None
    thinking: Annotated[ThinkingOptions | None, BeforeValidator(_thinking)] = None
    think: Annotated[ReasoningOptions | None, BeforeValidator(_switch)] = None
    enable_thinking: bool | None = None
    reasoning_budget: Annotated[
        Budget,
        also_named(
            "reasoning_budget", "thinking_budget", "reasoning_budget_tokens",
            "thinking_budget_tokens", "thinking_token_budget",
        ),
    ] = None  # fmt: skip
    include_reasoning: bool | None = None
    chat_template_kwargs: (
        dict[Annotated[str, Field(min_length=1, max_length=64)], object] | None
    ) = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _bounded(cls, value: dict[str, object] | None) -> dict[str, object] | None:
        if value is None:
            return None
        if len(value) > MAX_TEMPLATE_OPTIONS:
            raise field_error(
                "invalid_value", "holds more than {most} variables", most=MAX_TEMPLATE_OPTIONS
            )
        if not all(name.isidentifier() for name in value):
            raise field_error("invalid_value", "needs names of letters, digits and _ as its keys")
        if RESERVED_TEMPLATE_OPTIONS & value.keys():
            raise field_error("invalid_value", "sets a variable that is the server's own")
        if len(json.dumps(value)) > MAX_TEMPLATE_OPTIONS_CHARS:
            raise field_error(
                "invalid_value",
                "holds more than {most} characters",
                most=MAX_TEMPLATE_OPTIONS_CHARS,
            )
        return value

    @field_validator("reasoning", "thinking", "think", "enable_thinking", "reasoning_budget")
    @classmethod
    def _agree(cls, value: T, info: ValidationInfo) -> T:
        fields = {**info.data, str(info.field_name): value}
        if len(set(_switches(fields))) > 1:
            raise field_error("invalid_value", "contradicts a field that switches thinking")
        if len(set(_budgets(fields))) > 1:
            raise field_error("invalid_value", "is not the budget of thinking in another field")
        return value

    @property
    def hides_reasoning(self) -> bool:
        """True when the answer leaves the reasoning out."""
        return self.include_reasoning is False or bool(self.reasoning and self.reasoning.exclude)

    @property
    def wished_thinking(self) -> Thinking:
        """What all fields say together."""
        fields = self.__dict__
        effort = next((each for each in _efforts(fields) if each not in _NO_EFFORT), None)
        return Thinking(
            enabled=next(iter(_switches(fields)), None),
            effort=None if effort is None else Effort("xhigh" if effort == "max" else effort),
            budget=next(iter(_budgets(fields)), None),
        )

    @property
    def template_options(self) -> str:
        return json.dumps(self.chat_template_kwargs or {}, ensure_ascii=False)


_NO_EFFORT = ("none", "default", "auto")


def _options(fields: Mapping[str, object]) -> list[ReasoningOptions]:
    found = (fields.get("reasoning"), fields.get("think"))
    return [each for each in found if isinstance(each, ReasoningOptions)]


def _efforts(fields: Mapping[str, object]) -> list[str]:
    efforts = [fields.get("reasoning_effort"), *(each.effort for each in _options(fields))]
    return [effort for effort in efforts if isinstance(effort, str)]


def _switches(fields: Mapping[str, object]) -> list[bool]:
    """Return what every field that says whether to think does say."""
    options, thinking = _options(fields), fields.get("thinking")
    switches = [False for effort in _efforts(fields) if effort == "none"]
    switches += [each.enabled for each in options if each.enabled is not None]
    switches += [True for each in options if each.max_tokens]
    if isinstance(thinking, ThinkingOptions) and thinking.type in ("enabled", "disabled"):
        switches.append(thinking.type == "enabled")
    if isinstance(enabled := fields.get("enable_thinking"), bool):
        switches.append(enabled)
    return switches


def _budgets(fields: Mapping[str, object]) -> list[int]:
    thinking = fields.get("thinking")
    budgets = [fields.get("reasoning_budget"), *(each.max_tokens for each in _options(fields))]
    if isinstance(thinking, ThinkingOptions):
        budgets.append(thinking.budget_tokens)
    return [budget for budget in budgets if isinstance(budget, int)]
