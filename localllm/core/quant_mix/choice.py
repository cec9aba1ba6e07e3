"""The types of a run of tensors: one for all, or a raised one at certain positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from localllm.core.quants import GgmlType


class Where(StrEnum):
    """Which positions of a run of `total` tensors get the raised type."""

    MORE_BITS = "first and last eighth, and every third between"
    FIRST_EIGHTH = "first eighth"
    FIRST_SIXTEENTH = "first sixteenth"
    FIRST_TWO = "first two"
    FIRST_FOUR = "first four"
    MIDDLE = "all but the first and last eighth"

    def holds(self, i: int, total: int) -> bool:
        eighth = total // 8
        match self:
            case Where.MORE_BITS:
                return i < eighth or i >= 7 * total // 8 or (i - eighth) % 3 == 2
            case Where.FIRST_EIGHTH:
                return i < eighth
            case Where.FIRST_SIXTEENTH:
                return i < total // 16
            case Where.FIRST_TWO:
                return i < 2
            case Where.FIRST_FOUR:
                return i < 4
            case Where.MIDDLE:
                return eighth <= i < 7 * total // 8


@dataclass(frozen=True, slots=True)
class Choice:
    """The type of a run of tensors: `kind`, or `raised` at the positions where `where` holds."""

    kind: GgmlType
    raised: GgmlType | None = None
    where: Where | None = None

    def at(self, i: int, total: int) -> GgmlType:
        """Give the type at position `i` of `total`."""
        if self.raised is not None and self.where is not None and self.where.holds(i, total):
            return self.raised
        return self.kind

    def mapped(self, fit: Mapping[GgmlType, GgmlType]) -> "Choice":
        """Replace types; those not in `fit` stay."""
        raised = None if self.raised is None else fit.get(self.raised, self.raised)
        return Choice(fit.get(self.kind, self.kind), raised, self.where)
