"""Heartbeats: each has a count of the computing thread's progress."""

import queue
import sys
from collections.abc import Callable
from pathlib import Path

from localllm.engine.messages import Heartbeat
from localllm.engine.worker.llama.heartbeat import HeartbeatState, HeartbeatThread
from tests.engine import tiny
from tests.engine.stepped_scheduler import SteppedScheduler, settings


def test_a_batch_shows_each_node_of_its_graph(tmp_path: Path) -> None:
    stepped = SteppedScheduler(tiny.plain(tmp_path / "plain.gguf"), settings())
    stepped.submit("a", "hello")
    beats_before, nodes_before = stepped.model.heartbeat.progress()
    stepped.scheduler.step()
    beats, nodes = stepped.model.heartbeat.progress()
    assert beats > beats_before
    if sys.platform == "linux":
        assert nodes is not None
        assert nodes_before is not None
        assert nodes - nodes_before > 20  # two layers of more than ten nodes each
    stepped.close()


def test_a_heartbeat_says_whether_the_thread_has_made_progress() -> None:
    state, heartbeats = HeartbeatState(), Heartbeats()
    thread = HeartbeatThread(state, heartbeats.put, interval_s=0)
    first = heartbeats.take()
    assert heartbeats.take() == first
    state.beat()
    assert heartbeats.until(lambda heartbeat: heartbeat.steps > first.steps)
    with state.long_call():
        assert heartbeats.until(lambda heartbeat: heartbeat.long_call)
    assert heartbeats.until(lambda heartbeat: not heartbeat.long_call)
    thread.pause()


class Heartbeats:
    """The heartbeats of a thread, one at a time: it waits until the last one was taken."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Heartbeat] = queue.Queue(1)
        self.put = self._queue.put
        self.take = self._queue.get

    def until(self, condition: Callable[[Heartbeat], bool]) -> bool:
        while not condition(self.take()):
            pass
        return True
