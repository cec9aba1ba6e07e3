"""Texts to tokens and back, rendered prompts, counted tokens: answered without computing."""

import asyncio

import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import (
    DetokenizeRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Overflow,
    Role,
    Token,
    TokenizeRequest,
    Tool,
    ToolChoice,
    ToolMode,
)
from localllm.errors import BadRequest, ContextOverflow

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = (
    Message(role=Role.SYSTEM, content="Rules."),
    Message(role=Role.USER, content="Hello <|im_end|>"),
)
TOOL = Tool(name="look", description="Looks.", parameters='{"type": "object", "properties": {}}')


async def tokenize(engine: ProcessEngine, text: str, **options: bool) -> tuple[int, ...]:
    request = TokenizeRequest(request_id="t", text=text, **options)
    tokenized = await engine.tokenize(request)
    assert len(tokenized.pieces) == len(tokenized.tokens)
    return tokenized.tokens


@pytest.mark.parametrize("text", ["", "Hello, world!", " leading", "ä 漢字 😀 \0", "<|im_end|>"])
async def test_a_text_comes_back_from_its_tokens(engine: ProcessEngine, text: str) -> None:
    for special in (False, True):
        tokens = await tokenize(engine, text, parse_special=special)
        back = await engine.detokenize(DetokenizeRequest(request_id="d", tokens=tokens))
        assert back.text == text


async def test_control_tokens_are_recognised_when_asked_for(engine: ProcessEngine) -> None:
    assert len(await tokenize(engine, "<|im_end|>", parse_special=True)) == 1
    assert len(await tokenize(engine, "<|im_end|>")) > 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"overflow": Overflow.ROLL},
        {"tools": (TOOL,)},
        {"tools": (TOOL,), "tool_choice": ToolChoice(mode=ToolMode.REQUIRED)},
        {"messages": None, "prompt": "Once upon a time"},
        {"messages": None, "prompt_tokens": (1, 2, 3)},
    ],
)
async def test_the_count_is_that_of_the_answer_s_usage(
    engine: ProcessEngine, fields: dict[str, object]
) -> None:
    given: dict[str, object] = {"request_id": "c", "messages": HELLO, "max_tokens": 1}
    request = GenerateRequest(**(given | fields))  # type: ignore[arg-type]  # a test's fields
    count = await engine.count_tokens(request)
    *_, end = [event async for event in engine.generate(request)]
    assert isinstance(end, Finished)
    assert end.prompt_tokens == count


async def test_a_rendered_conversation_is_the_prompt(engine: ProcessEngine) -> None:
    request = GenerateRequest(request_id="r", messages=HELLO)
    text = await engine.apply_template(request)
    assert text.endswith("<|im_start|>assistant\n")
    assert "Hello <|im_end|><|im_end|>" in text
    plain = GenerateRequest(request_id="r", prompt=text)
    assert await engine.apply_template(plain) == text


async def test_they_are_answered_while_an_answer_runs(engine: ProcessEngine) -> None:
    request = GenerateRequest(request_id="long", messages=HELLO, ignore_eos=True)
    began = asyncio.Event()

    async def answer() -> FinishReason | None:
        reason = None
        try:
            async for event in engine.generate(request):
                if isinstance(event, Token):
                    began.set()
                if isinstance(event, Finished):
                    reason = event.reason
        finally:
            began.set()
        return reason

    running = asyncio.create_task(answer())
    await began.wait()
    assert await tokenize(engine, "Hello")
    assert await engine.count_tokens(GenerateRequest(request_id="c", messages=HELLO)) > 10
    assert not running.done()
    await engine.cancel("long")
    assert await running is FinishReason.CANCELLED


async def test_what_would_keep_others_waiting_is_refused(engine: ProcessEngine) -> None:
    with pytest.raises(BadRequest, match="in parts"):
        await tokenize(engine, "a" * (2**18 + 1))
    with pytest.raises(BadRequest, match="in parts"):
        await engine.detokenize(DetokenizeRequest(request_id="d", tokens=(1,) * (2**18 + 1)))
    with pytest.raises(BadRequest, match="words that are tokens"):
        await tokenize(engine, "<|im_end|>" * 5000, parse_special=True)
    assert len(await tokenize(engine, "<|im_end|>" * 4000, parse_special=True)) == 4000
    for token in (-1, 49_152, 2**31):
        with pytest.raises(BadRequest, match="token is"):
            await engine.detokenize(DetokenizeRequest(request_id="d", tokens=(token,)))
    far_too_long = (Message(role=Role.USER, content="word " * 100_000),)
    with pytest.raises(ContextOverflow):
        await engine.count_tokens(GenerateRequest(request_id="c", messages=far_too_long))


async def test_a_model_without_the_tokens_says_which_have_them(engine: ProcessEngine) -> None:
    with pytest.raises(BadRequest, match=r"Qwen2\.5-Coder"):
        await engine.count_tokens(GenerateRequest(request_id="c", prompt="a", suffix="b"))
