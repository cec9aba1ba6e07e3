"""What the meter beside a conversation says of an answer's speed and of its context."""

import pytest

from localllm.chat.cache_report import describe_miss
from localllm.core.speed.estimate import Estimate
from localllm.engine.messages import (
    CacheMiss,
    CacheUsage,
    Finished,
    FinishReason,
    Message,
    MissReason,
    Role,
    Timings,
)
from localllm.machine.load import SystemLoad
from localllm.tui.widgets.meter.panel import beside_estimate
from localllm.tui.widgets.meter.readings import MeterLog, MeterReadings

EXPECTED = Estimate(low=8, likely=10, high=12)


def readings(
    average_tps: float | None = 8.2,
    *,
    running: bool = False,
    expected: Estimate | None = EXPECTED,
    on_battery: bool | None = None,
    context_used: int | None = None,
) -> MeterReadings:
    return MeterReadings(
        running=running,
        average_tps=average_tps,
        expected=expected,
        load=SystemLoad(on_battery=on_battery),
        context_used=context_used,
        context_size=4096,
    )


@pytest.mark.parametrize(
    ("read", "is_slower", "sentences"),
    [
        (readings(None), False, []),
        (readings(running=True), False, []),
        (readings(expected=None), False, []),
        (readings(10.1), False, ["as expected (10.0 tok/s)"]),
        (readings(15), False, ["50 % over the estimate of 10.0 tok/s"]),
        (readings(), True, ["18 % under the estimate of 10.0 tok/s"]),
        (
            readings(on_battery=True, context_used=4000),
            True,
            ["18 % under the estimate of 10.0 tok/s", "this computer runs on its battery"],
        ),
        (
            readings(on_battery=False, context_used=4000),
            True,
            ["18 % under the estimate of 10.0 tok/s", "the context is more than half full"],
        ),
    ],
)
def test_a_rate_is_compared_with_the_estimate_and_slowness_explained(
    read: MeterReadings, is_slower: bool, sentences: list[str]
) -> None:
    assert beside_estimate(read) == (is_slower, tuple(sentences))


def test_the_questions_that_a_context_still_holds_are_estimated_from_those_before() -> None:
    assert MeterReadings(context_used=1000, context_size=4000, questions=2).questions_left == 6
    assert MeterReadings(context_used=5000, context_size=4000, questions=2).questions_left == 0
    assert MeterReadings(context_used=1000, context_size=4000).questions_left is None
    assert MeterReadings(context_size=4000, questions=1).questions_left is None


def ended(cache: CacheUsage) -> Finished:
    return Finished(
        request_id="1",
        reason=FinishReason.STOP,
        prompt_tokens=cache.own + cache.shared + cache.computed,
        completion_tokens=1,
        cached_tokens=cache.own + cache.shared,
        timings=Timings(queue_s=0, ttft_s=1, total_s=2, prefill_tps=3, decode_tps=4, cache=cache),
    )


def test_a_prompt_that_is_read_again_is_explained() -> None:
    log = MeterLog(lambda: 0.0)
    question = Message(role=Role.USER, content="Why?")
    log.loaded(4096)
    log.started((question,))
    log.ended(ended(CacheUsage(computed=900)))
    assert log.readings().forgotten == ""  # it begins
    log.started((question, question))
    log.ended(ended(CacheUsage(computed=900)))
    assert log.readings().forgotten == "the model was loaded anew"
    log.settled()
    log.started((question, question))
    assert log.readings().forgotten == ""
    log.ended(ended(CacheUsage(own=1000, computed=900)))
    assert (log.readings().sources, log.readings().forgotten) == ("", "")
    tools = CacheMiss(reason=MissReason.TOOLS_CHANGED, position=1204, lost_tokens=900)
    log.started((question, question))
    log.ended(ended(CacheUsage(own=1000, shared=204, computed=900, miss=tools)))
    assert log.readings().sources == "1,000 own, 204 another slot's"
    assert (
        log.readings().forgotten == "900 tokens were read again: the tools changed at token 1,204"
    )


@pytest.mark.parametrize("reason", list(MissReason))
def test_every_reason_has_a_sentence(reason: MissReason) -> None:
    for timestamp in (False, True):
        miss = CacheMiss(
            reason=reason, position=20, lost_tokens=830, message=3, timestamp=timestamp,
            dropped_tokens=700,
        )  # fmt: skip
        text = describe_miss(miss)
        assert text.startswith("830 tokens were read again: ")
        assert "{" not in text
