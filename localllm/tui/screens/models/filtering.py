"""Which models are listed, in which order, and which file of a model stands for it.

Pure: groups, and what is known of their sizes and rates so far, in; the lines of the list out.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from localllm.core.quality import quality
from localllm.core.recommend.plan import Goal
from localllm.core.recommend.quant_sizes import QuantSize
from localllm.core.recommend.ranking import usual, worth_trying
from localllm.core.speed import Estimate
from localllm.translation import N_
from localllm.tui.screens.models.groups import Ability, ModelGroup, QuantRow, Source


class FitFilter(StrEnum):
    """Which verdicts are listed."""

    ALL = "all"
    FITS = "fits"
    PARTLY = "partly"
    NOT = "not"


class LicenseFilter(StrEnum):
    """Which licences are listed."""

    ANY = "any"
    BUSINESS = "business"
    OTHER = "other"


class SourceFilter(StrEnum):
    """Where a model that is listed can be had."""

    ALL = "all"
    HERE = "here"
    CATALOGUE = "catalogue"
    HUB = "hub"


FIT_LABELS: Final[Mapping[FitFilter, str]] = MappingProxyType(
    {
        FitFilter.ALL: N_("fits or not"),
        FitFilter.FITS: N_("fits"),
        FitFilter.PARTLY: N_("fits partly on the GPU"),
        FitFilter.NOT: N_("does not fit"),
    }
)
LICENSE_LABELS: Final[Mapping[LicenseFilter, str]] = MappingProxyType(
    {
        LicenseFilter.ANY: N_("any licence"),
        LicenseFilter.BUSINESS: N_("licence for business"),
        LicenseFilter.OTHER: N_("licence with limits"),
    }
)
SOURCE_LABELS: Final[Mapping[SourceFilter, str]] = MappingProxyType(
    {
        SourceFilter.ALL: N_("everywhere"),
        SourceFilter.HERE: N_("on this disk"),
        SourceFilter.CATALOGUE: N_("in the catalogue"),
        SourceFilter.HUB: N_("on the Hub"),
    }
)


class SortKey(StrEnum):
    """The column that orders the list."""

    BEST = "best"
    NAME = "name"
    SIZE = "size"
    LICENCE = "licence"
    RELEASED = "released"
    QUANT = "quant"
    FILE = "file"
    NEED = "need"
    SPEED = "speed"
    LOST = "lost"


SORT_LABELS: Final[Mapping[SortKey, str]] = MappingProxyType(
    {
        SortKey.BEST: N_("best"),
        SortKey.NAME: N_("model"),
        SortKey.SIZE: N_("size"),
        SortKey.LICENCE: N_("licence"),
        SortKey.RELEASED: N_("newest"),
        SortKey.QUANT: N_("quant"),
        SortKey.FILE: N_("file"),
        SortKey.NEED: N_("need"),
        SortKey.SPEED: N_("tok/s"),
        SortKey.LOST: N_("lost"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFilter:
    """The models that are listed. `abilities` must all be there; `max_bytes` bounds the file."""

    text: str = ""
    fit: FitFilter = FitFilter.ALL
    abilities: frozenset[Ability] = frozenset()
    license: LicenseFilter = LicenseFilter.ANY
    source: SourceFilter = SourceFilter.ALL
    max_bytes: int | None = None

    @property
    def narrows(self) -> bool:
        """True when anything but the text leaves models out."""
        return self != ModelFilter(text=self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order of the list."""

    key: SortKey = SortKey.BEST
    reverse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSizes:
    """What is worked out so far, by the key of a row: its size and rate. `ranks` are the places of
    the models that are worth suggesting, by the key of a group, and `best` their files' keys."""

    sizes: Mapping[str, QuantSize] = field(default_factory=lambda: MappingProxyType({}))
    rates: Mapping[str, Estimate] = field(default_factory=lambda: MappingProxyType({}))
    ranks: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    best: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListLine:
    """A line of the list: a model with the file that stands for it (`row` None: it has none), or
    one of its files (`of_group`)."""

    group: ModelGroup
    row: QuantRow | None
    of_group: bool = False
    expanded: bool = False

    @property
    def key(self) -> str:
        return f"{self.group.key}\0{self.row.key}" if self.of_group and self.row else self.group.key


def list_lines(
    groups: Sequence[ModelGroup],
    chosen: ModelFilter,
    order: Order,
    expanded: Collection[str],
    known: KnownSizes,
) -> tuple[ListLine, ...]:
    """Return the lines of the list; a model that is expanded is followed by all its files."""
    listed = [
        (group, best_row(group, known)) for group in groups if is_listed(group, chosen, known)
    ]
    return tuple(_lines(_ordered(listed, order, known), expanded))


def _lines(
    listed: Sequence[tuple[ModelGroup, QuantRow | None]], expanded: Collection[str]
) -> Iterator[ListLine]:
    for group, row in listed:
        wide = group.key in expanded and bool(group.rows)
        yield ListLine(group=group, row=row, expanded=wide)
        if wide:
            yield from (ListLine(group=group, row=each, of_group=True) for each in group.rows)


# --- filters ---


def is_listed(group: ModelGroup, chosen: ModelFilter, known: KnownSizes) -> bool:
    """Tell whether a model passes the filter: it does when one of its files does."""
    if not (_matches_text(group, chosen.text) and chosen.abilities <= group.abilities):
        return False
    if not (_licensed(group, chosen.license) and _from(group, chosen.source)):
        return False
    if chosen.fit is FitFilter.ALL and chosen.max_bytes is None:
        return True
    fitting = [row for row in group.rows if _fits(row, chosen.fit, known)]
    if chosen.fit is FitFilter.NOT and len(fitting) < len(group.rows):
        return False  # a smaller file of it fits
    return any(chosen.max_bytes is None or row.file_bytes <= chosen.max_bytes for row in fitting)


def _matches_text(group: ModelGroup, text: str) -> bool:
    """Tell whether each word of the text is in the model's names, or in the name of a quant."""
    words = text.lower().split()
    if not words:
        return True
    where = group.words
    quants = " ".join(row.quant.lower() for row in group.rows)
    return all(word in where or word in quants for word in words)


def _licensed(group: ModelGroup, license_: LicenseFilter) -> bool:
    match license_:
        case LicenseFilter.ANY:
            return True
        case LicenseFilter.BUSINESS:
            return group.business is True
        case LicenseFilter.OTHER:
            return group.business is False


def _from(group: ModelGroup, source: SourceFilter) -> bool:
    match source:
        case SourceFilter.ALL:
            return True
        case SourceFilter.HERE:
            return group.installed
        case SourceFilter.CATALOGUE:
            return group.source is Source.CATALOGUE
        case SourceFilter.HUB:
            return group.source is Source.HUB


def _fits(row: QuantRow, fit: FitFilter, known: KnownSizes) -> bool:
    size = known.sizes.get(row.key)
    match fit:
        case FitFilter.ALL:
            return True
        case FitFilter.FITS:
            return size is not None and size.fits and not size.partly
        case FitFilter.PARTLY:
            return size is not None and size.partly
        case FitFilter.NOT:
            return size is not None and not size.fits


# --- the file that stands for a model ---


def best_row(group: ModelGroup, known: KnownSizes) -> QuantRow | None:
    """Choose the file that stands for a model: an installed one, else the one that is suggested if
    it still fits, else the first that fits in the order of a suggestion, else the smallest."""
    if not group.rows:
        return None
    here = [row for row in group.rows if row.installed is not None]
    rows = here or group.rows
    best = next((row for row in rows if row.key == known.best.get(group.key)), None)
    if best is not None and _fits_at_all(best, known):
        return best
    candidates = {row.candidate.file: row for row in rows if row.candidate is not None}
    if not candidates:
        return rows[0]
    files = [row.candidate for row in candidates.values() if row.candidate is not None]
    order = [candidates[each.file] for each in worth_trying(files, Goal.BALANCED)]
    if not any(row.key in known.sizes for row in order):
        return candidates[usual(files).file]
    return next((row for row in order if _fits_at_all(row, known)), rows[0])


def _fits_at_all(row: QuantRow, known: KnownSizes) -> bool:
    size = known.sizes.get(row.key)
    return size is not None and size.fits


def lost_percent(row: QuantRow | None) -> float | None:
    """Return the published change of perplexity of a file's quant, in percent."""
    if row is None or row.candidate is None:
        return None
    candidate = row.candidate
    return quality.change_percent(candidate.quant, candidate.parameters, candidate.architecture)


# --- order ---

_Value = tuple[float, str] | None
_Listed = tuple[ModelGroup, QuantRow | None]


def _ordered(listed: list[_Listed], order: Order, known: KnownSizes) -> list[_Listed]:
    """Sort; what is not known comes last in either direction."""
    if order.key is SortKey.BEST:
        ranked = sorted(listed, key=lambda each: _place(each[0], each[1], known))
        return ranked[::-1] if order.reverse else ranked
    value = _VALUES[order.key]
    valued = [(value(group, row, known), (group, row)) for group, row in listed]
    there = [(found, each) for found, each in valued if found is not None]
    there.sort(key=lambda each: each[0], reverse=order.reverse is not (order.key in _DESCENDING))
    return [each for _, each in there] + [each for found, each in valued if found is None]


def _place(group: ModelGroup, row: QuantRow | None, known: KnownSizes) -> tuple[int, float, str]:
    """Return what is here first, then the suggested ones in their order, then what else fits, then
    the others with the least that is lacking first, and repositories by their downloads."""
    if group.source is Source.HUB:
        return 4, -float(group.downloads or 0), group.name
    if group.installed:
        return 0, 0.0, group.name
    if group.key in known.ranks:
        return 1, float(known.ranks[group.key]), group.name
    size = known.sizes.get(row.key) if row is not None else None
    if size is None or size.fits:
        return 2, 0.0, group.name
    return 3, float(size.lacking_bytes), group.name


def _number(value: float | None) -> _Value:
    return None if value is None else (float(value), "")


def _need(group: ModelGroup, row: QuantRow | None, known: KnownSizes) -> _Value:
    size = known.sizes.get(row.key) if row is not None else None
    return None if size is None else _number(size.total_bytes)


def _speed(group: ModelGroup, row: QuantRow | None, known: KnownSizes) -> _Value:
    rate = known.rates.get(row.key) if row is not None else None
    return None if rate is None else _number(rate.likely)


_VALUES: Final[Mapping[SortKey, Callable[[ModelGroup, QuantRow | None, KnownSizes], _Value]]] = (
    MappingProxyType(
        {
            SortKey.NAME: lambda group, row, known: (0.0, group.name.lower()),
            SortKey.SIZE: lambda group, row, known: _number(group.parameters),
            SortKey.LICENCE: lambda group, row, known: (
                (0.0, group.license.lower()) if group.license else None
            ),
            SortKey.RELEASED: lambda group, row, known: (
                _number(group.released.toordinal()) if group.released else None
            ),
            SortKey.QUANT: lambda group, row, known: (0.0, row.quant) if row else None,
            SortKey.FILE: lambda group, row, known: _number(row.file_bytes) if row else None,
            SortKey.NEED: _need,
            SortKey.SPEED: _speed,
            SortKey.LOST: lambda group, row, known: _number(lost_percent(row)),
        }
    )
)
_DESCENDING: Final = frozenset({SortKey.RELEASED, SortKey.SPEED})
"""The columns of which one wants to see the largest first."""
