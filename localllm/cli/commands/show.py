"""`localllm show`: everything known of one model, its header included."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TypeVar

import click
from rich.table import Table

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.library_output import (
    model_document,
    open_library,
    source_label,
    unsupported_here,
    warn_of_problems,
    warn_of_unsupported,
)
from localllm.cli.output import literal, print_json, stdout, warn
from localllm.core.model.spec import ModelSpec
from localllm.core.units import format_bytes
from localllm.errors import GgufError, LocalLLMError
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import InstalledModel
from localllm.runtime.find_model import names_repository

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """The tensors of one element type."""

    type: str
    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The facts of a file's header; None for one that it does not state, or states wrongly."""

    title: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    active_parameters: int | None = None
    layers: int | None = None
    context_train: int | None = None
    vocabulary: int | None = None
    chat_template_sha256: str | None = None
    tensors: tuple[TensorGroup, ...] = ()


@click.command(name="show")
@click.argument("model", metavar="MODEL", shell_complete=model_names)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a repository.")
@options.OFFLINE
@options.JSON
def command(model: str, revision: str | None, offline: bool, as_json: bool) -> None:
    """Everything known of one model, or what a repository of the Hub holds.

    MODEL is a path, an installed name or the beginning of one, or ORG/REPO. What the library
    recorded is shown also when the file was moved or replaced since.
    """
    if names_repository(model):
        # Only here: everything that asks the network takes a moment to import.
        from localllm.cli.repository_report import show_repository

        show_repository(model, revision, offline=offline, as_json=as_json)
        return
    found = open_library().find(model)
    header, unreadable = Header(), None
    try:
        header = header_of(inspect_model(found.path).spec)
    except LocalLLMError as error:
        unreadable = str(error)
    unsupported = unsupported_here((found,)) if unreadable is None else {}
    if as_json:
        document = model_document(found) | asdict(header)
        document["problem"] = found.problem or unreadable or unsupported.get(found.name)
        print_json({"models": [document]})
        return
    stdout().print(_table(found, header))
    warn_of_problems((found,))
    warn_of_unsupported(unsupported)
    if unreadable is not None and found.problem is None:
        warn(unreadable)


def header_of(spec: ModelSpec) -> Header:
    """Collect the facts of a header that `show` prints."""
    template = spec.chat_template
    return Header(
        title=spec.name,
        architecture=spec.architecture,
        parameters=spec.parameters,
        active_parameters=_stated(lambda: spec.active_parameters if spec.experts else None),
        layers=_stated(lambda: spec.layers),
        context_train=_stated(lambda: spec.context_train),
        vocabulary=spec.vocabulary or None,
        chat_template_sha256=_sha256(template) if template is not None else None,
        tensors=tuple(_groups(spec)),
    )


def _groups(spec: ModelSpec) -> Iterator[TensorGroup]:
    """Group the tensors by type, most bytes first."""
    by_type = groupby(sorted(spec.tensors, key=lambda each: each.type), lambda each: each.type)
    groups = []
    for kind, members in by_type:
        sizes = [each.size_bytes for each in members]
        groups.append(TensorGroup(type=kind.name, count=len(sizes), size_bytes=sum(sizes)))
    yield from sorted(groups, key=lambda group: group.size_bytes, reverse=True)


def _stated(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except GgufError:
        return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _table(model: InstalledModel, header: Header) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in _facts(model, header):
        facts.add_row(label, literal("unknown" if value is None else value))
    return facts


def _facts(model: InstalledModel, header: Header) -> Iterator[tuple[str, str | None]]:
    yield "Name", model.name
    yield "Title", header.title
    yield "Architecture", header.architecture
    yield "Parameters", _parameters(header)
    yield "Quant", model.quant
    yield "Layers", _count(header.layers)
    yield "Context", f"{header.context_train:,} tokens" if header.context_train else None
    yield "Vocabulary", _count(header.vocabulary)
    yield "License", model.license
    yield "Chat template", _template(header)
    for label, group in zip(_labels("Tensors"), header.tensors, strict=False):
        yield label, f"{group.count} {group.type}, {format_bytes(group.size_bytes)}"
    for label, part in zip(_labels("Files"), model.all_files, strict=False):
        yield label, str(part.path)
    yield "Size", f"{format_bytes(model.size_bytes)} ({model.size_bytes:,} bytes)"
    yield "SHA-256", model.sha256 or "not computed"
    yield "Verified", model.verified_at or "never"
    yield "Source", source_label(model)
    yield "State", model.state.value


def _labels(first: str) -> Iterator[str]:
    """Yield a label for the first row of a list, none for the others."""
    yield first
    while True:
        yield ""


def _parameters(header: Header) -> str | None:
    if header.parameters is None:
        return None
    if header.active_parameters is None:
        return f"{header.parameters:,}"
    return f"{header.parameters:,}, {header.active_parameters:,} active for a token"


def _template(header: Header) -> str | None:
    if header.architecture is None:
        return None
    digest = header.chat_template_sha256
    return f"sha256 {digest}" if digest else "none"


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"
