"""Which files of a repository belong together, by their names alone: what a quant's name means,
which header to read first, and the image encoder that works beside a model.

Names in a listing are outside text; nothing here raises, whatever they hold.
"""

import re
from collections.abc import Sequence

from localllm.core.file_names import label_in
from localllm.core.repository import ModelFile, RepoFile, unusable

USUAL_QUANT = "Q4_K_M"
"""The quant that nearly every repository has and most people take."""

_WORD = re.compile(r"[a-z0-9]+")
_GENERIC = frozenset({"mmproj", "model", "gguf"})
_ENCODER_TYPES = ("F16", "FP16", "BF16", "Q8_0", "F32", "FP32")
"""Types of an encoder's file, the one to take first: llama.cpp's own conversions are F16, which
every backend computes with; F32 is twice as large and BF16 slow where it is emulated."""


def first_to_read(files: Sequence[ModelFile]) -> ModelFile | None:
    """The file whose header says most for least: whole, of the usual quant, else the smallest.

    None when there is no model file.
    """
    order = sorted(files, key=lambda f: (f.label != USUAL_QUANT, len(f.names) > 1, f.size_bytes))
    return order[0] if order else None


def called(files: Sequence[ModelFile], quant: str) -> tuple[ModelFile, ...]:
    """The files that a person means by a quant's name or by a file's own."""
    wanted = quant.upper()
    by_name = tuple(f for f in files if any(_is_called(name, quant) for name in f.names))
    return by_name or tuple(f for f in files if f.label == wanted)


def encoder_for(model: ModelFile, files: Sequence[RepoFile]) -> RepoFile | None:
    """The mmproj that a vision or audio model needs; None when the repository has none for it.

    One that names the model is taken first, then one that names none. Of those that name other
    things only a single kind is taken: which of two would be a guess.
    """
    encoders = [f for f in files if unusable(f) is None and _is_encoder(f.name)]
    words = _words(model.stem)
    named = [f for f in encoders if _subject(f.name) and _subject(f.name) <= words]
    generic = [f for f in encoders if not _subject(f.name)]
    kept = named or generic
    if not kept and len({_subject(f.name) for f in encoders}) == 1:
        kept = encoders
    folder = model.stem.rpartition("/")[0]
    return min(
        kept,
        key=lambda f: (f.name.rpartition("/")[0] != folder, -len(_subject(f.name)), *_type(f)),
        default=None,
    )


def _is_called(name: str, wanted: str) -> bool:
    return wanted in (name, name.rpartition("/")[2])


def _is_encoder(name: str) -> bool:
    file = name.rpartition("/")[2].lower()
    return file.endswith(".gguf") and any(w.startswith("mmproj") for w in _WORD.findall(file))


def _subject(name: str) -> frozenset[str]:
    """The words of an encoder's file name that say which model it is for."""
    file = name.rpartition("/")[2].lower()
    label = label_in(file)
    return _words(file) - _GENERIC - (_words(label) if label else frozenset())


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _type(file: RepoFile) -> tuple[int, int, str]:
    label = label_in(file.name.rpartition("/")[2]) or ""
    rank = _ENCODER_TYPES.index(label) if label in _ENCODER_TYPES else len(_ENCODER_TYPES)
    return rank, file.size_bytes, file.name
