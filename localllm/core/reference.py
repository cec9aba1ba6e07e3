"""The name of a model as a person writes or pastes it: NAME, ORG/REPO, or a link to the Hub.

A name may have :QUANT behind it, also as Ollama writes it (`hf.co/ORG/REPO:Q4_K_M`). A link may be
any page of the repository in a browser, of one of its files, or what `resolve/` downloads.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from localllm.core.model.file_types import label_in
from localllm.core.text import single_line
from localllm.errors import UsageError

HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
"""The Hub's own hosts, and its best-known mirror: links are copied from there."""

# What the Hub allows (huggingface_hub's `validate_repo_id`), with the organisation.
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_HUB_SCHEMES = ("hf", "huggingface")
"""`hf://ORG/REPO/FILE`, as huggingface_hub's file system and other runners write it."""
_OTHER_KINDS = frozenset({"datasets", "spaces", "collections", "docs", "papers", "blog", "models"})
_AT_REVISION = frozenset({"tree", "blob", "resolve", "raw", "blame", "commits", "edit"})
"""Pages of a repository behind whose name a revision stands."""
_MAIN = "main"
_LATEST = "latest"  # Ollama's word for no quant
_AROUND = " \t\r\n<>\"'`"
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name, of the catalogue or of a repository, and the quant (or file) behind it.

    `revision` is the branch, tag or commit that a link names, None for the main one; `is_link` is
    true for what was pasted and not written.
    """

    name: str
    quant: str | None
    revision: str | None = None
    is_link: bool = False

    @property
    def on_hub(self) -> bool:
        """True for a repository of the Hub."""
        return "/" in self.name


def read_reference(
    text: str, quant: str | None = None, *, hosts: Sequence[str] = HUB_HOSTS
) -> Reference:
    """Split MODEL[:QUANT], or read a link to one of `hosts`; `quant` is an option's value.

    Raises UsageError when both name a quant and they differ, and for an impossible repository.
    """
    shown = single_line(text)[:_SHOWN]
    plain = text.strip(_AROUND)
    path = _path_on_hub(plain, hosts)
    if path is None and "://" in plain:
        raise UsageError(
            f"{shown!r} is no link of the Hub ({hosts[0]}). Write ORG/REPO[:QUANT], or paste the"
            " address of a repository there."
        )
    found = _read_plain(plain, shown) if path is None else _read_path(path, shown)
    if found.quant and quant is not None and found.quant.upper() != quant.upper():
        raise UsageError(f"{shown} names one quant and --quant {single_line(quant)} another.")
    return Reference(
        name=found.name,
        quant=quant or found.quant,
        revision=found.revision,
        is_link=path is not None,
    )


def is_repository(text: str) -> bool:
    """Return True when `text` can be the name of a repository of the Hub: ORG/REPO."""
    strange = ".." in text or "--" in text or text.endswith((".git", ".gguf"))
    return _REPOSITORY.fullmatch(text) is not None and not strange


def is_hub_link(text: str, *, hosts: Sequence[str] = HUB_HOSTS) -> bool:
    """Return True for a link to the Hub, or a path of one (`ORG/REPO/blob/main/FILE`)."""
    return _path_on_hub(text.strip(_AROUND), hosts) is not None


def _read_plain(text: str, shown: str) -> Reference:
    name, colon, inner = text.partition(":")
    if colon and not inner:
        raise UsageError(f"{shown} names no quant after the colon.")
    if "/" in name and not is_repository(name):
        raise UsageError(f"{shown!r} cannot be a repository of the Hub: write ORG/REPO[:QUANT].")
    return Reference(name=name, quant=_quant(inner))


def _quant(text: str) -> str | None:
    return text if text and text.lower() != _LATEST else None


def _path_on_hub(text: str, hosts: Sequence[str]) -> str | None:
    """Return what stands behind the host in a link to the Hub; None for anything else."""
    if match := _SCHEME.match(text):
        rest, scheme = text[match.end() :], match["scheme"].lower()
        if scheme in _HUB_SCHEMES:
            return rest
        if scheme not in ("http", "https"):
            return None
        return _behind_host(rest, hosts)
    if (path := _behind_host(text, hosts)) is not None:
        return path
    parts = text.split("/")
    # Without a host: a trailing slash, or a page of a repository.
    page = len(parts) > 3 and parts[2] in _AT_REVISION
    if (page or (len(parts) == 3 and not parts[2])) and is_repository("/".join(parts[:2])):
        return text
    return None


def _behind_host(text: str, hosts: Sequence[str]) -> str | None:
    host, slash, rest = text.partition("/")
    address = host.rpartition("@")[2].lower()  # a name and a password may stand before it
    known = address in hosts or address.removesuffix(":443") in hosts
    return rest if slash and known else None


def _read_path(path: str, shown: str) -> Reference:
    """Read the path and the query of a link to the Hub."""
    plain, _, query = path.partition("#")[0].partition("?")
    parts = [part for part in plain.split("/") if part]
    if parts[:2] == ["api", "models"]:
        parts = parts[2:]
    organisation, repository = (*parts[:2], "", "")[:2]
    repository, _, quant = repository.partition(":")
    repository, _, at = repository.partition("@")
    name = f"{organisation}/{repository}"
    if organisation in _OTHER_KINDS or not is_repository(name):
        raise UsageError(
            f"{shown!r} names no repository of a model. Paste the address of one, or write"
            " ORG/REPO[:QUANT]."
        )
    revision, rest = unquote(at), [unquote(part) for part in parts[2:]]
    if rest and rest[0] in _AT_REVISION:
        revision, rest = (*rest[1:2], "")[0], rest[2:]
    file = _file_in(rest) or _file_in([*parse_qs(query).get("show_file_info", ())])
    return Reference(
        name=name,
        quant=_quant(quant) or file or _folder_label(rest),
        revision=revision if revision and revision != _MAIN else None,
    )


def _file_in(parts: Sequence[str]) -> str | None:
    """Return the path of a model's file; None for pages, other files and folders."""
    return "/".join(parts) if parts and parts[-1].lower().endswith(".gguf") else None


def _folder_label(parts: Sequence[str]) -> str | None:
    """Return the quant that a repository's folder is called after: `Q8_0/`."""
    return label_in(parts[-1]) if parts else None
