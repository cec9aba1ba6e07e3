"""An answer that goes on past the model's own end, for measurements."""

from dataclasses import replace
from pathlib import Path

import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import FinishReason
from tests.engine.answers import ask, collect

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def engine_model(smollm2: Path) -> Path:
    """All of SmolLM2: it ends an answer by itself."""
    return smollm2


async def test_an_end_token_is_one_like_any_other_when_asked(engine: ProcessEngine) -> None:
    short = ask("short", "Say hello.", max_tokens=100)
    text, ended, _ = await collect(engine, short)
    assert ended.reason is FinishReason.STOP
    assert ended.completion_tokens < 100
    most = ended.completion_tokens + 20
    long = replace(short, request_id="long", max_tokens=most, ignore_eos=True)
    text_beyond, done, _ = await collect(engine, long)
    assert (done.reason, done.completion_tokens) == (FinishReason.LENGTH, most)
    assert text_beyond.startswith(text)
