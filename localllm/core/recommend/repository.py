"""The offers of a repository, from its list of files and the header of one of them.

All quants of a model have the same tensors, so the header of one file and the lengths of the
others are enough to size every one; nothing else is downloaded. The listed lengths are the truth:
where a publisher does not follow llama.cpp's mixes, the weights are made as large as the file is,
and the offer's note says so. Which files belong together is read from their names
(`repository_files.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from localllm.core.catalogue.requantize import AppliedMix, Requantizer
from localllm.core.model.file_types import ALIASES, FILE_TYPES, fork_of
from localllm.core.model.quants import RETIRED
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend.plan import Candidate
from localllm.core.recommend.repository_files import (
    DRAFTER_REASON,
    MAX_NAME,
    LeftOut,
    ModelFile,
    RepoFile,
    is_split_twin,
    left_out,
    sort_files,
)
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.errors import GgufError

SAME_WEIGHT = 0.01
"""A file whose weights differ by more from llama.cpp's mix is not made by it."""

_MOST_LARGER = 2.5
_MOST_SMALLER = 1.5
"""A file that is so many times larger or smaller than its label says holds something else. Room
above is needed: Q4_0 of Gemma 3 270M with its embeddings left in F16 is 2.02 times Q4_0."""

_NOTHING: Mapping[str, str] = MappingProxyType({})

# Labels as publishers write them -> the mix llama.cpp makes (`QUANT_OPTIONS`, quantize.cpp).
_ALIASES = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "FP16": "F16",
    "FP32": "F32",
    **ALIASES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model file: `files` are its parts in order. `mix` is the one that its tensors' types are
    taken from, None for the file whose header was read. `note` is a sentence on what is not exact
    about it; None when the file is what llama.cpp makes of its label."""

    candidate: Candidate
    files: tuple[str, ...]
    mix: str | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoOffers:
    """The offers of a repository, the largest first, and the files that were left out.

    `twins` are those of the offers whose file is listed whole as well: they can be named, and are
    not chosen.
    """

    offers: tuple[Offer, ...]
    left_out: tuple[LeftOut, ...]
    twins: tuple[Offer, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The offers to choose from, as candidates."""
        return tuple(offer.candidate for offer in self.offers if offer not in self.twins)


def candidates(
    repository: str, header: ModelSpec, files: Sequence[RepoFile]
) -> tuple[Candidate, ...]:
    """Return every model file of a repository as a candidate for `recommend.plans`.

    `offers_of` also returns what was left out and what is not exact.
    """
    return offers_of(repository, header, files).candidates


def offers_of(
    repository: str,
    header: ModelSpec,
    files: Sequence[RepoFile],
    *,
    unusable: Mapping[str, str] = _NOTHING,
) -> RepoOffers:
    """Sort a repository's files into offers and those that are left out.

    `header` is that of any one of the models' files (of a split one: all parts' tensors);
    `unusable` are files whose own header says that they are none, by name, with the reason. Raises
    GgufError for a header without tensors, of a part alone, or with sizes that are no numbers.
    """
    _require_whole(header)
    reader = _OfferReader(single_line(repository)[:MAX_NAME], header)
    offers: list[Offer] = []
    left: list[LeftOut] = []
    whole = sort_files(files)
    for file in whole:
        if isinstance(file, LeftOut):
            left.append(file)
        elif (reason := unusable.get(file.names[0])) is not None:
            left.append(left_out(file.names[0], reason))
        elif isinstance(result := reader.read(file), LeftOut):
            left.append(result)
        else:
            offers.append(result)
    offers.sort(key=lambda offer: (-offer.candidate.size_bytes, offer.candidate.file))
    models = [each for each in whole if isinstance(each, ModelFile)]
    twins = {each.names for each in models if is_split_twin(each, models)}
    return RepoOffers(
        offers=tuple(offers),
        left_out=tuple(left),
        twins=tuple(offer for offer in offers if offer.files in twins),
    )


def _require_whole(header: ModelSpec) -> None:
    if not header.parameters:
        raise GgufError("the header holds no tensors, so no file can be sized with it")
    total = header.metadata.get("split.tensors.count")
    if isinstance(total, int) and total > len(header.tensors):
        raise GgufError(
            f"the header is that of one part, with {len(header.tensors)} of {total} tensors."
            " Read the headers of all parts"
        )


class _OfferReader:
    """Reads the files of one repository as offers."""

    def __init__(self, repository: str, header: ModelSpec) -> None:
        self._repository = repository
        self._header = header
        self._requantizer = Requantizer(header)
        # What surrounds the tensors is the same in every quant: keys, vocabulary and gaps.
        self._around_bytes = max(0, header.file_bytes - self._requantizer.own_bytes)
        self._parameters = header.parameters
        self._active_parameters = header.active_parameters

    def read(self, file: ModelFile) -> Offer | LeftOut:
        """Return the offer that a file is, or why it is none."""
        label = file.label
        mix = _mix(label)
        if label is not None and label.removeprefix("UD-") in RETIRED.values():
            return left_out(file.names[0], f"{label} is a type that llama.cpp no longer reads")
        if self._is_own(file, mix):
            return self._own(file, label or self._header.quant or "?")
        if file.drafter:
            return left_out(file.names[0], DRAFTER_REASON, companion=True)
        if (fork := fork_of(label)) is not None:
            return left_out(
                file.names[0], f"{label} is a type of {fork}, which llama.cpp does not read"
            )
        weights = max(0, file.size_bytes - self._around_bytes)
        applied = self._requantizer.match(FILE_TYPES if mix is None else (mix,), weights)
        times = weights / applied.weights_bytes
        if not 1 / _MOST_SMALLER <= times <= _MOST_LARGER:
            return left_out(file.names[0], self._other_model(file, applied))
        return self._offer(file, label, mix, applied, weights)

    def _is_own(self, file: ModelFile, mix: str | None) -> bool:
        """Return True for the file whose header was read. Two quants can be of one length."""
        own = _mix(self._header.quant)
        same_label = mix is None or own is None or mix == own
        return file.size_bytes == self._header.file_bytes and same_label

    def _own(self, file: ModelFile, quant: str) -> Offer:
        candidate = self._candidate(file, quant)
        return Offer(candidate=candidate, files=file.names, mix=None, note=None)

    def _offer(
        self, file: ModelFile, label: str | None, mix: str | None, applied: AppliedMix, weights: int
    ) -> Offer:
        """Build an offer with the tensors of `applied`, scaled to the file where sizes differ."""
        follows = abs(applied.weights_bytes / weights - 1) <= SAME_WEIGHT
        size = file.size_bytes
        scaled = None if follows else weights
        note = None
        if mix is None:
            note = _nearest_words(label, applied)
        if not follows:
            note = " ".join(filter(None, (note, _weight_words(weights, applied))))
        candidate = replace(
            self._candidate(file, label or applied.quant),
            spec=lambda: self._requantizer.spec(applied, file_bytes=size, weights_bytes=scaled),
            caveats=() if note is None else (note,),
        )
        return Offer(candidate=candidate, files=file.names, mix=applied.quant, note=note)

    def _candidate(self, file: ModelFile, quant: str) -> Candidate:
        return Candidate(
            model=self._repository,
            quant=quant,
            file=f"{self._repository}:{file.names[0]}",
            size_bytes=file.size_bytes,
            parameters=self._parameters,
            active_parameters=self._active_parameters,
            architecture=self._header.architecture,
            released=None,
            installed=False,
            spec=lambda: self._header,
        )

    def _other_model(self, file: ModelFile, applied: AppliedMix) -> str:
        expected = format_bytes(applied.weights_bytes + self._around_bytes)
        return (
            f"{format_bytes(file.size_bytes)} cannot be {applied.quant} of this model, which is"
            f" {expected}: it holds another model or a part of one"
        )


def _mix(label: str | None) -> str | None:
    """Return the standard mix that a label stands for; None when there is none."""
    name = _ALIASES.get(label, label) if label is not None else None
    return name if name in FILE_TYPES else None


def _nearest_words(label: str | None, applied: AppliedMix) -> str:
    what = "The file's name states no quant" if label is None else f"{label} is no llama.cpp mix"
    return f"{what}; {applied.quant} is the nearest in size and stands in for its types."


def _weight_words(weights: int, applied: AppliedMix) -> str:
    percent = (weights / applied.weights_bytes - 1) * 100
    more = f"{abs(percent):.1f} % {'larger' if percent > 0 else 'smaller'}"
    return (
        f"Its weights are {more} than llama.cpp makes {applied.quant}: the publisher chose other"
        " types for some tensors. They are counted as large as the file is."
    )
