"""The catalogue as JSON: what was read and checked once need not be read and checked again.

TOML takes 35 times as long to read as JSON (measured), and ranking asks every quant of every
model for its size and for what a token reads of it. Whoever keeps the text sees to it that it is
of the catalogue and the code that are here (`library/files/catalogue_file.py`).
"""

import json
from datetime import date
from types import MappingProxyType
from typing import TypedDict

from localllm.core.catalogue.blueprint.shape import Shape, Value
from localllm.core.catalogue.catalogue import Check, Entry, Task
from localllm.core.model.quants import GgmlType
from localllm.core.speed import Attention, WeightRead, Workload

_JsonValue = str | int | float | bool | list[int] | list[str]


_Read = tuple[int, int, int, bool]
"""A WeightRead: type, elements, all elements, whether it is for the last token only."""
_Recalls = tuple[list[tuple[float, int, int, int | None]], int]
"""The Attention of a Workload, and its states in bytes."""


class _Document(TypedDict):
    name: str
    title: str
    family: str
    tasks: list[str]
    source: str
    repos: list[str]
    quants: list[str]
    license: str
    business: bool
    parameters: int
    active_parameters: int
    context: int
    released: str
    checked: list[str]
    architecture: str
    vocabulary: int
    tied: bool
    extra: list[str]
    gguf: dict[str, _JsonValue]
    tokenizer: str
    line: int
    layers: int
    files: dict[str, tuple[int, list[_Read]]]
    recalls: _Recalls


def compiled(entries: tuple[Entry, ...]) -> bytes:
    """Write entries down, with what ranking will ask of them."""
    return json.dumps([_document(entry) for entry in entries], separators=(",", ":")).encode()


def restored(text: bytes) -> tuple[Entry, ...]:
    """Read what `compiled` has written. Raises ValueError, KeyError, TypeError or AttributeError
    for most other texts: what is in it is not checked."""
    return tuple(_entry(document) for document in json.loads(text))


def _document(entry: Entry) -> _Document:
    shape = entry.shape
    return {
        "name": entry.name,
        "title": entry.title,
        "family": entry.family,
        "tasks": [*entry.tasks],
        "source": entry.source,
        "repos": [*entry.repos],
        "quants": [*entry.quants],
        "license": entry.license,
        "business": entry.business,
        "parameters": entry.parameters,
        "active_parameters": entry.active_parameters,
        "context": entry.context,
        "released": entry.released.isoformat(),
        "checked": [*entry.checked],
        "architecture": shape.architecture,
        "vocabulary": shape.vocabulary,
        "tied": shape.tied,
        "extra": sorted(shape.extra),
        "gguf": {key: _plain(value) for key, value in shape.gguf.items()},
        "tokenizer": entry.tokenizer,
        "line": entry.line,
        "layers": shape.layers,
        "files": {
            quant: (entry.file_bytes(quant), _reads(entry.reads(quant))) for quant in entry.quants
        },
        "recalls": _recalls(entry.recalls()),
    }


def _entry(document: _Document) -> Entry:
    return Entry(
        name=document["name"],
        title=document["title"],
        family=document["family"],
        tasks=tuple(Task(word) for word in document["tasks"]),
        source=document["source"],
        repos=tuple(document["repos"]),
        quants=tuple(document["quants"]),
        license=document["license"],
        business=document["business"],
        parameters=document["parameters"],
        active_parameters=document["active_parameters"],
        context=document["context"],
        released=date.fromisoformat(document["released"]),
        checked=tuple(Check(word) for word in document["checked"]),
        shape=_shape(document),
        tokenizer=document["tokenizer"],
        line=document["line"],
        answers=_Answers(document),
    )


class _Answers:
    """What was worked out of a model before; made into workloads when somebody asks."""

    def __init__(self, document: _Document) -> None:
        self._files, self._recalls = document["files"], document["recalls"]
        self._layers = document["layers"]

    def file_bytes(self, quant: str) -> int:
        return self._files[quant][0]

    def reads(self, quant: str) -> Workload:
        return Workload(
            layers=self._layers,
            weights=tuple(
                WeightRead(
                    type=GgmlType(kind), elements=active, elements_loaded=every, last_only=last
                )
                for kind, active, every, last in self._files[quant][1]
            ),
        )

    def recalls(self) -> Workload:
        cells, states = self._recalls
        return Workload(
            layers=0,
            weights=(),
            attention=tuple(
                Attention(bytes_per_cell=size, elements_per_cell=each, macs_per_cell=macs, window=w)
                for size, each, macs, w in cells
            ),
            state_bytes=states,
        )


def _reads(work: Workload) -> list[_Read]:
    return [
        (each.type.value, each.elements, each.elements_loaded, each.last_only)
        for each in work.weights
    ]


def _recalls(work: Workload) -> _Recalls:
    cells = [
        (each.bytes_per_cell, each.elements_per_cell, each.macs_per_cell, each.window)
        for each in work.attention
    ]
    return cells, work.state_bytes


def _shape(document: _Document) -> Shape:
    return Shape(
        architecture=document["architecture"],
        vocabulary=document["vocabulary"],
        context=document["context"],
        tied=document["tied"],
        extra=frozenset(document["extra"]),
        gguf=MappingProxyType({key: _value(plain) for key, plain in document["gguf"].items()}),
    )


def _plain(value: Value) -> _JsonValue:
    return list(value) if isinstance(value, tuple) else value  # type: ignore[return-value]


def _value(plain: _JsonValue) -> Value:
    return tuple(plain) if isinstance(plain, list) else plain  # type: ignore[return-value]
