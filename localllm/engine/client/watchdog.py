"""When a process that does not answer is ended. Pure: the time is an argument.

The process sends a heartbeat about once a second, with a count of its computing thread's progress
(worker/llama/heartbeat.py). It is checked only while a request is pending: an idle process sends
nothing.
"""

from dataclasses import dataclass

from localllm.engine.messages import Event, Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogTimeouts:
    """Seconds in which a process must show a sign of life while a request is pending."""

    start_s: float = 120.0
    """Until its first event: Python and llama.cpp may come from a slow disk, or a network's."""
    silent_s: float = 15.0
    """Without any event: the process is stopped, or a call does not give the interpreter back."""
    stalled_s: float = 30.0
    """Without progress of its computing thread. One node of a graph takes seconds on a slow
    machine."""
    long_call_s: float = 600.0
    """The same in calls that cannot show progress: loads, dry runs, a first batch on a GPU, and
    every batch where llama.cpp's nodes cannot be counted (macOS, Windows)."""
    interval_s: float = 1.0


_MISSED_CHECKS = 3
"""A check that comes so many intervals too late: this process did not run (a suspended machine,
Ctrl+Z, a debugger), and probably the child neither. Its time begins again."""


class Watchdog:
    """Decides when the process has hung. `record` each event, `check` regularly while a request is
    pending, `pause` otherwise."""

    def __init__(self, timeouts: WatchdogTimeouts) -> None:
        self._timeouts = timeouts
        self._started = False
        self._steps = -1
        self._in_long_call = False
        self._checked_at: float | None = None
        self._event_at = 0.0
        self._progress_at = 0.0

    def record(self, event: Event, now: float) -> None:
        """Note a sign of life: any event is one of the process, and all but a heartbeat of the same
        count are signs of progress."""
        self._started = True
        self._event_at = now
        if isinstance(event, Heartbeat):
            self._in_long_call = event.long_call
            if event.steps == self._steps:
                return
            self._steps = event.steps
        self._progress_at = now

    def pause(self) -> None:
        """Let no time count until the next check: no request is pending."""
        self._checked_at = None

    def silent_s(self, now: float) -> float:
        """Return the seconds since the last event of a process that has begun to work; 0 while
        nothing is checked."""
        if self._checked_at is None or not self._started:
            return 0.0
        return max(0.0, now - self._event_at)

    def check(self, now: float, *, long_call: bool) -> str | None:
        """Return the reason to end the process, or None.

        `long_call`: a load or a dry run is pending.
        """
        timeouts, last = self._timeouts, self._checked_at
        if last is None or now - last > _MISSED_CHECKS * timeouts.interval_s:
            self._event_at = self._progress_at = now
        self._checked_at = now
        silent, stalled = now - self._event_at, now - self._progress_at
        if not self._started:
            return _exceeded(silent, timeouts.start_s, "did not begin to work within")
        long_call = long_call or self._in_long_call
        limit = timeouts.long_call_s if long_call else timeouts.stalled_s
        return _exceeded(silent, timeouts.silent_s, "stopped answering for") or _exceeded(
            stalled, limit, "computed without getting any further for"
        )


def _exceeded(seconds: float, limit_s: float, reason: str) -> str | None:
    return f"{reason} {seconds:.0f} s" if seconds > limit_s else None
