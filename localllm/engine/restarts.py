"""When an engine that crashed is started again. Pure: the time is an argument."""

_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0


class Restarts:
    """The first restart is at once. What crashes again before it has finished an answer probably
    does so every time: the next one has to wait 30 s, then twice as long each time, 10 minutes at
    most, so that a server that nobody watches recovers from what passes by itself."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._not_before = 0.0

    def answered(self) -> None:
        """An answer was finished: what crashes now is another story."""
        self._in_a_row = 0
        self._not_before = 0.0

    def begun(self, now: float) -> None:
        """The engine is being started again."""
        pause = min(_FIRST_PAUSE_S * 2**self._in_a_row, _LONGEST_PAUSE_S)
        self._in_a_row = min(self._in_a_row + 1, 16)
        self._not_before = now + pause

    def wait_s(self, now: float) -> float:
        """Seconds until it may be started again; 0: now."""
        return max(0.0, self._not_before - now)
