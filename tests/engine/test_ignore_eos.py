"""An answer that goes on past the model's own end, for measurements."""

from dataclasses import replace

import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import FinishReason
from tests.engine.answers import ask, collect

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_end_token_is_one_like_any_other_when_asked(engine: ProcessEngine) -> None:
    short = ask("short", "Say hello.", max_tokens=100)
    text, ended, _ = await collect(engine, short)
    assert ended.reason is FinishReason.STOP
    assert ended.completion_tokens < 100
    text_beyond, done, _ = await collect(engine, replace(short, request_id="long", ignore_eos=True))
    assert (done.reason, done.completion_tokens) == (FinishReason.LENGTH, 100)
    assert text_beyond.startswith(text)
