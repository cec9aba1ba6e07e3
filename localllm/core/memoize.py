"""Answers that an immutable object works out once and keeps.

For frozen, slotted classes, which `functools.cached_property` cannot serve: they keep the answers
in a dictionary of their own (`_memo`, no part of their value), which goes with them.
"""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Protocol, TypeVar


class Memoized(Protocol):
    """What has a place for its answers."""

    @property
    def _memo(self) -> dict[object, object]: ...


_Of = TypeVar("_Of", bound=Memoized)
_Asked = TypeVar("_Asked", bound=Hashable)
_Answer = TypeVar("_Answer")


def memoize(ask: Callable[[_Of], _Answer]) -> Callable[[_Of], _Answer]:
    """Keep what a method, or a function of the object alone, answers; an error is not kept."""

    @wraps(ask)
    def answer(keeper: _Of) -> _Answer:
        known = keeper._memo
        if ask not in known:
            known[ask] = ask(keeper)
        return known[ask]  # type: ignore[return-value]  # only `ask` puts it there

    return answer


def memoize_each(ask: Callable[[_Of, _Asked], _Answer]) -> Callable[[_Of, _Asked], _Answer]:
    """As `memoize`, for each value (a layer, settings) that it is asked about."""

    @wraps(ask)
    def answer(keeper: _Of, about: _Asked) -> _Answer:
        key, known = (ask, about), keeper._memo
        if key not in known:
            known[key] = ask(keeper, about)
        return known[key]  # type: ignore[return-value]  # only `ask` puts it there

    return answer
