"""The offers of a repository, from its list of files and the header of one of them.

All quants of a model have the same tensors, so the header of one file and the lengths of the
others are enough to size every one; nothing else is downloaded. The listed lengths are the truth:
where a publisher does not follow llama.cpp's mixes, the weights are made as large as the file is,
and the offer's note says so. Which files belong together (a quant's parts, the image encoder of a
model) is read from their names, which are outside text: nothing raises, whatever they hold.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from localllm.core.catalogue.requantize import AppliedMix, Requantizer
from localllm.core.model.file_types import ALIASES, FILE_TYPES, label_in, split_of
from localllm.core.model.quants import RETIRED
from localllm.core.model.spec import ModelSpec
from localllm.core.recommend.plan import Candidate
from localllm.core.text import single_line, strip_controls
from localllm.core.units import format_bytes
from localllm.errors import GgufError

SAME_WEIGHT = 0.01
"""A file whose weights differ by more from llama.cpp's mix is not made by it."""

_MOST_LARGER = 2.5
_MOST_SMALLER = 1.5
"""A file that is so many times larger or smaller than its label says holds something else. Room
above is needed: Q4_0 of Gemma 3 270M with its embeddings left in F16 is 2.02 times Q4_0."""
_LARGEST_FILE = 1 << 50
_MAX_NAME = 400
_MAX_SHOWN = 80

# Labels as publishers write them -> the mix llama.cpp makes (`QUANT_OPTIONS`, quantize.cpp).
_ALIASES = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "FP16": "F16",
    "FP32": "F32",
    **ALIASES,
}
_SUFFIX = re.compile(r"\.gguf\Z", re.IGNORECASE)

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """A file as a repository lists it; `name` is its path in the repository."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A GGUF file (or the parts of one) that is not offered. `name` is safe to show."""

    name: str
    reason: str


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
    """The offers of a repository, the largest first, and the files that were left out."""

    offers: tuple[Offer, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The offers as candidates."""
        return tuple(offer.candidate for offer in self.offers)


def candidates(
    repository: str, header: ModelSpec, files: Sequence[RepoFile]
) -> tuple[Candidate, ...]:
    """Return every model file of a repository as a candidate for `recommend.plans`.

    `offers_of` also returns what was left out and what is not exact.
    """
    return offers_of(repository, header, files).candidates


def offers_of(repository: str, header: ModelSpec, files: Sequence[RepoFile]) -> RepoOffers:
    """Sort a repository's files into offers and those that are left out.

    `header` is that of any one of the models' files (of a split one: all parts' tensors). Raises
    GgufError for a header without tensors, of a part alone, or with sizes that are no numbers.
    """
    _require_whole(header)
    reader = _OfferReader(single_line(repository)[:_MAX_NAME], header)
    offers: list[Offer] = []
    left_out: list[LeftOut] = []
    for file in _whole(files):
        result = file if isinstance(file, LeftOut) else reader.read(file)
        if isinstance(result, LeftOut):
            left_out.append(result)
        else:
            offers.append(result)
    offers.sort(key=lambda offer: (-offer.candidate.size_bytes, offer.candidate.file))
    return RepoOffers(offers=tuple(offers), left_out=tuple(left_out))


def _require_whole(header: ModelSpec) -> None:
    if not header.parameters:
        raise GgufError("the header holds no tensors, so no file can be sized with it")
    total = header.metadata.get("split.tensors.count")
    if isinstance(total, int) and total > len(header.tensors):
        raise GgufError(
            f"the header is that of one part, with {len(header.tensors)} of {total} tensors."
            " Read the headers of all parts"
        )


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A whole model file, or all parts of one in order; `stem` is the name they share."""

    stem: str
    names: tuple[str, ...]
    size_bytes: int

    @property
    def label(self) -> str | None:
        """The quant in the file's name; else that of the folder it lies in."""
        folder, _, name = self.stem.rpartition("/")
        return label_in(name) or label_in(folder.rpartition("/")[2])


def model_files(files: Sequence[RepoFile]) -> tuple[ModelFile, ...]:
    """Pick the files that may hold a model, by name and length alone: their headers can be read."""
    return tuple(each for each in _whole(files) if isinstance(each, ModelFile))


def _whole(files: Sequence[RepoFile]) -> Iterator[ModelFile | LeftOut]:
    """Yield the GGUF files, parts put together, each name once."""
    splits: dict[tuple[str, int], dict[int, RepoFile]] = {}
    unique = {file.name: file for file in files if _SUFFIX.search(file.name)}
    for file in unique.values():
        reason = why_unusable(file) or _no_model(file.name.rpartition("/")[2])
        split = split_of(file.name) if reason is None else None
        if reason is not None:
            yield _left_out(file.name, reason)
        elif split is not None:
            stem, number, count = split
            splits.setdefault((stem, count), {})[number] = file
        else:
            yield ModelFile(_SUFFIX.sub("", file.name), (file.name,), file.size_bytes)
    for (stem, count), parts in splits.items():
        yield _joined(stem, count, parts)


def _joined(stem: str, count: int, parts: dict[int, RepoFile]) -> ModelFile | LeftOut:
    present = sum(1 <= number <= count for number in parts)
    if present < count or present < len(parts):
        what = f"{present} of its {count} parts" if count else "parts of none"
        return _left_out(stem, f"the repository lists {what}")
    ordered = [parts[number] for number in sorted(parts)]
    size = sum(file.size_bytes for file in ordered)
    return ModelFile(stem, tuple(file.name for file in ordered), size)


def why_unusable(file: RepoFile) -> str | None:
    """Describe why a listed file cannot be fetched, whatever it holds; None when it can."""
    name = file.name
    if len(name) > _MAX_NAME:
        return f"its name has {len(name)} characters; at most {_MAX_NAME} are taken"
    if strip_controls(name) != name or "\n" in name or "\t" in name:
        return "its name holds characters that cannot be shown"
    steps = name.split("/")
    if "\\" in name or ":" in name or any(step in ("", ".", "..") for step in steps):
        return "its name is no path inside the repository"
    if not 0 < file.size_bytes <= _LARGEST_FILE:
        return "the repository does not say how large it is"
    return None


def _no_model(file_name: str) -> str | None:
    """Describe a file that is no model, by its name; None for all others."""
    words = set(_WORD.findall(file_name.lower()))
    if any(word.startswith("mmproj") for word in words):
        return "an image or audio encoder (mmproj), which works beside a model"
    if words & {"lora", "adapter"}:
        return "an adapter, which works on top of a model"
    # Models made with an importance matrix may say so, but they say their quant as well.
    if "imatrix" in words and label_in(file_name) is None:
        return "an importance matrix, which only a quantizer reads"
    return None


def _left_out(name: str, reason: str) -> LeftOut:
    shown = single_line(name)
    short = shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 1] + "…"
    return LeftOut(name=short, reason=reason)


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
            return _left_out(file.names[0], f"{label} is a type that llama.cpp no longer reads")
        if self._is_own(file, mix):
            return self._own(file, label or self._header.quant or "?")
        weights = max(0, file.size_bytes - self._around_bytes)
        applied = self._requantizer.match(FILE_TYPES if mix is None else (mix,), weights)
        times = weights / applied.weights_bytes
        if not 1 / _MOST_SMALLER <= times <= _MOST_LARGER:
            return _left_out(file.names[0], self._other_model(file, applied))
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


USUAL_QUANT = "Q4_K_M"
"""The quant that nearly every repository has and most people take."""

_GENERIC = frozenset({"mmproj", "model", "gguf"})
_ENCODER_TYPES = ("F16", "FP16", "BF16", "Q8_0", "F32", "FP32")
"""Types of an encoder's file, the one to take first: llama.cpp's own conversions are F16, which
every backend computes with; F32 is twice as large and BF16 slow where it is emulated."""


def header_source(files: Sequence[ModelFile]) -> ModelFile | None:
    """Pick the file whose header to read: whole, of the usual quant, else the smallest.

    None when there is no model file.
    """
    order = sorted(files, key=lambda f: (f.label != USUAL_QUANT, len(f.names) > 1, f.size_bytes))
    return order[0] if order else None


def files_named(files: Sequence[ModelFile], quant: str) -> tuple[ModelFile, ...]:
    """Find the files that a person means by a quant's name or by a file's own."""
    label = quant.upper()
    by_name = tuple(f for f in files if any(_is_file(name, quant) for name in f.names))
    return by_name or tuple(f for f in files if f.label == label)


def mmproj_for(model: ModelFile, files: Sequence[RepoFile]) -> RepoFile | None:
    """Find the mmproj that a vision or audio model needs; None when the repository has none for it.

    One that names the model is taken first, then one that names none. Of those that name other
    things only a single kind is taken: which of two would be a guess.
    """
    encoders = [f for f in files if why_unusable(f) is None and _is_encoder(f.name)]
    words = _words(model.stem)
    named = [f for f in encoders if _subject(f.name) and _subject(f.name) <= words]
    generic = [f for f in encoders if not _subject(f.name)]
    fitting = named or generic
    if not fitting and len({_subject(f.name) for f in encoders}) == 1:
        fitting = encoders
    folder = model.stem.rpartition("/")[0]
    return min(
        fitting,
        key=lambda f: (f.name.rpartition("/")[0] != folder, -len(_subject(f.name)), *_type(f)),
        default=None,
    )


def _is_file(name: str, query: str) -> bool:
    return query in (name, name.rpartition("/")[2])


def _is_encoder(name: str) -> bool:
    file = name.rpartition("/")[2].lower()
    return file.endswith(".gguf") and any(w.startswith("mmproj") for w in _WORD.findall(file))


def _subject(name: str) -> frozenset[str]:
    """Return the words of an encoder's file name that name a model."""
    file = name.rpartition("/")[2].lower()
    label = label_in(file)
    return _words(file) - _GENERIC - (_words(label) if label else frozenset())


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _type(file: RepoFile) -> tuple[int, int, str]:
    label = label_in(file.name.rpartition("/")[2]) or ""
    rank = _ENCODER_TYPES.index(label) if label in _ENCODER_TYPES else len(_ENCODER_TYPES)
    return rank, file.size_bytes, file.name
