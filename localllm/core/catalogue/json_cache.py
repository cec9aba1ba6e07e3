"""The catalogue as JSON, so that it need not be parsed, checked and sized at every start.

TOML takes 35 times as long to parse as JSON (measured), and ranking needs every quant's size and
weight reads. The caller stores the text and sees to it that it belongs to the present catalogue and
code (`library/files/catalogue_file.py`).
"""

import json
from datetime import date
from types import MappingProxyType
from typing import TypedDict

from localllm.core.catalogue.blueprint.hparams import HeaderValue, HParams
from localllm.core.catalogue.catalogue import Check, Entry, Task
from localllm.core.model.quants import GgmlType
from localllm.core.sizing.mmproj import EncoderShape, PublishedEncoder
from localllm.core.speed import AttentionReads, WeightRead, Workload

_JsonValue = str | int | float | bool | list[int] | list[str]


_Read = tuple[int, int, int, bool]
"""A WeightRead: type, elements, all elements, whether it is for the last token only."""
_Recalls = tuple[list[tuple[float, int, int, int | None]], int]
"""The `attention` of a Workload, and its states in bytes."""


_Encoder = tuple[int, int, str, int, int, int, int, int]
"""A PublishedEncoder without the size of pictures, which no catalogue entry has."""


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
    encoder: _Encoder | None
    layers: int
    files: dict[str, tuple[int, list[_Read]]]
    recalls: _Recalls


def dump_entries(entries: tuple[Entry, ...]) -> bytes:
    """Write entries as JSON, with the sizes that ranking will need."""
    return json.dumps([_document(entry) for entry in entries], separators=(",", ":")).encode()


def load_entries(text: bytes) -> tuple[Entry, ...]:
    """Read what `dump_entries` has written. Raises ValueError, KeyError, TypeError or
    AttributeError for most other texts: the contents are not checked."""
    return tuple(_entry(document) for document in json.loads(text))


def _document(entry: Entry) -> _Document:
    hparams = entry.hparams
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
        "architecture": hparams.architecture,
        "vocabulary": hparams.vocabulary,
        "tied": hparams.tied,
        "extra": sorted(hparams.extra),
        "gguf": {key: _plain(value) for key, value in hparams.gguf.items()},
        "tokenizer": entry.tokenizer,
        "line": entry.line,
        "encoder": _encoder(entry.encoder),
        "layers": hparams.layers,
        "files": {
            quant: (entry.file_bytes(quant), _reads(entry.weight_reads(quant)))
            for quant in entry.quants
        },
        "recalls": _recalls(entry.cache_reads()),
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
        hparams=_hparams(document),
        tokenizer=document["tokenizer"],
        line=document["line"],
        encoder=_published(document["encoder"]),
        precomputed=_CachedSizes(document),
    )


class _CachedSizes:
    """A model's sizes from the cache; made into workloads when they are needed."""

    def __init__(self, document: _Document) -> None:
        self._files, self._recalls = document["files"], document["recalls"]
        self._layers = document["layers"]

    def file_bytes(self, quant: str) -> int:
        return self._files[quant][0]

    def weight_reads(self, quant: str) -> Workload:
        return Workload(
            layers=self._layers,
            weights=tuple(
                WeightRead(
                    type=GgmlType(kind), elements=active, elements_loaded=every, last_only=last
                )
                for kind, active, every, last in self._files[quant][1]
            ),
        )

    def cache_reads(self) -> Workload:
        cells, states = self._recalls
        return Workload(
            layers=0,
            weights=(),
            attention=tuple(
                AttentionReads(
                    bytes_per_cell=size, elements_per_cell=each, macs_per_cell=macs, window=w
                )
                for size, each, macs, w in cells
            ),
            state_bytes=states,
        )


def _encoder(encoder: PublishedEncoder | None) -> _Encoder | None:
    if encoder is None:
        return None
    shape = encoder.shape
    return (
        encoder.parameters,
        encoder.positions,
        shape.projector,
        shape.image_size,
        shape.patch_size,
        shape.width,
        shape.feed_forward,
        shape.merge,
    )


def _published(encoder: _Encoder | None) -> PublishedEncoder | None:
    if encoder is None:
        return None
    parameters, positions, projector, image, patch, width, forward, merge = encoder
    return PublishedEncoder(
        parameters=parameters,
        positions=positions,
        shape=EncoderShape(
            projector=projector,
            image_size=image,
            patch_size=patch,
            width=width,
            feed_forward=forward,
            merge=merge,
        ),
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


def _hparams(document: _Document) -> HParams:
    return HParams(
        architecture=document["architecture"],
        vocabulary=document["vocabulary"],
        context=document["context"],
        tied=document["tied"],
        extra=frozenset(document["extra"]),
        gguf=MappingProxyType({key: _value(plain) for key, plain in document["gguf"].items()}),
    )


def _plain(value: HeaderValue) -> _JsonValue:
    return list(value) if isinstance(value, tuple) else value  # type: ignore[return-value]


def _value(plain: _JsonValue) -> HeaderValue:
    return tuple(plain) if isinstance(plain, list) else plain  # type: ignore[return-value]
