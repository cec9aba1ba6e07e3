"""A conversation as a chat template takes it: messages with calls, results and earlier reasoning.

Templates do not agree on how they want these: arguments as an object or as a text, an empty
content as "" or as none, or no calls at all. `probe_caps` finds out by rendering probes, as
llama.cpp does (common/jinja caps, b11434). What a template has no place for is written as text, in
the syntax of the model's tool format.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from localllm.engine.messages import Message, Role, Tool, ToolCall
from localllm.engine.messages.limits import MAX_JSON_DEPTH
from localllm.engine.messages.validation import is_deeper
from localllm.engine.worker.parsing.formats import HARMONY, PLAIN, ToolFormat
from localllm.errors import BadRequest

TemplateMessage = dict[str, object]
"""A message or a tool, as OpenAI's chat API has it."""


class TemplateTooSlow(BadRequest):
    """A rendering that was stopped: of a template like that no further one is tried."""


Render = Callable[[list[TemplateMessage], list[TemplateMessage] | None], str]
"""Render messages and tools. Raises BadRequest when the template refuses them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCaps:
    """The capabilities of a template."""

    tools: bool  # it writes the tools it is given
    calls: bool  # it writes an assistant's calls
    results: bool  # it has a role for their results
    system: bool  # it has a role for instructions
    object_arguments: bool = True
    null_content: bool = False


PROBE_TOOL = Tool(name="listed_tool")
_PROBE_NAME = "probed_tool"
_PROBE_CALL_ID = "probe1234"
_PROBE_KEY, _PROBE_VALUE = "probed_key", "probed value"
_PROBE_QUESTION: TemplateMessage = {"role": "user", "content": "probed question"}
_CALL_ID_CHARS = 9
"""Mistral's templates refuse ids of any other length, and any but letters and digits."""


def probe_caps(render: Render, tool_format: ToolFormat) -> TemplateCaps:
    """Find out what a template can write."""
    # A template of an unknown format may write calls in a syntax that no parser knows.
    known = tool_format is not PLAIN
    tools = [_tool_message(PROBE_TOOL)]
    lists_tools = known and PROBE_TOOL.name in _try(render, [_PROBE_QUESTION], tools)

    def rendered(messages: list[TemplateMessage]) -> str:
        # Some templates for tools fail without any.
        return _try(render, messages, tools if lists_tools else None)

    call_forms = [
        (as_object, as_null)
        for as_object in (True, False)
        for as_null in (True, False)
        if known and _writes_calls(rendered, as_object=as_object, as_null=as_null)
    ]
    as_object, as_null = call_forms[0] if call_forms else (True, False)
    before: TemplateMessage = {"role": "assistant", "content": "probed answer"}
    if call_forms:
        before = _probe_call(as_object=as_object, as_null=as_null)
    result = [_PROBE_QUESTION, before, _probe_result()]
    return TemplateCaps(
        tools=lists_tools,
        calls=bool(call_forms),
        results=known and "probed result" in rendered(result),
        system="probed rule" in rendered([_system_message("probed rule"), _PROBE_QUESTION]),
        object_arguments=as_object,
        null_content=as_null,
    )


def _try(
    render: Render, messages: list[TemplateMessage], tools: list[TemplateMessage] | None
) -> str:
    """Render; return "" when the template refuses."""
    try:
        return render(messages, tools)
    except TemplateTooSlow:
        raise
    except BadRequest:
        return ""


def _writes_calls(
    rendered: Callable[[list[TemplateMessage]], str], *, as_object: bool, as_null: bool
) -> bool:
    call = _probe_call(as_object=as_object, as_null=as_null)
    text = rendered([_PROBE_QUESTION, call, _probe_result()])
    complete = _PROBE_NAME in text and _PROBE_KEY in text and _PROBE_VALUE in text
    as_python, as_escaped_json = f"'{_PROBE_KEY}'", f'\\"{_PROBE_KEY}\\"'
    garbled = as_python in text or as_escaped_json in text or "None" in text
    return complete and not garbled


def _probe_call(*, as_object: bool, as_null: bool) -> TemplateMessage:
    arguments = {_PROBE_KEY: _PROBE_VALUE}
    function = {
        "name": _PROBE_NAME,
        "arguments": arguments if as_object else json.dumps(arguments),
    }
    call = {"id": _PROBE_CALL_ID, "type": "function", "function": function}
    return {"role": "assistant", "content": None if as_null else "", "tool_calls": [call]}


def _probe_result() -> TemplateMessage:
    return {
        "role": "tool",
        "content": "probed result",
        "tool_call_id": _PROBE_CALL_ID,
        "name": _PROBE_NAME,
    }


def with_content_parts(messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
    """Return the same messages with each text as a list of one content part."""
    return [
        message | {"content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def plain_messages(messages: Sequence[Message]) -> list[TemplateMessage]:
    """Return the messages of a conversation without tools."""
    return [_plain(message) for message in messages]


def template_tools(tools: Sequence[Tool], caps: TemplateCaps) -> list[TemplateMessage] | None:
    """Return the tools that a template is given; None when it has no place for them."""
    return [_tool_message(tool) for tool in tools] if tools and caps.tools else None


def messages_with_tools(
    messages: Sequence[Message], tools: Sequence[Tool], caps: TemplateCaps, tool_format: ToolFormat
) -> list[TemplateMessage]:
    """Return the messages of a conversation with tools, or with earlier calls."""
    messages = without_roles(messages, caps, tool_format)
    names = _names_of_calls(messages)
    built: list[TemplateMessage] = []
    for message in messages:
        if message.tool_calls:
            built.append(_calling(message, caps, tool_format))
        elif message.role is Role.TOOL:
            built.append(_result(message, _name_of_result(message, names)))
        else:
            built.append(_plain(message))
    if tools and not caps.tools:
        _add_instructions(built, instructions(tools, tool_format), caps)
    return built


def without_roles(
    messages: Sequence[Message], caps: TemplateCaps, tool_format: ToolFormat
) -> Sequence[Message]:
    """Return the messages with calls and results as texts of the assistant and the user, as far as
    the template has no place for them."""
    if caps.calls and caps.results:
        return messages
    names = _names_of_calls(messages)

    def as_text(message: Message) -> Message:
        if message.role is Role.TOOL and not caps.results:
            name = _name_of_result(message, names)
            return Message(role=Role.USER, content=f"Result of {name}:\n{message.content}")
        if message.tool_calls and not caps.calls:
            return _calls_as_text(message, tool_format)
        return message

    return [as_text(message) for message in messages]


def _calls_as_text(message: Message, tool_format: ToolFormat) -> Message:
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    text = f"{message.content}\n{tool_format.call_syntax.section(calls)}".lstrip()
    return replace(message, content=text, tool_calls=())


def _names_of_calls(messages: Sequence[Message]) -> dict[str, str]:
    return {call.id: call.name for message in messages for call in message.tool_calls}


def _name_of_result(message: Message, names: dict[str, str]) -> str:
    return message.name or names.get(message.tool_call_id or "") or "unknown"


def instructions(tools: Sequence[Tool], tool_format: ToolFormat) -> str:
    """Describe tools to a model whose template has no place for them."""
    functions = (_tool_message(tool)["function"] for tool in tools)
    described = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    example = tool_format.call_syntax.section([("NAME", '{"ARGUMENT": "VALUE"}')])
    return (
        f"You can call these functions:\n{described}\n\n"
        "To call one, answer with nothing but this, with its name and its arguments:\n"
        f"{example}\n\n"
        "When no function is needed, answer as usual."
    )


def _plain(message: Message) -> TemplateMessage:
    built: TemplateMessage = {"role": message.role.value, "content": message.content}
    if message.reasoning:
        built["reasoning_content"] = message.reasoning
    return built


def _system_message(text: str) -> TemplateMessage:
    return {"role": "system", "content": text}


def _user_message(text: str) -> TemplateMessage:
    return {"role": "user", "content": text}


def _tool_message(tool: Tool) -> TemplateMessage:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": function}


def _calling(message: Message, caps: TemplateCaps, tool_format: ToolFormat) -> TemplateMessage:
    built = _plain(message)
    built["tool_calls"] = [
        {
            "id": _short_id(call.id),
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": _arguments(call) if caps.object_arguments else call.arguments,
            },
        }
        for call in message.tool_calls
    ]
    if not message.content and caps.null_content:
        built["content"] = None
    if message.reasoning and not message.content and tool_format is HARMONY:
        built["thinking"] = message.reasoning  # its template's key, refused beside a content
    return built


class RawArguments(str):
    """Arguments of a call that are no JSON object, which `tojson` writes as they are."""


def _arguments(call: ToolCall) -> object:
    value = _json_object(call.arguments)
    return RawArguments(call.arguments) if value is None else value


def _json_object(text: str) -> dict[str, object] | None:
    """Parse the text of a JSON object; None for any other, and for one that is nested too deeply
    to be written again."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not is_deeper(value, MAX_JSON_DEPTH) else None


def unpaired_texts(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return what a template may refuse or leave out: the arguments of earlier calls that are no
    JSON objects, because the model did not write their end or wrote something else, and the results
    of calls that are not in the conversation."""
    known = {call.id for message in messages for call in message.tool_calls}
    return (
        *(
            call.arguments
            for message in messages
            for call in message.tool_calls
            if _is_broken(call)
        ),
        *(
            message.content
            for message in messages
            if message.role is Role.TOOL and message.tool_call_id not in known
        ),
    )


def unpaired_as_text(messages: Sequence[Message], tool_format: ToolFormat) -> tuple[Message, ...]:
    """Return the messages with broken calls as text in the syntax of the model's format, and with
    the results of calls that are not there, or no longer, as texts of the user."""
    names = _names_of_calls(messages)
    known: set[str] = set()
    built: list[Message] = []
    for message in messages:
        if any(map(_is_broken, message.tool_calls)):
            built.append(_calls_as_text(message, tool_format))
        elif message.role is Role.TOOL and message.tool_call_id not in known:
            name = _name_of_result(message, names)
            _add_user_message(built, f"Result of {name}:\n{message.content}")
        elif message.role is Role.USER and not message.images:
            _add_user_message(built, message.content)
        else:
            known.update(call.id for call in message.tool_calls)
            built.append(message)
    return tuple(built)


def _add_user_message(built: list[Message], text: str) -> None:
    """Add a user's text: in one message with the one before it, for many templates refuse two."""
    if built and built[-1].role is Role.USER:
        built[-1] = replace(built[-1], content=f"{built[-1].content}\n\n{text}")
    else:
        built.append(Message(role=Role.USER, content=text))


def _is_broken(call: ToolCall) -> bool:
    return _json_object(call.arguments) is None


def _result(message: Message, name: str) -> TemplateMessage:
    return {
        "role": "tool",
        "content": message.content,
        "tool_call_id": _short_id(message.tool_call_id or ""),
        "name": name,
    }


def _short_id(call_id: str) -> str:
    """Return a call's id in a form that Mistral's templates accept."""
    if len(call_id) == _CALL_ID_CHARS and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:_CALL_ID_CHARS]


def _add_instructions(built: list[TemplateMessage], text: str, caps: TemplateCaps) -> None:
    """Add them to the system message, or to the first question where there is no such role."""
    if built and built[0]["role"] == "system":
        built[0] = _system_message(f"{built[0]['content']}\n\n{text}")
    elif caps.system:
        built.insert(0, _system_message(text))
    elif built and built[0]["role"] == "user":
        built[0] = _user_message(f"{text}\n\n{built[0]['content']}")
    else:
        built.insert(0, _user_message(text))
