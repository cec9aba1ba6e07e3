"""The choices of an answer: their places, ends and usage."""

import dataclasses
from collections.abc import AsyncGenerator

import pytest

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateEvent,
    PromptProgress,
    Reasoning,
    Timings,
    Token,
    ToolCall,
    ToolCallArguments,
    ToolCallBegan,
)
from localllm.server.errors import ApiError
from localllm.server.generation.choices import Choices, StopReason, Usage

TIMINGS = Timings(queue_s=0, ttft_s=1, total_s=2, prefill_tps=3, decode_tps=4)
END = Finished(
    request_id="a", reason=FinishReason.STOP, prompt_tokens=5, completion_tokens=2,
    cached_tokens=1, timings=TIMINGS,
)  # fmt: skip


async def stream(*events: GenerateEvent) -> AsyncGenerator[GenerateEvent, None]:
    for event in events:
        yield event


async def test_every_event_of_an_answer_is_put_together() -> None:
    choices = Choices()
    await choices.read([stream(
        PromptProgress(request_id="a", processed=1, total=1),
        Reasoning(request_id="a", text="Rain? "),
        Reasoning(request_id="a", text="No."),
        Token(request_id="a", text="I "),
        Token(request_id="a", text="look."),
        ToolCallBegan(request_id="a", call=0, id="x", name="now"),
        ToolCallArguments(request_id="a", call=0, text="{"),
        ToolCallArguments(request_id="a", call=0, text="}"),
        dataclasses.replace(END, reason=FinishReason.TOOL_CALLS),
    )])  # fmt: skip
    (choice,) = choices
    assert (choice.reasoning, choice.text) == ("Rain? No.", "I look.")
    assert choice.tool_calls == (ToolCall(id="x", name="now", arguments="{}"),)
    assert choice.stop_reason is StopReason.TOOL_CALLS
    assert choices.finish().timings == TIMINGS


async def test_each_prompt_counts_once_and_each_answer_by_itself() -> None:
    choices = Choices(prompts=2, n=2)
    ends = [dataclasses.replace(END, index=index) for index in (1, 0)]
    await choices.read([stream(*ends), stream(*ends)])
    assert choices.usage == Usage(prompt_tokens=10, completion_tokens=8, cached_tokens=2)


def test_an_echoed_token_belongs_to_all_answers_to_its_prompt() -> None:
    choices = Choices(prompts=2, n=3)
    echoed = choices.assign(1, Token(request_id="a", text="x", of_prompt=True))
    assert [choice.index for choice in echoed] == [3, 4, 5]
    assert [c.index for c in choices.assign(1, Token(request_id="a", text="x", index=2))] == [5]


async def test_a_stream_that_ends_early_is_an_error() -> None:
    choices = Choices(n=2)
    await choices.read([stream(END)])
    with pytest.raises(ApiError, match="ended early") as raised:
        choices.finish()
    assert (raised.value.status, raised.value.code) == (500, "generation_failed")


async def test_a_cancelled_answer_is_an_error() -> None:
    choices = Choices()
    await choices.read([stream(dataclasses.replace(END, reason=FinishReason.CANCELLED))])
    (choice,) = choices
    with pytest.raises(ApiError, match="cancelled") as raised:
        _ = choice.stop_reason
    assert raised.value.status == 503
