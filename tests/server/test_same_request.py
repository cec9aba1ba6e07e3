"""One table of truth: a request means the same in every dialect.

An abstract request is written in each dialect's JSON and read by the dialect's own model; what the
engine gets is the same, but for its id.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.messages import GenerateRequest
from localllm.server.dialects.anthropic.messages_request import MessagesRequest
from localllm.server.dialects.llama_server.completion_request import CompletionBody, InfillBody
from localllm.server.dialects.ollama.chat_request import ChatRequest
from localllm.server.dialects.ollama.generate_request import PromptRequest
from localllm.server.dialects.openai.chat_request import ChatCompletionRequest
from localllm.server.dialects.openai.completions_request import CompletionRequest
from localllm.server.dialects.openai.responses.request import ResponseRequest
from localllm.server.request_body import validate

Json = dict[str, object]
SCHEMA: Json = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}
PARAMETERS: Json = {"type": "object", "properties": {"word": {"type": "string"}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question, and what came of it: an answer, or a call with its result; nothing of the last
    one but its result."""

    question: str
    answer: str | None = None
    argument: str | None = None
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A request, in no dialect. `choice`: the mode of the tool choice, None: not said."""

    system: str | None
    turns: tuple[Turn, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: tuple[str, ...]
    tools: bool
    choice: str | None
    schema: bool
    thinking: bool


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
spoken = texts.map(lambda text: "x" + text + "x")  # nobody trims it
answered = st.builds(Turn, question=spoken, answer=spoken)
called = st.builds(Turn, question=spoken, argument=spoken, result=spoken)
asked = st.builds(Turn, question=spoken)
fraction = st.floats(0, 1, allow_nan=False)
wishes = st.builds(
    Wish,
    system=st.none() | spoken,
    turns=st.tuples(st.lists(answered, max_size=2), st.one_of(asked, called)).map(
        lambda parts: (*parts[0], parts[1])
    ),
    max_tokens=st.integers(1, 4096),
    temperature=st.floats(0, 1),
    top_p=fraction,
    top_k=st.integers(0, 100),
    min_p=fraction,
    seed=st.integers(0, 2**32 - 2),
    stop=st.lists(spoken, max_size=3, unique=True).map(tuple),
    tools=st.booleans(),
    choice=st.sampled_from([None, "auto", "none", "required", "named"]),
    schema=st.booleans(),
    thinking=st.booleans(),
).filter(lambda wish: wish.tools or wish.choice is None)


def sampling(wish: Wish) -> Json:
    return {
        "temperature": wish.temperature,
        "top_p": wish.top_p,
        "top_k": wish.top_k,
        "min_p": wish.min_p,
        "seed": wish.seed,
    }


def openai_tool() -> Json:
    function = {"name": "look_up", "description": "Looks a word up.", "parameters": PARAMETERS}
    return {"type": "function", "function": function}


def openai_chat(wish: Wish) -> GenerateRequest:
    messages: list[Json] = []
    if wish.system is not None:
        messages.append({"role": "system", "content": wish.system})
    for turn in wish.turns:
        messages.append({"role": "user", "content": turn.question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
        if turn.argument is not None:
            arguments = json.dumps({"word": turn.argument})
            call = {
                "id": "call_0",
                "type": "function",
                "function": {"name": "look_up", "arguments": arguments},
            }
            messages += [
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_0", "content": turn.result},
            ]
    body: Json = {
        **sampling(wish),
        "messages": messages,
        "max_completion_tokens": wish.max_tokens,
        "stop": list(wish.stop),
        "enable_thinking": wish.thinking,
    }
    if wish.tools:
        body["tools"] = [openai_tool()]
    if wish.choice is not None:
        named = {"type": "function", "function": {"name": "look_up"}}
        body["tool_choice"] = named if wish.choice == "named" else wish.choice
    if wish.schema:
        schema = {"name": "answer", "schema": SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return validate(ChatCompletionRequest, body).generate_request()


def openai_responses(wish: Wish) -> GenerateRequest:
    items: list[Json] = []
    for turn in wish.turns:
        items.append({"role": "user", "content": turn.question})
        if turn.answer is not None:
            items.append({"role": "assistant", "content": turn.answer})
        if turn.argument is not None:
            arguments = json.dumps({"word": turn.argument})
            items += [
                {
                    "type": "function_call",
                    "call_id": "call_0",
                    "name": "look_up",
                    "arguments": arguments,
                },
                {"type": "function_call_output", "call_id": "call_0", "output": turn.result},
            ]
    body: Json = {
        **sampling(wish),
        "input": items,
        "max_output_tokens": wish.max_tokens,
        "stop": list(wish.stop),
        "enable_thinking": wish.thinking,
    }
    if wish.system is not None:
        body["instructions"] = wish.system
    if wish.tools:
        function = {"name": "look_up", "description": "Looks a word up.", "parameters": PARAMETERS}
        body["tools"] = [{"type": "function", **function}]
    if wish.choice is not None:
        named = {"type": "function", "name": "look_up"}
        body["tool_choice"] = named if wish.choice == "named" else wish.choice
    if wish.schema:
        body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}
    return validate(ResponseRequest, body).generate_request("resp_1")


def anthropic(wish: Wish) -> GenerateRequest:
    messages: list[Json] = []
    for turn in wish.turns:
        messages.append({"role": "user", "content": turn.question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
        if turn.argument is not None:
            use = {
                "type": "tool_use",
                "id": "call_0",
                "name": "look_up",
                "input": {"word": turn.argument},
            }
            result = {"type": "tool_result", "tool_use_id": "call_0", "content": turn.result}
            messages += [
                {"role": "assistant", "content": [use]},
                {"role": "user", "content": [result]},
            ]
    body: Json = {
        **sampling(wish),
        "messages": messages,
        "max_tokens": wish.max_tokens,
        "stop_sequences": list(wish.stop),
        "thinking": {"type": "enabled" if wish.thinking else "disabled"},
    }
    if wish.system is not None:
        body["system"] = wish.system
    if wish.tools:
        tool = {
            "name": "look_up",
            "description": "Looks a word up.",
            "input_schema": PARAMETERS,
        }
        body["tools"] = [tool]
    if wish.choice is not None:
        kind = {"required": "any", "named": "tool"}.get(wish.choice, wish.choice)
        body["tool_choice"] = {"type": kind} | ({"name": "look_up"} if kind == "tool" else {})
    if wish.schema:
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    return validate(MessagesRequest, body).generate_request()


def ollama(wish: Wish) -> GenerateRequest:
    messages: list[Json] = []
    if wish.system is not None:
        messages.append({"role": "system", "content": wish.system})
    for turn in wish.turns:
        messages.append({"role": "user", "content": turn.question})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
        if turn.argument is not None:
            call = {"function": {"name": "look_up", "arguments": {"word": turn.argument}}}
            messages += [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": turn.result},
            ]
    options: Json = {**sampling(wish), "num_predict": wish.max_tokens, "stop": list(wish.stop)}
    body: Json = {
        "messages": messages,
        "options": options,
        "truncate": False,
        "think": wish.thinking,
    }
    if wish.tools:
        body["tools"] = [openai_tool()]
    if wish.schema:
        body["format"] = SCHEMA
    return validate(ChatRequest, body).generate_request()


DIALECTS: tuple[Callable[[Wish], GenerateRequest], ...] = (
    openai_chat,
    openai_responses,
    anthropic,
    ollama,
)


def comparable(request: GenerateRequest) -> GenerateRequest:
    """Leave out the id, and write the arguments of calls in one way."""
    messages = tuple(
        replace(
            message,
            tool_calls=tuple(
                replace(call, arguments=json.dumps(json.loads(call.arguments)))
                for call in message.tool_calls
            ),
        )
        for message in request.messages or ()
    )
    return replace(request, request_id="", messages=messages or None)


@settings(max_examples=60)
@given(wishes)
def test_a_conversation_means_the_same_in_every_dialect(wish: Wish) -> None:
    truth = comparable(openai_chat(wish))
    for read in DIALECTS[1:]:
        if read is ollama and wish.choice not in (None, "auto"):
            continue  # its API has no choice
        assert comparable(read(wish)) == truth, read.__name__


@settings(max_examples=40)
@given(
    wish=wishes,
    prompt=spoken,
    suffix=st.none() | spoken,
)
def test_a_plain_prompt_means_the_same_in_every_dialect(
    wish: Wish, prompt: str, suffix: str | None
) -> None:
    common: Json = {**sampling(wish), "stop": list(wish.stop)}
    ends: Json = {} if suffix is None else {"suffix": suffix}
    completions = common | {"prompt": prompt, "max_tokens": wish.max_tokens} | ends
    (truth,) = validate(CompletionRequest, completions).generate_requests()
    native: Json = common | {"n_predict": wish.max_tokens}
    if suffix is None:
        llama_server = validate(CompletionBody, native | {"prompt": prompt}).generate_request()
    else:
        gap = {"input_prefix": prompt, "input_suffix": suffix}
        llama_server = validate(InfillBody, native | gap).generate_request()
    options = common | {"num_predict": wish.max_tokens}
    raw = {"prompt": prompt, "raw": True, "options": options, "truncate": False} | ends
    ollama_s = validate(PromptRequest, raw).generate_request()
    for other in (llama_server, ollama_s):
        assert comparable(other) == comparable(truth)
