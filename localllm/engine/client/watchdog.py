"""When a process that does not answer is given up. Pure: the time is an argument.

The process says about once a second that it lives and whether its computing thread moves on
(`Heartbeat`; where the signs come from: worker/llama/heartbeat.py). Only while somebody waits for
an answer is it looked at: an idle process says nothing.
"""

from dataclasses import dataclass

from localllm.engine.messages import Event, Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, in seconds, a process that somebody waits for may show nothing."""

    start_s: float = 120.0
    """Until its first word: Python and llama.cpp may come from a slow disk, or a network's."""
    silent_s: float = 15.0
    """Nothing at all: it is stopped, or a call does not give the interpreter back."""
    still_s: float = 30.0
    """Its computing thread does not move. One node of a graph takes seconds on a slow machine."""
    long_s: float = 600.0
    """The same where it cannot show that it moves: loads, dry runs, a first batch on a GPU, and
    every batch where llama.cpp's nodes cannot be counted (macOS, Windows)."""
    look_s: float = 1.0
    """From one look to the next."""


_MISSED_LOOKS = 3
"""So many looks too late: it was us who did not run (a suspended machine, Ctrl+Z, a debugger),
and probably the child neither. Its time begins again."""


class Watchdog:
    """Call `heard` for each event, `look` regularly while somebody waits, `rest` otherwise."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._started = False
        self._moves = -1
        self._patient = False
        self._looked: float | None = None
        self._heard_at = 0.0
        self._moved_at = 0.0

    def heard(self, event: Event, now: float) -> None:
        """The process said this."""
        self._started = True
        self._heard_at = now
        if isinstance(event, Heartbeat):
            self._patient = event.long_call
            if event.steps == self._moves:
                return
            self._moves = event.steps
        self._moved_at = now

    def rest(self) -> None:
        """Nobody waits: nothing counts until the next look."""
        self._looked = None

    def look(self, now: float, *, long: bool) -> str | None:
        """Why the process should be given up; None while it should not.

        `long`: somebody waits for a load or a dry run.
        """
        if self._looked is None or now - self._looked > _MISSED_LOOKS * self._patience.look_s:
            self._heard_at = self._moved_at = now
        self._looked = now
        silent, still = now - self._heard_at, now - self._moved_at
        if not self._started:
            return _gave(silent, self._patience.start_s, "did not begin to work within")
        patient = long or self._patient
        limit = self._patience.long_s if patient else self._patience.still_s
        return _gave(silent, self._patience.silent_s, "stopped answering for") or _gave(
            still, limit, "computed without getting any further for"
        )


def _gave(quiet_s: float, limit_s: float, words: str) -> str | None:
    return f"{words} {quiet_s:.0f} s" if quiet_s > limit_s else None
