"""When the engine's process writes its events."""

import io

from localllm.engine.messages import (
    Finished,
    FinishReason,
    GenerateRequest,
    Heartbeat,
    PromptProgress,
    Timings,
    Token,
)
from localllm.engine.messages.codec import encode
from localllm.engine.worker.main import Outbox


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def finished(request_id: str) -> Finished:
    return Finished(
        request_id=request_id,
        reason=FinishReason.STOP,
        prompt_tokens=1,
        completion_tokens=1,
        cached_tokens=0,
        timings=Timings(queue_s=0, ttft_s=0, total_s=0, prefill_tps=None, decode_tps=None),
    )


def test_tokens_of_a_request_with_an_interval_are_written_together() -> None:
    stream, clock = io.BytesIO(), Clock()
    outbox = Outbox(stream, clock=clock)

    def lines_after_flush() -> int:
        outbox.flush()
        return stream.getvalue().count(b"\n")

    outbox.note(GenerateRequest(request_id="a", prompt="", stream_interval_s=0.5))
    outbox.put(PromptProgress(request_id="a", processed=1, total=1, cached=0))
    assert lines_after_flush() == 1
    outbox.put(Token(request_id="a", text="1"))
    assert lines_after_flush() == 2  # the first one comes at once
    outbox.put(Token(request_id="a", text="2"))
    assert lines_after_flush() == 2
    clock.now_s = 0.4
    outbox.put(Token(request_id="a", text="3"))
    assert lines_after_flush() == 2
    clock.now_s = 0.5
    assert lines_after_flush() == 4
    outbox.put(Token(request_id="a", text="4"))
    outbox.put(Token(request_id="b", text="another's"))  # which nobody may hold up
    assert lines_after_flush() == 6
    outbox.put(Token(request_id="a", text="5"))
    outbox.send(Heartbeat(steps=1))
    assert lines_after_flush() == 7
    outbox.put(finished("a"))
    assert lines_after_flush() == 9
    assert stream.getvalue().endswith(
        encode(Token(request_id="a", text="5")) + encode(finished("a"))
    )
    outbox.put(Token(request_id="a", text="of a new request of that name"))
    assert lines_after_flush() == 10


def test_nothing_is_left_behind_when_the_engine_waits() -> None:
    stream = io.BytesIO()
    outbox = Outbox(stream, clock=Clock())
    outbox.note(GenerateRequest(request_id="a", prompt="", stream_interval_s=5))
    for text in "12":
        outbox.put(Token(request_id="a", text=text))
        outbox.flush()
    assert stream.getvalue().count(b"\n") == 1
    outbox.flush(now=True)
    assert stream.getvalue().count(b"\n") == 2
