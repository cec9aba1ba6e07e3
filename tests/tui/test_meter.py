"""What the meter beside a conversation says of an answer's speed and of its context."""

import pytest

from localllm.core.speed.estimate import Estimate
from localllm.engine.messages import Message, Role
from localllm.machine.load import SystemLoad
from localllm.tui.widgets.meter.panel import beside_estimate
from localllm.tui.widgets.meter.readings import MeterReadings, why_forgotten

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


def messages(*texts: str, system: str = "Be terse.") -> tuple[Message, ...]:
    asked = [Message(role=Role.USER, content=text) for text in texts]
    return (Message(role=Role.SYSTEM, content=system), *asked)


def test_a_prompt_that_is_read_again_is_explained() -> None:
    before, now = messages("Why?"), messages("Why?", "And then?")
    long = "x" * 10_000
    for old, new, cached, dropped, reason in (
        (before, now, 990, 0, ""),
        (before, now, 0, 3, "the oldest messages were left out"),
        (None, now, 0, 0, "the model was loaded anew"),
        (messages("Why?", system="Rhyme."), now, 0, 0, "the system prompt has changed"),
        (messages("Who?"), now, 0, 0, "an earlier message has changed"),
        (messages(long), messages(long, "And?"), 0, 0, "another conversation took its place"),
    ):
        found = why_forgotten(old, new, prompt_tokens=1000, cached_tokens=cached, dropped=dropped)
        assert found.startswith(reason), (found, reason)
        assert bool(found) == bool(reason)
