"""Tell which files of a repository belong together and which hold its model, by name and length.

Names are outside text: nothing here raises, whatever they hold. What a file really is its header
says; this decides which headers are worth reading, and which file a person means.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from localllm.core.model.file_types import FILE_TYPES, fork_of, label_in, split_of
from localllm.core.model.quants import BLOCKS
from localllm.core.text import single_line, strip_controls

USUAL_QUANT = "Q4_K_M"
"""The quant that nearly every repository has and most people take."""

MAX_NAME = 400
_MAX_SHOWN = 80
_LARGEST_FILE = 1 << 50
_SUFFIX = re.compile(r"\.gguf\Z", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9]+")
_SEPARATORS = re.compile(r"[-_. ]+")

_DRAFTER = re.compile(
    r"mtp|nextn|eagle[0-9]*|dflash|medusa|draft(?:er|ers|s)?|speculators?|assistant"
)
"""Words of drafters' file names: llama.cpp's `mtp-NAME.gguf`, a folder `MTP/`, EAGLE-3, DFlash,
Google's `-assistant` (seen in 2026)."""
_DRAFTER_SHARE = 0.5
"""A drafter has fewer weights than this share of its model: those published have 1 to 25 %. A model
that keeps its own MTP layers has the word in its name, too, and all its weights."""
_SAME_MODEL = 2.0
"""Quants of one model seem to differ by less, when their weights are counted from their labels."""
_TWIN = 0.01
"""A split file is longer than the whole one by a header for each part."""

_BITS = re.compile(r"(?:UD-)?(?:I?Q|TQ)([1-9])_", re.IGNORECASE)
_WIDE_BITS = {"F32": 32.0, "FP32": 32.0, "MXFP4": 4.25, "MXFP4_MOE": 4.25, "NVFP4": 4.5}
_UNKNOWN_BITS = 8.0
"""Of a file whose name states no quant, between the usual ones."""

_GENERIC = frozenset({"mmproj", "model", "gguf"})
_ENCODER_TYPES = ("F16", "FP16", "BF16", "Q8_0", "F32", "FP32")
"""Types of an encoder's file, the one to take first: llama.cpp's own conversions are F16, which
every backend computes with; F32 is twice as large and BF16 slow where it is emulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """A file as a repository lists it; `name` is its path in the repository."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A GGUF file (or the parts of one) that is not offered. `name` is safe to show.

    `companion`: it works beside a model or on it, so nobody misses it among the models.
    """

    name: str
    reason: str
    companion: bool = False


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A whole model file, or all parts of one in order; `stem` is the name they share.

    `drafter`: by its name and length it guesses tokens for the other files' model.
    """

    stem: str
    names: tuple[str, ...]
    size_bytes: int
    drafter: bool = False

    @property
    def label(self) -> str | None:
        """The quant in the file's name; else that of the folder it lies in."""
        folder, _, name = self.stem.rpartition("/")
        return label_in(name) or label_in(folder.rpartition("/")[2])

    @property
    def weights(self) -> float:
        """The number of weights that a file of this length and label has, roughly."""
        return self.size_bytes * 8 / _bits_of(self.label)


# --- sorting a list of files ---


def model_files(files: Sequence[RepoFile]) -> tuple[ModelFile, ...]:
    """Pick the files that may hold a model, by name and length alone: their headers can be read."""
    return tuple(each for each in sort_files(files) if isinstance(each, ModelFile))


def sort_files(files: Sequence[RepoFile]) -> tuple[ModelFile | LeftOut, ...]:
    """Sort the GGUF files into models, parts put together, and those that are none."""
    found = tuple(_whole(files))
    drafters = set(_drafters([each for each in found if isinstance(each, ModelFile)]))
    return tuple(
        replace(each, drafter=True) if isinstance(each, ModelFile) and each in drafters else each
        for each in found
    )


def _whole(files: Sequence[RepoFile]) -> Iterator[ModelFile | LeftOut]:
    """Yield the GGUF files, parts put together, each name once."""
    splits: dict[tuple[str, int], dict[int, RepoFile]] = {}
    unique = {file.name: file for file in files if _SUFFIX.search(file.name)}
    for file in unique.values():
        reason = why_unusable(file)
        companion = None if reason else _companion(file.name.rpartition("/")[2])
        split = split_of(file.name) if reason is None and companion is None else None
        if reason is not None:
            yield left_out(file.name, reason)
        elif companion is not None:
            yield left_out(file.name, companion, companion=True)
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
        return left_out(stem, f"the repository lists {what}")
    ordered = [parts[number] for number in sorted(parts)]
    size = sum(file.size_bytes for file in ordered)
    return ModelFile(stem, tuple(file.name for file in ordered), size)


def why_unusable(file: RepoFile) -> str | None:
    """Describe why a listed file cannot be fetched, whatever it holds; None when it can."""
    name = file.name
    if len(name) > MAX_NAME:
        return f"its name has {len(name)} characters; at most {MAX_NAME} are taken"
    if strip_controls(name) != name or "\n" in name or "\t" in name:
        return "its name holds characters that cannot be shown"
    steps = name.split("/")
    if "\\" in name or ":" in name or any(step in ("", ".", "..") for step in steps):
        return "its name is no path inside the repository"
    if not 0 < file.size_bytes <= _LARGEST_FILE:
        return "the repository does not say how large it is"
    return None


def _companion(file_name: str) -> str | None:
    """Describe a file that is no model, by its name; None for all others."""
    words = _words(file_name)
    if any(word.startswith("mmproj") for word in words):
        return "an image or audio encoder (mmproj), which works beside a model"
    if words & {"lora", "adapter"}:
        return "an adapter, which works on top of a model"
    # Models made with an importance matrix may say so, but they say their quant as well.
    if "imatrix" in words and label_in(file_name) is None:
        return "an importance matrix, which only a quantizer reads"
    return None


def left_out(name: str, reason: str, *, companion: bool = False) -> LeftOut:
    """Describe a file that is not offered, with its name fit to show."""
    return LeftOut(name=shown_name(name), reason=reason, companion=companion)


def shown_name(name: str) -> str:
    """Make a file's name fit to show: one line, cut to a length."""
    shown = single_line(name)
    return shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 1] + "…"


# --- drafters ---

DRAFTER_REASON = "a drafter (MTP, EAGLE), which guesses tokens for a model and is none by itself"


def _drafters(models: Sequence[ModelFile]) -> Iterator[ModelFile]:
    """Yield the files that are called drafters and are small beside those that are not.

    The word alone says nothing where every file has it: the whole repository is called so then.
    """
    called = [each for each in models if any(map(_DRAFTER.fullmatch, _words(each.stem)))]
    others = [each.weights for each in models if each not in called]
    if others:
        usual = median(others)
        yield from (each for each in called if each.weights < usual * _DRAFTER_SHARE)


def _bits_of(label: str | None) -> float:
    """Return the bits of a weight under a label, near enough to tell 1 B weights from 8 B."""
    if label is None:
        return _UNKNOWN_BITS
    if label in FILE_TYPES:
        block = BLOCKS[FILE_TYPES[label].default]
        return block.size_bytes * 8 / block.elements
    if label in _WIDE_BITS:
        return _WIDE_BITS[label]
    match = _BITS.match(label)
    return float(match[1]) + 0.5 if match else 16.0  # FP16


# --- the file that is meant ---


def header_sources(files: Sequence[ModelFile]) -> tuple[ModelFile, ...]:
    """Order the files whose header may be read, the one to try first in front.

    Of a repository with several models it is the one with the most files, then the largest: a
    small one beside it drafts. Whole files of the usual quant come first, then the smallest.
    Files of types that llama.cpp does not read come last, drafters not at all.
    """
    models = [each for each in files if not each.drafter]
    groups = sorted(_by_model(models), key=lambda group: (len(group), group[-1].weights))
    return tuple(
        each
        for group in reversed(groups)
        for each in sorted(
            group,
            key=lambda f: (
                fork_of(f.label) is not None,
                f.label != USUAL_QUANT,
                len(f.names) > 1,
                f.size_bytes,
            ),
        )
    )


def _by_model(files: Sequence[ModelFile]) -> Iterator[list[ModelFile]]:
    """Group files that may be quants of one model, by the number of their weights."""
    group: list[ModelFile] = []
    for each in sorted(files, key=lambda file: file.weights):
        if group and each.weights > group[-1].weights * _SAME_MODEL:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def files_named(files: Sequence[ModelFile], quant: str) -> tuple[ModelFile, ...]:
    """Find the files that a person means by a quant's name or by a file's own.

    A quant is never a drafter's. Of the same file whole and in parts it is the whole one.
    """
    by_name = tuple(f for f in files if any(_is_file(name, quant) for name in f.names))
    if by_name:
        return by_name
    models = tuple(each for each in files if not each.drafter)
    for same in (str.upper, _loose, lambda label: _loose(label).removeprefix("UD")):
        if found := tuple(f for f in models if f.label and same(f.label) == same(quant)):
            return tuple(f for f in found if not is_split_twin(f, found))
    return ()


def is_split_twin(file: ModelFile, files: Sequence[ModelFile]) -> bool:
    """Tell whether a split file is listed whole as well."""
    return len(file.names) > 1 and any(
        len(other.names) == 1
        and other.label == file.label
        and abs(other.size_bytes / file.size_bytes - 1) <= _TWIN
        for other in files
    )


def _loose(label: str) -> str:
    """Write a label without what people leave out: "q4-k.m" -> "Q4KM"."""
    return _SEPARATORS.sub("", label).upper()


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
