"""The calls and results of a conversation, as it is sent back: which result is that of which call.

Older APIs and some clients have no ids of calls, or drop them; a model must still see which answer
belongs to which question.
"""

from collections.abc import Sequence
from dataclasses import replace

from localllm.engine.messages import Message, Role, ToolCall

MAX_ITEMS = 16384
"""Messages of a request, parts of a message. The 230,000 that fit a body would take seconds."""

MAX_PARTS = 32_768
"""Parts and calls of all messages together: each is checked by itself, in microseconds."""


def link_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Give calls without an id one, and results without one that of the call they answer.

    That is the first call of the turn before that has no result yet: the first of the result's
    name, where it has a name. A result without any such call stays as it is.
    """
    linked: list[Message] = []
    open_calls: list[ToolCall] = []
    count = 0
    for message in messages:
        if message.tool_calls:
            open_calls = [
                call if call.id else replace(call, id=f"call_{count + index}")
                for index, call in enumerate(message.tool_calls)
            ]
            count += len(open_calls)
            linked.append(replace(message, tool_calls=tuple(open_calls)))
        elif message.role is Role.TOOL and (call := _answered(message, open_calls)) is not None:
            open_calls.remove(call)
            linked.append(replace(message, tool_call_id=call.id))
        else:
            linked.append(message)
    return tuple(linked)


def _answered(result: Message, open_calls: Sequence[ToolCall]) -> ToolCall | None:
    if result.tool_call_id is not None:
        return next((call for call in open_calls if call.id == result.tool_call_id), None)
    named = (call for call in open_calls if result.name in (None, call.name))
    return next(named, None)
