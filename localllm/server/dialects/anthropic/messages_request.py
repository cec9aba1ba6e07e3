"""The request of `/v1/messages`, as Anthropic's official clients and coding agents send it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from localllm.engine.messages import Effort, GenerateRequest, Grammar, Thinking, ToolChoice
from localllm.engine.messages.limits import ranges_of
from localllm.server.dialects.anthropic.conversation import (
    Conversation,
    MessageParams,
    SystemParam,
    conversation,
)
from localllm.server.dialects.anthropic.tools import (
    OfferedTools,
    ToolChoiceParam,
    ToolParams,
    check_choice,
    offered_tools,
)
from localllm.server.generation.request import (
    REQUEST_RANGES,
    GenerationFields,
    StopStrings,
    json_schema_grammar,
    new_request_id,
    schema_warnings,
)
from localllm.server.schema import (
    WHOLE,
    ModelName,
    RequestModel,
    also_named,
    field_error,
    in_range,
    minus_one_is,
    unsupported,
)


class ThinkingConfig(RequestModel):
    """`adaptive` and `between_tools` let the model think as it does by itself. `display`: omitted
    thoughts leave an empty block in the answer."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools", "auto"]
    budget_tokens: Annotated[int, in_range(ranges_of(Thinking)["budget"]), WHOLE] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(RequestModel):
    """An answer that follows a JSON Schema. What no grammar can enforce is checked at the end."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, object], Field(alias="schema")]


class OutputConfig(RequestModel):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesRequest(GenerationFields):
    """The body of `/v1/messages`, and of `/v1/messages/count_tokens`; null is the same as
    nothing."""

    model: ModelName | None = None
    max_tokens: Annotated[
        Annotated[int, in_range(REQUEST_RANGES["max_tokens"]), WHOLE] | None, minus_one_is(None)
    ] = None
    system: SystemParam | None = None
    messages: MessageParams
    stop_sequences: Annotated[StopStrings | None, also_named("stop_sequences", "stop")] = None
    stream: bool | None = None
    tools: ToolParams | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None

    # They manage a conversation that is longer than a model's context: it is taken as it is.
    context_management: object = None
    compaction: object = None

    # Of Anthropic's accounting, data centres and beta programmes: they change no answer.
    anthropic_version: object = None
    anthropic_beta: object = None
    betas: object = None
    billing_policy: object = None
    diagnostics: object = None
    fallbacks: object = None
    fallback_credit_token: object = None
    inference_geo: object = None
    speed: object = None
    user_profile_id: object = None
    workspace_id: object = None

    # What Anthropic's servers do besides, and the answer would be another one.
    container: Annotated[
        object, unsupported({}, reason="belongs to code execution, which this server does not do")
    ] = None
    mcp_servers: Annotated[
        object, unsupported([], reason="names servers to call: this one connects to none")
    ] = None
    thread: Annotated[
        object, unsupported(reason="is a conversation that a server keeps: send its messages")
    ] = None

    @field_validator("tools")
    @classmethod
    def _each_named_once(cls, value: ToolParams | None) -> ToolParams | None:
        offered_tools(value or ())
        return value

    @field_validator("tool_choice")
    @classmethod
    def _obeyable(
        cls, value: ToolChoiceParam | None, info: ValidationInfo
    ) -> ToolChoiceParam | None:
        if value is not None and "tools" in info.data:
            check_choice(value, offered_tools(info.data["tools"] or ()))
        return value

    @field_validator("output_format")
    @classmethod
    def _one_format(cls, value: OutputFormat | None, info: ValidationInfo) -> OutputFormat | None:
        config = info.data.get("output_config")
        other = config.format if isinstance(config, OutputConfig) else None
        if value is not None and other is not None and value != other:
            raise field_error("invalid_value", "is not what `output_config.format` is")
        return value

    @cached_property
    def conversation(self) -> Conversation:
        return conversation(self.system or (), self.messages)

    @cached_property
    def offered(self) -> OfferedTools:
        return offered_tools(self.tools or ())

    @property
    def shows_thinking(self) -> bool:
        """True when the answer has blocks of thinking: only where the request asks for them, since
        clients that do not take the first block for the text."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def omits_thinking(self) -> bool:
        """True when those blocks are empty."""
        return self.thinking is not None and self.thinking.display == "omitted"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is known about the request before the engine has it."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        yield from self.offered.warnings
        yield from self.conversation.warnings
        if self.compaction is not None or _edits(self.context_management):
            yield "context_management has no effect here: the conversation is taken as it is."
        yield from schema_warnings(self._grammar)

    @property
    def _grammar(self) -> Grammar | None:
        config = self.output_config.format if self.output_config is not None else None
        chosen = config or self.output_format
        return None if chosen is None else json_schema_grammar(chosen.schema_)

    @property
    def _wished_thinking(self) -> Thinking:
        """A request that says nothing of thinking gets an answer without, as in Anthropic's API;
        an effort alone lets the model think."""
        name = self.output_config.effort if self.output_config is not None else None
        effort = None if name in (None, "none") else Effort("xhigh" if name == "max" else name)
        if self.thinking is None:
            return Thinking(enabled=None if effort else False, effort=effort)
        match self.thinking.type:
            case "disabled":
                return Thinking(enabled=False)
            case "enabled":
                budget = self.thinking.budget_tokens
                return Thinking(enabled=True, effort=effort, budget=budget)
            case _:
                return Thinking(effort=effort, budget=self.thinking.budget_tokens)

    def generate_request(self) -> GenerateRequest:
        """Make the engine's request, under a new id. With `max_tokens` 0 the prompt is only read,
        so that the next request finds it in the cache."""
        choice = self.tool_choice
        tools = self.offered.tools
        return replace(
            self.base_request(new_request_id("msg").replace("-", "_")),
            messages=self.conversation.messages,
            max_tokens=self.max_tokens,
            echo=self.max_tokens == 0,
            stop=tuple(self.stop_sequences or ()),
            grammar=self._grammar,
            tools=tools,
            tool_choice=choice.tool_choice if choice is not None and tools else ToolChoice(),
            parallel_tool_calls=not (
                tools and choice is not None and choice.disable_parallel_tool_use
            ),
            thinking=self._wished_thinking,
        )


def _edits(management: object) -> bool:
    """Tell whether something would be cleared: agents always say that all thoughts are kept."""
    edits = management.get("edits") if isinstance(management, dict) else None
    return any(
        not (
            isinstance(edit, dict)
            and str(edit.get("type")).startswith("clear_thinking")
            and edit.get("keep") in ("all", {"type": "all"})
        )
        for edit in (edits if isinstance(edits, list) else ())
    )
