"""The agent loop: the calls of an answer are run, their results become messages, and the model is
asked again, until it answers without a call or has had its rounds.

How an answer is generated and shown is the front end's; the loop is handed a function for it.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from localllm.chat.conversation import ChatMessage, Conversation, Ending
from localllm.chat.tools.tool import Arguments, LocalTool
from localllm.core.text import strip_controls
from localllm.engine.messages import Role, Tool, ToolCall
from localllm.errors import LocalLLMError

MAX_ROUNDS = 8
"""Answers with calls to one question; the next one has to do without tools."""
MAX_CALLS = 16
"""Of one answer. The others are answered with an error."""
MAX_RESULT_CHARS = 20_000

Approve = Callable[[LocalTool, Arguments], Awaitable[bool]]
"""Ask the person whether a call may run."""


class Answer(Protocol):
    """Generate the next answer, show it while it comes, and return the conversation with it at its
    end. The tools are those that it may call."""

    async def __call__(
        self, conversation: Conversation, tools: tuple[Tool, ...]
    ) -> Conversation: ...


class Changed(Protocol):
    """Show a conversation that has grown by the results of calls."""

    async def __call__(self, conversation: Conversation) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLoop:
    """Answer with tools. `clock` gives Unix time."""

    tools: tuple[LocalTool, ...]
    approve: Approve
    answer: Answer
    changed: Changed
    clock: Callable[[], float]
    max_rounds: int = MAX_ROUNDS

    async def run(self, conversation: Conversation) -> Conversation:
        """Answer the question at the end of the conversation; the result ends with an answer."""
        definitions = tuple(each.definition for each in self.tools)
        for _round in range(self.max_rounds):
            conversation = await self.answer(conversation, definitions)
            calls = open_calls(conversation)
            if not calls:
                return conversation
            for call in calls:
                result = await self._result(call, allowed=calls.index(call) < MAX_CALLS)
                conversation = conversation.with_message(result, after=conversation.leaf)
                await self.changed(conversation)
        return await self.answer(conversation, ())

    async def _result(self, call: ToolCall, *, allowed: bool) -> ChatMessage:
        if allowed:
            text = await call_result(call, self.tools, self.approve)
        else:
            text = f"Error: at most {MAX_CALLS} calls can be made at once."
        return ChatMessage(
            role=Role.TOOL,
            text=text,
            created_s=self.clock(),
            tool_call_id=call.id,
            tool_name=call.name,
        )


def open_calls(conversation: Conversation) -> tuple[ToolCall, ...]:
    """Return the calls of the answer at the end of the conversation that are to be run: none of one
    that was stopped or broke off."""
    if conversation.leaf is None:
        return ()
    last = conversation.message(conversation.leaf)
    if last.role is not Role.ASSISTANT or last.ending is not Ending.COMPLETE:
        return ()
    return last.tool_calls


async def call_result(call: ToolCall, tools: Sequence[LocalTool], approve: Approve) -> str:
    """Run one call and return what the model gets: the result, or an error in words. Never fails
    for what the model wrote."""
    tool = next((each for each in tools if each.name == call.name), None)
    if tool is None:
        names = ", ".join(each.name for each in tools)
        return f"Error: there is no tool {call.name[:64]}. There are: {names}."
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return "Error: the arguments are no JSON."
    if not isinstance(arguments, dict):
        return "Error: the arguments are no JSON object."
    if tool.asks and not await approve(tool, arguments):
        return "Error: the user did not allow this call."
    try:
        return _cut(await tool.run(arguments))
    except LocalLLMError as error:
        return f"Error: {error}"


def _cut(text: str) -> str:
    text = strip_controls(text)
    if len(text) <= MAX_RESULT_CHARS:
        return text or "(empty)"
    return f"{text[:MAX_RESULT_CHARS]}\n[cut: {len(text) - MAX_RESULT_CHARS} characters more]"
