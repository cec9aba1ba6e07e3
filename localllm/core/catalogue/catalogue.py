"""The text of models.toml -> the models that localllm suggests without a network.

An `Entry` knows its model's hyperparameters, so it can be sized for any quant before a byte is
downloaded. The text is the caller's to read; errors name the line and the field.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol, TypeVar

from localllm.core.catalogue.blueprint.hparams import HeaderValue, HParams
from localllm.core.catalogue.blueprint.model import Blueprint, blueprint_of
from localllm.core.memoize import memoize
from localllm.core.model.file_types import FILE_TYPES
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Mmproj
from localllm.core.sizing.mmproj import EncoderShape, PublishedEncoder
from localllm.core.speed import Workload
from localllm.errors import UsageError


class Task(StrEnum):
    """The tasks that a model is made for."""

    CHAT = "chat"
    CODE = "code"
    REASONING = "reasoning"
    VISION = "vision"
    EMBED = "embed"
    RERANK = "rerank"


class Check(StrEnum):
    """The sources that an entry was compared with; docs/catalogue.md says how."""

    LLAMA_CPP = "llama.cpp"  # llama.cpp accepted a header with these keys, names and shapes
    CONFIG = "config.json"  # the publisher's config.json was read
    TOTAL = "total"  # the tensors add up to the count that the Hub shows for the weights
    FILE = "file"  # a published file was read, or its size compared
    LICENCE = "licence"  # the model card's licence tag was read
    REPOSITORIES = "repositories"  # every GGUF repository was seen in a listing


# Quants that a publisher of GGUF files usually offers, best first.
COMMON_QUANTS = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")

# SPDX identifiers (LicenseRef- for those SPDX does not list) -> may a company of ordinary size
# use the model commercially without asking. docs/catalogue.md explains the doubtful ones.
LICENCES: Mapping[str, bool] = MappingProxyType(
    {
        "Apache-2.0": True,
        "MIT": True,
        "BSD-3-Clause": True,
        "CC-BY-NC-4.0": False,
        "BigCode-OpenRAIL-M": True,
        "LicenseRef-DeepSeek": True,
        "LicenseRef-EXAONE-1.2-NC": False,
        "LicenseRef-Falcon-LLM": True,
        "LicenseRef-Gemma": True,
        "LicenseRef-LFM-1.0": False,
        "LicenseRef-Llama-3.1": True,
        "LicenseRef-Llama-3.2": True,
        "LicenseRef-Llama-3.3": True,
        "LicenseRef-Llama-4": True,
        "LicenseRef-Mistral-Research": False,
        "LicenseRef-NVIDIA-Open-Model": True,
        "LicenseRef-Qwen": True,
        "LicenseRef-Qwen-Research": False,
    }
)


class QuantSizes(Protocol):
    """The sizes of a model that ranking needs, as `Blueprint` documents them."""

    def file_bytes(self, quant: str) -> int: ...
    def weight_reads(self, quant: str) -> Workload: ...
    def cache_reads(self) -> Workload: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the catalogue.

    `source` is the repository of the original weights, `repos` those with GGUF files, the first
    being the one to take. `parameters` counts the language model alone; a vision model's `encoder`
    is a file of its own, None where there is none. `line` is where the entry starts in the text.
    `precomputed` sizes come from a cache; without them they come from the blueprint.
    """

    name: str
    title: str
    family: str
    tasks: tuple[Task, ...]
    source: str
    repos: tuple[str, ...]
    quants: tuple[str, ...]
    license: str
    business: bool
    parameters: int
    active_parameters: int
    context: int
    released: date
    checked: tuple[Check, ...]
    hparams: HParams
    tokenizer: str
    line: int
    encoder: PublishedEncoder | None = None
    precomputed: QuantSizes | None = field(default=None, repr=False, compare=False)
    _memo: dict[object, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def blueprint(self) -> Blueprint:
        """The model's tensors, worked out at the first use.

        Raises KeyError, IndexError, ValueError or ArithmeticError for a shape that no model has;
        `parse` has tried it.
        """
        return _blueprint_of(self)

    def weights_bytes(self, quant: str) -> int:
        """Sum the tensors in a quant mix (a key of FILE_TYPES, else KeyError)."""
        return self.blueprint.weights_bytes(quant)

    def file_bytes(self, quant: str) -> int:
        """Estimate the length of the file of a quant mix."""
        return (self.precomputed or self.blueprint).file_bytes(quant)

    def weight_reads(self, quant: str) -> Workload:
        """Return the weights that one token reads in a quant mix."""
        return (self.precomputed or self.blueprint).weight_reads(quant)

    def cache_reads(self) -> Workload:
        """Return the cache and states that one token reads."""
        return (self.precomputed or self.blueprint).cache_reads()

    @property
    def mmproj(self) -> Mmproj | None:
        """The image encoder that is published with the model, as it is loaded beside it."""
        if self.encoder is None:
            return None
        embedding = self.hparams.gguf["embedding_length"]
        return self.encoder.mmproj(embedding if isinstance(embedding, int) else 0)

    def spec(self, quant: str) -> ModelSpec:
        """Write the header that the file of a quant mix would have, as far as sizing reads it."""
        return self.blueprint.spec(quant, name=self.title)


@memoize
def _blueprint_of(entry: Entry) -> Blueprint:
    return blueprint_of(
        entry.hparams,
        tokenizer=entry.tokenizer,
        imatrix=entry.repos[0].partition("/")[0] in _IMATRIX_PUBLISHERS,
        fused_as_value=entry.released >= _FUSED_AS_VALUE_SINCE,
    )


def parse(text: str, *, name: str = "models.toml") -> tuple[Entry, ...]:
    """Read the catalogue.

    Raises UsageError, with the line, the model and the field, for anything that is not as
    docs/catalogue.md says. `name` is the text's name in messages.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{name} is not TOML: {error}.") from error
    tables = document.pop("model", [])
    if document or not isinstance(tables, list):
        stray = ", ".join(sorted(document)) or "model"
        raise UsageError(f"{name}: only [[model]] tables belong here, not {stray!r}.")
    places = _line_numbers(text)
    fields = [
        _Fields(table, name, places[i] if i < len(places) else {"": 0})
        for i, table in enumerate(tables)
    ]
    entries = tuple(_entry(each) for each in fields)
    first_lines: dict[str, int] = {}
    for entry, each in zip(entries, fields, strict=True):
        if entry.name in first_lines:
            raise each.error("name", f"is used already, in line {first_lines[entry.name]}")
        first_lines[entry.name] = entry.line
    return entries


_TABLE = re.compile(r"\s*\[model\.(gguf|mmproj)\]")
_FIELD = re.compile(r"\s*([\w.\"-]+?)\s*=")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Facts about a model's tensors that a header leaves out; see `blueprint.hparams.HParams`.
_EXTRA = frozenset(
    (
        *("qkv_bias", "output_bias", "qk_norm", "fused_qkv", "shared_v"),
        *("rope_freqs", "rope_long_short", "no_ssm_norm", "token_types", "classifier"),
        *("fused_experts", "expert_bias", "gated_ffn", "ffn_bias"),
    )
)
# Publishers who make every quant with an importance matrix (their model cards say so).
_IMATRIX_PUBLISHERS = ("unsloth", "bartowski")
# llama.cpp treats fused attention matrices as value matrices in files made since about then.
_FUSED_AS_VALUE_SINCE = date(2026, 4, 1)


def _line_numbers(text: str) -> list[dict[str, int]]:
    """Line numbers of the [[model]] tables ("") and of their fields."""
    places: list[dict[str, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("[[model]]"):
            places.append({"": number})
        elif places and (table := _TABLE.match(line)):
            places[-1].setdefault(table[1], number)
        elif places and (match := _FIELD.match(line)):
            places[-1].setdefault(match[1].replace('"', ""), number)
    return places


_V = TypeVar("_V")


class _Fields:
    """One [[model]] table: takes fields out one by one, and knows where each stands."""

    def __init__(self, table: object, document: str, lines: Mapping[str, int]) -> None:
        self._document = document
        self._lines = lines
        self._table: dict[str, object] = dict(table) if isinstance(table, dict) else {}
        self._title = str(self._table.get("name", "?"))
        if not isinstance(table, dict):
            raise self.error("model", "must be a table")

    @property
    def line(self) -> int:
        return self._lines[""]

    def error(self, field: str, problem: str) -> UsageError:
        line = self._lines.get(field, self.line)
        return UsageError(
            f"{self._document} line {line}: model {self._title!r}: {field} {problem}."
        )

    def pop(
        self,
        field: str,
        kind: type[_V],
        fits: Callable[[_V], bool],
        must: str,
        default: object = None,
    ) -> _V:
        """Take a field out, or its default; `must` describes in words what `fits` tests."""
        value = self._table.pop(field, default)
        if value is None:
            raise self.error(field, f"is missing; it must be {must}")
        # bool is an int and datetime a date in Python; neither is meant.
        if type(value) is not kind or not fits(value):
            raise self.error(field, f"= {value!r} must be {must}")
        return value

    def words(
        self, field: str, fits: Callable[[str], bool], must: str, default: list[str] | None = None
    ) -> tuple[str, ...]:
        """Take a list of strings without repetitions."""
        items = self.pop(field, list, lambda value: True, f"a list: {must}", default)
        for item in items:
            if not isinstance(item, str) or not fits(item):
                raise self.error(field, f"holds {item!r}, which must be {must}")
        if len(set(items)) != len(items):
            raise self.error(field, "names something twice")
        return tuple(items)

    def end(self) -> None:
        if self._table:
            field = min(self._table)
            raise self.error(field, "is not a field of the catalogue")


def _positive(value: int) -> bool:
    return 0 < value < 2**50


def _entry(fields: _Fields) -> Entry:
    name = fields.pop(
        "name", str, lambda v: bool(_NAME.fullmatch(v)), "lower-case letters, digits, '.' and '-'"
    )
    parameters = fields.pop("parameters", int, _positive, "a positive whole number")
    context = fields.pop("context", int, _positive, "a positive whole number")
    repos = fields.words("repos", _is_repo, "a repository, 'org/name'")
    if not repos:
        raise fields.error("repos", "is empty; it must name a repository, 'org/name'")
    released = fields.pop("released", date, lambda v: v >= date(2021, 1, 1), "a date since 2021")
    license_ = fields.pop("license", str, lambda v: v in LICENCES, "one of " + ", ".join(LICENCES))
    entry = Entry(
        name=name,
        title=fields.pop("title", str, lambda v: bool(v.strip()), "a title"),
        family=fields.pop("family", str, lambda v: bool(v.strip()), "a family's name"),
        tasks=tuple(
            Task(word)
            for word in fields.words("tasks", lambda v: v in {*Task}, "of " + ", ".join(Task))
        ),
        source=fields.pop("source", str, _is_repo, "a repository, 'org/name'"),
        repos=repos,
        quants=fields.words(
            "quants", FILE_TYPES.__contains__, "a quant llama.cpp makes", list(COMMON_QUANTS)
        ),
        license=license_,
        business=fields.pop(
            "business", bool, lambda v: v is LICENCES[license_], f"what {license_} allows"
        ),
        parameters=parameters,
        active_parameters=fields.pop(
            "active_parameters",
            int,
            lambda v: 0 < v <= parameters,
            "at most parameters",
            parameters,
        ),
        context=context,
        released=released,
        checked=tuple(
            Check(word)
            for word in fields.words(
                "checked", lambda v: v in {*Check}, "of " + ", ".join(Check), []
            )
        ),
        hparams=_hparams(fields, context),
        tokenizer=fields.pop("tokenizer", str, bool, "gpt2, llama, bert or t5"),
        line=fields.line,
        encoder=_encoder(fields),
    )
    if not entry.tasks or not entry.quants:
        raise fields.error("quants" if entry.tasks else "tasks", "is empty")
    if (Task.VISION in entry.tasks) is not (entry.encoder is not None):
        raise fields.error("mmproj", "must be there for the task vision, and for no other")
    fields.end()
    _check_hparams(entry, fields)
    return entry


_ENCODER_NUMBERS = (
    *("parameters", "image_size", "patch_size", "embedding_length", "feed_forward_length"),
)


def _encoder(fields: _Fields) -> PublishedEncoder | None:
    """Read the table of an image encoder."""
    table: dict[str, object] = fields.pop("mmproj", dict, lambda v: True, "a table", {})
    if not table:
        return None
    numbers = {name: table.pop(name, None) for name in _ENCODER_NUMBERS}
    numbers |= {
        name: table.pop(name, default) for name, default in (("positions", 0), ("merge", 2))
    }
    kind = table.pop("projector_type", None)
    values = {name: value for name, value in numbers.items() if type(value) is int and value >= 0}
    if table or len(values) < len(numbers) or not isinstance(kind, str) or not values["patch_size"]:
        must = f"must have projector_type, the numbers {', '.join(_ENCODER_NUMBERS)} and no others"
        raise fields.error("mmproj", must)
    return PublishedEncoder(
        parameters=values["parameters"],
        positions=values["positions"],
        shape=EncoderShape(
            projector=kind,
            image_size=values["image_size"],
            patch_size=values["patch_size"],
            width=values["embedding_length"],
            feed_forward=values["feed_forward_length"],
            merge=values["merge"],
        ),
    )


def _is_repo(value: str) -> bool:
    return bool(_REPO.fullmatch(value))


def _hparams(fields: _Fields, context: int) -> HParams:
    return HParams(
        architecture=fields.pop("architecture", str, bool, "llama.cpp's name of the architecture"),
        vocabulary=fields.pop("vocabulary", int, _positive, "a positive whole number"),
        context=context,
        tied=fields.pop("tied", bool, lambda v: True, "true or false", False),
        extra=frozenset(
            fields.words("extra", _EXTRA.__contains__, "of " + ", ".join(sorted(_EXTRA)), [])
        ),
        gguf=_gguf(fields),
    )


def _check_hparams(entry: Entry, fields: _Fields) -> None:
    try:
        _blueprint_of(entry)
    except KeyError as error:
        raise fields.error("gguf", f"lacks or does not know {error.args[0]!r}") from error
    except (IndexError, ValueError, ArithmeticError) as error:
        raise fields.error("gguf", f"does not describe a model: {error}") from error


def _gguf(fields: _Fields) -> Mapping[str, HeaderValue]:
    table = fields.pop("gguf", dict, bool, "a table of header keys")
    return MappingProxyType(dict(_flat(fields, table, "")))


def _flat(
    fields: _Fields, table: Mapping[str, object], prefix: str
) -> Iterator[tuple[str, HeaderValue]]:
    """Undo what TOML makes of dotted keys."""
    for key, value in table.items():
        match value:
            case dict():
                yield from _flat(fields, value, f"{prefix}{key}.")
            case bool() | str() | float():
                yield prefix + key, value
            case int() if 0 <= value < 2**31:
                yield prefix + key, value
            case list() if all(type(v) in (int, bool) and 0 <= v < 2**31 for v in value):
                yield prefix + key, tuple(value)
            case list() if all(isinstance(v, str) for v in value):
                yield prefix + key, tuple(value)
            case _:
                must = "must be a number, a word, or a list of either"
                raise fields.error(prefix + key, f"= {value!r} {must}")
