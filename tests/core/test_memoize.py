"""Memoized results: each computed at the first call, errors never kept, none shared by objects."""

from dataclasses import dataclass, field, replace

import pytest

from localllm.core.memoize import memoize, memoize_each


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    number: int
    calls: list[object] = field(default_factory=list, compare=False)
    _memo: dict[object, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    @memoize
    def double(self) -> int:
        self.calls.append("double")
        return 2 * self.number

    @memoize_each
    def divided(self, by: int) -> float:
        self.calls.append(by)
        return self.number / by


@memoize
def double(counted: Counted) -> int:
    counted.calls.append("another double")
    return counted.double


def test_a_result_is_computed_once() -> None:
    counted = Counted(number=6)
    assert (counted.double, counted.double, counted.divided(2), counted.divided(2)) == (
        12,
        12,
        3,
        3,
    )
    assert counted.calls == ["double", 2]


def test_each_argument_has_its_own_result() -> None:
    counted = Counted(number=6)
    assert (counted.divided(2), counted.divided(3)) == (3, 2)


def test_a_function_does_not_get_the_result_of_a_method_of_its_name() -> None:
    counted = Counted(number=6)
    assert (counted.double, double(counted)) == (12, 12)
    assert counted.calls == ["double", "another double"]


def test_an_error_is_not_memoized() -> None:
    counted = Counted(number=6)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            counted.divided(0)
    assert counted.calls == [0, 0]


def test_a_copy_has_results_of_its_own_and_they_are_no_part_of_the_value() -> None:
    counted = Counted(number=6)
    assert counted.double == 12
    assert replace(counted, number=7).double == 14
    assert counted == Counted(number=6)
