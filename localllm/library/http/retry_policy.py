"""How long to wait before the next attempt, and when to stop trying. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """A schedule of waits between attempts that brought nothing; one that brought bytes resets it.

    `waits_s` are the waits after the first, second, ... attempt; after the last the endpoint is
    given up. `fewer` is how many of them are allowed while it has not answered at all, so that a
    wrong address fails soon. A server's own wish (`Retry-After`) replaces the wait as far as it is
    longer, up to `longest_s`: one that wants a day is not waited for.
    """

    waits_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
    fewer: int = 4
    longest_s: float = 300.0

    def wait_s(self, failures: int, *, asked_s: float | None, answered: bool) -> float | None:
        """The wait after the `failures`th attempt in a row (from 1) that brought nothing.

        None: no more attempts here. `asked_s` is the server's Retry-After, `answered` whether
        the endpoint has ever answered in this run.
        """
        if asked_s is not None and asked_s > self.longest_s:
            return None
        allowed = self.waits_s if answered else self.waits_s[: self.fewer]
        if failures > len(allowed):
            return None
        return max(allowed[failures - 1], asked_s or 0.0)
