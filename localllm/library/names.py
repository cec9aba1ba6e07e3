"""What models are called, and how a name becomes a path."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from localllm.core.file_names import quant_in as quant_in
from localllm.core.file_names import split_name as split_name
from localllm.core.file_names import split_of as split_of
from localllm.core.file_names import without_quant as without_quant
from localllm.core.model import ModelSpec
from localllm.core.text import single_line
from localllm.errors import StoreError, UsageError

MAX_NAME = 80
_MAX_SLUG = 60  # leaves room for a quant and a number that make a name unique
_MAX_FILE_NAME = 120
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
"""Devices: on Windows `nul.gguf` is no file, in any directory."""


def slug(text: str) -> str:
    """Make a name of outside text: "Qwen3 8B" -> "qwen3-8b"; "" when nothing is left of it."""
    decomposed = unicodedata.normalize("NFKD", single_line(text[:1000])).lower()
    plain = "".join(each for each in decomposed if not unicodedata.combining(each))
    plain = re.sub(r"[^a-z0-9._-]+", "-", plain)
    plain = re.sub(r"[._-]{2,}", "-", plain).strip("._-")[:_MAX_SLUG].strip("._-")
    return plain if _well_formed(plain) else ""


def valid(name: str) -> bool:
    """Whether `name` can be a model's name, and so a file's."""
    return len(name) <= MAX_NAME and _well_formed(name)


def checked(name: str) -> str:
    """Give back a name that a person chose. Raises UsageError when it cannot be one."""
    if valid(name):
        return name
    raise UsageError(
        f"{single_line(name)[:80]!r} cannot be a model's name: at most {MAX_NAME} lowercase letters"
        f" and digits, with single . _ or - between them. Try {slug(name) or 'my-model'!r}."
    )


def path_in(root: Path, name: str, suffix: str = ".gguf") -> Path:
    """The file of `name` in `root`: the only way from a name to a path.

    Raises StoreError for a name that is none or that leads out of `root` (through a link).
    """
    path = root / f"{name}{suffix}"
    safe = len(name) <= _MAX_FILE_NAME and _well_formed(name)
    if not safe or not path.resolve().is_relative_to(root.resolve()):
        raise StoreError(f"{single_line(name)[:80]!r} cannot name a file in {root}.")
    return path


def candidates(spec: ModelSpec, stem: str) -> Iterator[str]:
    """Names for a model, best first: its own, its parts' (llama.cpp's naming convention), its
    file's, and one that is always possible."""
    yield from filter(None, (slug(spec.name or ""),))
    parts = (spec.metadata.get(f"general.{key}") for key in ("basename", "size_label", "finetune"))
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) > 1:
        yield from filter(None, (slug("-".join(texts)),))
    yield from filter(None, (slug(without_quant(stem)),))
    yield "model"


def shown(text: Path | str) -> str:
    """A path or a name as it may stand in a message: files' names are outside text."""
    return single_line(str(text))


def _well_formed(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _RESERVED.fullmatch(name) is None
