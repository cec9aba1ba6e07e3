"""Who is informed when models come and go: the counters of a server, which this room knows not."""

from typing import Protocol


class PoolObserver(Protocol):
    """Gets what happens to the models of a pool, by their names."""

    def load_finished(self, model: str, seconds: float, *, failed: bool = False) -> None:
        """A load has ended."""

    def evicted(self, model: str) -> None:
        """A model was unloaded to make room for another."""

    def unloaded(self, model: str) -> None:
        """A model was unloaded because it was idle, or because somebody wanted it."""
