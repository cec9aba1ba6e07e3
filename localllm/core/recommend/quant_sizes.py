"""The memory of every quant of many models for one load, fast enough to follow a key.

All quants of a model have the same tensors, so what a context costs (cache, compute buffer, output)
is worked out once for the model and not for each file; what depends on the quant (weights, repacked
copies) once for the file and not for each context. Where there is a GPU each file is placed by
itself. The results are those of `evaluate`, to the byte (a test compares).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TypeVar

from localllm.core.model.spec import ModelSpec
from localllm.core.recommend.evaluation import load_of
from localllm.core.recommend.plan import Candidate, Preferences
from localllm.core.sizing import footprint
from localllm.core.sizing.footprint import Footprint
from localllm.core.sizing.footprint.weights import loaded_tensors, overhead_bytes, repacked_bytes
from localllm.core.sizing.load import KvType, LoadSettings
from localllm.core.sizing.placement import (
    Budget,
    Placement,
    host_placement,
    place,
    with_encoder_on_host,
)
from localllm.errors import GgufError, UsageError

_MAX_SPECS = 160
"""Headers that are kept: one for each model of a list that is sized again and again. Those of the
catalogue's 900 quants would take 150 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSize:
    """The memory that one quant takes here, and where it lies.

    `context` is what each sequence gets: at most the training context. `kv_type` is that of the
    cache, f16 where llama.cpp refuses the preferred one. `lacking_bytes` is what is missing on the
    device that lacks most, 0 when it fits.
    """

    placement: Placement
    context: int
    kv_type: KvType

    @property
    def fits(self) -> bool:
        return self.placement.fits

    @property
    def total_bytes(self) -> int:
        return sum(share.total_bytes for share in self.placement.devices)

    @property
    def partly(self) -> bool:
        """True when it fits and a part of it has no room on the GPUs that are there."""
        devices = self.placement.devices
        whole = self.placement.gpu_layers >= len(self.placement.layout)
        return self.fits and len(devices) > 1 and (not whole or self.placement.cpu_moe > 0)

    @property
    def lacking_bytes(self) -> int:
        if self.fits:
            return 0
        return max(1, *(share.total_bytes - share.free_bytes for share in self.placement.devices))


@dataclass(frozen=True, slots=True)
class _OfFile:
    """What of a footprint depends on the file and not on the load."""

    weights_bytes: int
    overhead_bytes: int
    repacked_bytes: int


@dataclass(frozen=True, slots=True)
class _OfModel:
    """What of a footprint depends on the load and not on the file."""

    footprint: Footprint
    settings: LoadSettings
    layers: int


class QuantSizes:
    """The sizes of candidates in one budget; each is worked out once.

    Not for several threads at a time. A model's candidates share its name (`Candidate.model`).
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._specs: OrderedDict[str, ModelSpec] = OrderedDict()
        self._files: dict[str, _OfFile] = {}
        self._models: dict[Hashable, _OfModel | GgufError] = {}
        self._sizes: dict[Hashable, QuantSize | GgufError] = {}

    def in_budget(self, budget: Budget) -> "QuantSizes":
        """Return the sizes in another budget; what depends on none is not worked out again."""
        other = QuantSizes(budget)
        other._specs, other._files, other._models = self._specs, self._files, self._models
        return other

    def size(self, candidate: Candidate, preferences: Preferences) -> QuantSize:
        """Size a candidate. Raises GgufError for a model whose memory nobody can work out."""
        key = candidate.file, _question(preferences)
        return _remembered(self._sizes, key, lambda: self._size(candidate, preferences))

    def spec(self, candidate: Candidate) -> ModelSpec:
        """Return a candidate's header; the last few are kept."""
        if candidate.file not in self._specs:
            self._specs[candidate.file] = candidate.spec()
            if len(self._specs) > _MAX_SPECS:
                self._specs.popitem(last=False)
        self._specs.move_to_end(candidate.file)
        return self._specs[candidate.file]

    def load(self, candidate: Candidate, preferences: Preferences) -> LoadSettings:
        """Return the settings that a candidate is sized with."""
        return load_of(self.spec(candidate), preferences, candidate.mmproj)

    def _size(self, candidate: Candidate, preferences: Preferences) -> QuantSize:
        if self.budget.gpus:
            settings = self.load(candidate, preferences)
            placement = place(self.spec(candidate), settings, self.budget)
            return _sized(placement, settings)
        model = self._of_model(candidate, preferences)
        file = self._of_file(candidate)
        placement = host_placement(
            replace(
                model.footprint,
                weights_bytes=file.weights_bytes,
                overhead_bytes=file.overhead_bytes,
            ),
            repacked_bytes=file.repacked_bytes,
            free_bytes=self.budget.host_bytes,
            layers=model.layers,
        )
        if model.footprint.encoder_bytes:
            placement = with_encoder_on_host(placement, model.footprint.encoder_bytes)
        return _sized(placement, model.settings)

    def _of_file(self, candidate: Candidate) -> _OfFile:
        if candidate.file not in self._files:
            spec, mapped = self.spec(candidate), LoadSettings()
            read = replace(mapped, mmap=False)
            copies = repacked_bytes(spec, mapped) - repacked_bytes(spec, read)
            self._files[candidate.file] = _OfFile(
                weights_bytes=sum(tensor.size_bytes for tensor in loaded_tensors(spec)),
                overhead_bytes=overhead_bytes(spec, mapped),
                repacked_bytes=copies,
            )
        return self._files[candidate.file]

    def _of_model(self, candidate: Candidate, preferences: Preferences) -> _OfModel:
        key = (
            (candidate.model, candidate.parameters, candidate.mmproj),
            _question(preferences),
        )

        def work_out() -> _OfModel:
            spec, settings = self.spec(candidate), self.load(candidate, preferences)
            return _OfModel(footprint.of(spec, settings), settings, spec.blocks + 1)

        return _remembered(self._models, key, work_out)


def _sized(placement: Placement, settings: LoadSettings) -> QuantSize:
    return QuantSize(placement=placement, context=settings.context, kv_type=settings.kv_type_k)


def _question(preferences: Preferences) -> Hashable:
    """Return what of the preferences changes memory."""
    return (preferences.context, preferences.parallel, preferences.graphs, preferences.kv_type)


_Value = TypeVar("_Value")


def _remembered(
    memo: "dict[Hashable, _Value | GgufError]", key: Hashable, work_out: Callable[[], _Value]
) -> _Value:
    """Work a value out once, or raise again what its first attempt raised."""
    if key not in memo:
        try:
            memo[key] = work_out()
        except GgufError as error:
            memo[key] = error
        except UsageError as error:  # more sequences than llama.cpp's graph has room for
            memo[key] = GgufError(str(error))
    found = memo[key]
    if isinstance(found, GgufError):
        raise found
    return found
