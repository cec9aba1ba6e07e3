"""The name of a model as a person writes it: NAME or ORG/REPO, either with :QUANT behind it."""

import re
from dataclasses import dataclass

from localllm.core.text import single_line
from localllm.errors import UsageError

# What the Hub allows (huggingface_hub's `validate_repo_id`), with the organisation.
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name, of the catalogue or of a repository, and the quant (or file) behind it."""

    name: str
    quant: str | None

    @property
    def on_hub(self) -> bool:
        """True for a repository of the Hub."""
        return "/" in self.name


def read_reference(text: str, quant: str | None = None) -> Reference:
    """Split MODEL[:QUANT]; `quant` is an option's value.

    Raises UsageError when both name a quant and they differ, and for an impossible repository.
    """
    name, colon, inner = text.partition(":")
    shown = single_line(text)[:_SHOWN]
    if colon and not inner:
        raise UsageError(f"{shown} names no quant after the colon.")
    if inner and quant is not None and inner.upper() != quant.upper():
        raise UsageError(f"{shown} names one quant and --quant {single_line(quant)} another.")
    if "://" in text or ("/" in name and not is_repository(name)):
        raise UsageError(f"{shown!r} cannot be a repository of the Hub: write ORG/REPO[:QUANT].")
    return Reference(name=name, quant=quant or inner or None)


def is_repository(text: str) -> bool:
    """Return True when `text` can be the name of a repository of the Hub: ORG/REPO."""
    strange = ".." in text or "--" in text or text.endswith((".git", ".gguf"))
    return _REPOSITORY.fullmatch(text) is not None and not strange
