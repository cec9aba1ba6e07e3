"""Memoize methods of frozen, slotted classes, which `functools.cached_property` cannot serve.

The results lie in a dictionary of the object's own (`_memo`, no part of its value) and go with it.
"""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Protocol, TypeVar


class Memoized(Protocol):
    """An object with a dictionary for memoized results."""

    @property
    def _memo(self) -> dict[object, object]: ...


_Owner = TypeVar("_Owner", bound=Memoized)
_Argument = TypeVar("_Argument", bound=Hashable)
_Result = TypeVar("_Result")


def memoize(method: Callable[[_Owner], _Result]) -> Callable[[_Owner], _Result]:
    """Memoize a method, or a function of the object alone; an error is not memoized."""

    @wraps(method)
    def wrapper(owner: _Owner) -> _Result:
        memo = owner._memo
        if method not in memo:
            memo[method] = method(owner)
        return memo[method]  # type: ignore[return-value]  # only `method` puts it there

    return wrapper


def memoize_each(
    method: Callable[[_Owner, _Argument], _Result],
) -> Callable[[_Owner, _Argument], _Result]:
    """Memoize as `memoize` does, for each value (a layer, settings) of the argument."""

    @wraps(method)
    def wrapper(owner: _Owner, argument: _Argument) -> _Result:
        key, memo = (method, argument), owner._memo
        if key not in memo:
            memo[key] = method(owner, argument)
        return memo[key]  # type: ignore[return-value]  # only `method` puts it there

    return wrapper
