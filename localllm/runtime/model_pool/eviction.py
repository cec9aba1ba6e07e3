"""Which models give way to a load: a pure decision over what fits beside what.

The sizing core says what fits (`Assess`); this module only chooses sets of models to ask it about,
so that it holds on any number of devices and for any placement.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The result of a load once a set of models is unloaded: whether it fits, and with how many
    layers on GPUs."""

    fits: bool
    gpu_layers: int = 0


Assess = Callable[[frozenset[str]], Assessment]
"""Assess the load without these models. More of them never make it worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A resident model that might give way.

    `load_s`: the time it takes to bring it back; `uses`: its requests up to now; `remaining_s`: the
    time until its requests are done, None when it has none (it is idle) or nobody can know.
    """

    name: str
    idle_s: float = 0.0
    load_s: float = 1.0
    uses: int = 0
    busy: bool = False
    remaining_s: float | None = None
    pinned: bool = False

    @property
    def value(self) -> float:
        """The worth of keeping it: the seconds of loading that its requests would have cost, by the
        time since the last one."""
        return self.load_s * (1 + self.uses) / (1 + self.idle_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """The load fits after these idle models are unloaded; none: at once."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFor:
    """The load fits when `busy` models have done their requests and they and `idle` ones are
    unloaded. `wait_s` is the longest of their `remaining_s`, None when one is not known."""

    busy: tuple[str, ...]
    idle: tuple[str, ...] = ()
    wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotFit:
    """The load does not fit whatever gives way; without `pinned` models it would."""

    pinned: tuple[str, ...] = ()


EvictionPlan = Evict | WaitFor | CannotFit


def plan_eviction(assess: Assess, residents: Collection[Candidate]) -> EvictionPlan:
    """Choose what is unloaded for a load: idle models, the least valuable first, and no more than
    it needs.

    Idle models also give way for layers on a GPU, since these are what makes a model fast. Busy
    ones are waited for when the load fits without them only; pinned ones stay.
    """
    idle = sorted((c for c in residents if not c.busy and not c.pinned), key=_least_valuable)
    busy = sorted((c for c in residents if c.busy and not c.pinned), key=_soonest_done)
    idle_names = tuple(c.name for c in idle)
    best = assess(frozenset(idle_names))
    if best.fits:

        def as_good(gone: frozenset[str]) -> bool:
            found = assess(gone)
            return found.fits and found.gpu_layers >= best.gpu_layers

        return Evict(names=_smallest(idle_names, as_good, frozenset()))

    def fits(gone: frozenset[str]) -> bool:
        return assess(gone).fits

    busy_names = tuple(c.name for c in busy)
    everything = frozenset((*idle_names, *busy_names))
    if fits(everything):
        waited = _smallest(busy_names, fits, frozenset(idle_names))
        remaining = [c.remaining_s for c in busy if c.name in waited]
        known = [each for each in remaining if each is not None]
        return WaitFor(
            busy=waited,
            idle=_smallest(idle_names, fits, frozenset(waited)),
            wait_s=max(known) if len(known) == len(remaining) else None,
        )
    pinned = tuple(sorted(c.name for c in residents if c.pinned))
    if pinned and fits(everything | frozenset(pinned)):
        return CannotFit(pinned=_smallest(pinned, fits, everything))
    return CannotFit()


def _smallest(
    names: Sequence[str], enough: Callable[[frozenset[str]], bool], also: frozenset[str]
) -> tuple[str, ...]:
    """Return names, the first ones rather than later ones, that are enough together with `also`,
    and of which none can be left out. All of them are enough."""
    taken: list[str] = []
    for name in names:
        if enough(also.union(taken)):
            break
        taken.append(name)
    for name in tuple(reversed(taken)):
        fewer = [each for each in taken if each != name]
        if enough(also.union(fewer)):
            taken = fewer
    return tuple(taken)


def _least_valuable(candidate: Candidate) -> tuple[float, str]:
    return candidate.value, candidate.name


def _soonest_done(candidate: Candidate) -> tuple[float, str]:
    known = candidate.remaining_s
    return (float("inf") if known is None else known), candidate.name
