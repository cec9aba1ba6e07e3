"""A conversation as chat templates take it: turns with calls, results and earlier reasoning.

Templates do not agree on how they want these: arguments as an object or as a text, an empty
content as "" or as none, or no calls at all. `form_of` finds out by asking the template, as
llama.cpp does (common/jinja caps, b11434); what it cannot say is said in its family's own syntax,
as text.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from localllm.engine.messages import Message, Role, Tool
from localllm.engine.worker.parsing.formats import HARMONY, PLAIN, Family, Writing
from localllm.errors import BadRequest

Turn = dict[str, object]
Render = Callable[[list[Turn], list[Turn] | None], str]
"""Turns and tools to text. Raises BadRequest when the template refuses."""
_Ask = Callable[[list[Turn]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a template can be told, and how."""

    tools: bool  # it writes the tools it is given
    calls: bool  # it writes an assistant's calls
    results: bool  # it has a role for their results
    system: bool  # it has a role for instructions
    object_arguments: bool = True
    null_content: bool = False


_LISTED = Tool(name="listed_tool")
_NAME = "probed_tool"
_CALL_ID = "probe1234"  # of nine characters, as Mistral's templates insist
_KEY, _VALUE = "probed_key", "probed value"
_ASKED: Turn = {"role": "user", "content": "probed question"}
_SHORT_ID = 9


def in_parts(turns: Sequence[Turn]) -> list[Turn]:
    """The same turns with each text as a list of one part."""
    return [
        turn | {"content": [{"type": "text", "text": turn["content"]}]}
        if isinstance(turn.get("content"), str)
        else turn
        for turn in turns
    ]


def form_of(render: Render, family: Family) -> Form:
    """Ask a template what it can be told."""
    known = family is not PLAIN
    tools = [_described(_LISTED)]
    listed = known and _LISTED.name in _attempt(render, [_ASKED], tools)

    # Some templates for tools fail without any.
    def ask(turns: list[Turn]) -> str:
        return _attempt(render, turns, tools if listed else None)

    forms = [
        (as_object, as_null)
        for as_object in (True, False)
        for as_null in (True, False)
        if known and _writes_calls(ask, as_object=as_object, as_null=as_null)
    ]
    as_object, as_null = forms[0] if forms else (True, False)
    return Form(
        tools=listed,
        calls=bool(forms),
        results=known and _writes_results(ask, forms[0] if forms else None),
        system="probed rule" in ask([_system("probed rule"), _ASKED]),
        object_arguments=as_object,
        null_content=as_null,
    )


def _attempt(render: Render, turns: list[Turn], tools: list[Turn] | None) -> str:
    """What a template writes; nothing when it refuses."""
    try:
        return render(turns, tools)
    except BadRequest:
        return ""


def _probe_call(*, as_object: bool, as_null: bool) -> Turn:
    arguments = {_KEY: _VALUE}
    function = {
        "name": _NAME,
        "arguments": arguments if as_object else json.dumps(arguments),
    }
    call = {"id": _CALL_ID, "type": "function", "function": function}
    return {"role": "assistant", "content": None if as_null else "", "tool_calls": [call]}


def _result(text: str) -> Turn:
    return {"role": "tool", "content": text, "tool_call_id": _CALL_ID, "name": _NAME}


def _writes_calls(ask: _Ask, *, as_object: bool, as_null: bool) -> bool:
    call = _probe_call(as_object=as_object, as_null=as_null)
    text = ask([_ASKED, call, _result("probed result")])
    python, twice = f"'{_KEY}'", f'\\"{_KEY}\\"'  # printed as Python does, or JSON in JSON
    written = _NAME in text and _KEY in text and _VALUE in text
    return written and python not in text and twice not in text and "None" not in text


def _writes_results(ask: _Ask, form: tuple[bool, bool] | None) -> bool:
    if form is None:
        before: Turn = {"role": "assistant", "content": "probed answer"}
    else:
        before = _probe_call(as_object=form[0], as_null=form[1])
    return "probed result" in ask([_ASKED, before, _result("probed result")])


def _system(text: str) -> Turn:
    return {"role": "system", "content": text}


def _described(tool: Tool) -> Turn:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": function}


def plain_turns(messages: Sequence[Message]) -> list[Turn]:
    """A conversation without tools; what an assistant thought goes along."""
    return [_plain(message) for message in messages]


def _plain(message: Message) -> Turn:
    turn: Turn = {"role": message.role.value, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    return turn


def tools_of(tools: Sequence[Tool], form: Form) -> list[Turn] | None:
    """What the template is given as `tools`."""
    return [_described(tool) for tool in tools] if tools and form.tools else None


def turns_with_tools(
    messages: Sequence[Message], tools: Sequence[Tool], form: Form, family: Family
) -> list[Turn]:
    """A conversation with tools, or with earlier calls."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    turns: list[Turn] = []
    for message in messages:
        if message.tool_calls:
            turns.append(_called(message, form, family))
        elif message.role is Role.TOOL:
            name = message.name or names.get(message.tool_call_id or "") or "unknown"
            if form.results:
                turns.append(_answered(message, name))
            else:
                _say(turns, f"Result of {name}:\n{message.content}")
        elif message.role is Role.USER and turns and turns[-1]["role"] == "user":
            _say(turns, message.content)  # templates insist on taking turns
        else:
            turns.append(_plain(message))
    if tools and not form.tools:
        _instruct(turns, instructions(tools, family), form)
    return turns


def _called(message: Message, form: Form, family: Family) -> Turn:
    if not form.calls:
        written = "".join(_written(message, family.writing))
        return {"role": "assistant", "content": f"{message.content}\n{written}".lstrip()}
    calls = [
        {
            "id": _short(call.id),
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.loads(call.arguments)
                if form.object_arguments
                else call.arguments,
            },
        }
        for call in message.tool_calls
    ]
    turn = _plain(message)
    turn["tool_calls"] = calls
    if not message.content and form.null_content:
        turn["content"] = None
    if message.reasoning and not message.content and family is HARMONY:
        turn["thinking"] = message.reasoning  # its template's word for it, refused with a content
    return turn


def _answered(message: Message, name: str) -> Turn:
    return {
        "role": "tool",
        "content": message.content,
        "tool_call_id": _short(message.tool_call_id or ""),
        "name": name,
    }


def _short(call_id: str) -> str:
    """An id as Mistral's templates insist on it: nine letters and digits."""
    if len(call_id) == _SHORT_ID and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:_SHORT_ID]


def _written(message: Message, writing: Writing) -> Iterator[str]:
    yield writing.begin
    for i, call in enumerate(message.tool_calls):
        yield writing.between if i else ""
        yield writing.before.replace("{name}", call.name) + call.arguments + writing.after
    yield writing.end


def instructions(tools: Sequence[Tool], family: Family) -> str:
    """What a model is told of tools where its template has no words for them."""
    writing = family.writing
    example = writing.before.replace("{name}", "NAME") + '{"ARGUMENT": "VALUE"}' + writing.after
    described = "\n".join(json.dumps(_described(t)["function"], ensure_ascii=False) for t in tools)
    return (
        f"You can call these functions:\n{described}\n\n"
        "To call one, answer with nothing but this, with its name and its arguments:\n"
        f"{writing.begin}{example}{writing.end}\n\n"
        "When no function is needed, answer as usual."
    )


def _instruct(turns: list[Turn], text: str, form: Form) -> None:
    """Put instructions where the model finds them: with the system's, or the first question."""
    if turns and turns[0]["role"] == "system":
        turns[0] = _system(f"{turns[0]['content']}\n\n{text}")
    elif form.system:
        turns.insert(0, _system(text))
    elif turns and turns[0]["role"] == "user":
        turns[0] = {"role": "user", "content": f"{text}\n\n{turns[0]['content']}"}
    else:
        turns.insert(0, {"role": "user", "content": text})


def _say(turns: list[Turn], text: str) -> None:
    """As the user: in one turn with what stands before it."""
    if turns and turns[-1]["role"] == "user":
        turns[-1] = {"role": "user", "content": f"{turns[-1]['content']}\n\n{text}"}
    else:
        turns.append({"role": "user", "content": text})
