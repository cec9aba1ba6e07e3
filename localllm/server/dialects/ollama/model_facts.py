"""What Ollama's API says of a model's file, from its header. Reading one takes a moment, so what
is said of all models is kept; vocabularies and tensors are read again for who wants them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from localllm.core.model.purpose import is_embedding_model, why_not_generative
from localllm.core.model.spec import MetadataValue, ModelSpec
from localllm.core.model.template_features import shows_thoughts, takes_tools
from localllm.errors import GgufError, LocalLLMError
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import InstalledModel
from localllm.server.schema import ApiModel

_LONGEST_ARRAY = 8
"""Elements that are written without `verbose`; a vocabulary has a quarter of a million."""

_NOT_LISTED = frozenset({"general.name", "tokenizer.chat_template"})
"""Keys that Ollama leaves out of `model_info`: others say them."""

_INFILL_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
JsonValue = str | int | float | bool | None | list[str | int | float | bool | None]


class ModelDetails(ApiModel):
    parent_model: str = ""
    format: str = "gguf"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class TensorItem(ApiModel):
    name: str
    type: str
    shape: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The facts of a header; empty where a file cannot be read."""

    architecture: str = ""
    parameters: int = 0
    quant: str = ""
    license: str = ""
    template: str = ""
    generates: bool = True
    embeds: bool = False
    infill: bool = False
    info: tuple[tuple[str, JsonValue], ...] = ()

    def details(self, *, vision: bool) -> ModelDetails:
        families = [self.architecture] if self.architecture else []
        return ModelDetails(
            family=self.architecture,
            families=[*families, "clip"] if vision else families,
            parameter_size=human_number(self.parameters) if self.parameters else "",
            quantization_level=self.quant or "unknown",
        )

    def capabilities(self, *, vision: bool, embeds: bool, infill: bool) -> list[str]:
        """Name what the model can do; `embeds`: it is loaded for embeddings alone."""
        if embeds or not self.generates:
            return ["embedding"] if embeds or self.embeds else []
        found = {
            "completion": True,
            "tools": takes_tools(self.template),
            "insert": infill or self.infill,
            "vision": vision,
            "thinking": shows_thoughts(self.template),
        }
        return [name for name, has in found.items() if has]


@lru_cache(maxsize=256)
def model_facts(model: InstalledModel) -> ModelFacts:
    """Read the facts of a model's file. Blocks: call it in a thread."""
    try:
        spec = inspect_model(model.path).spec
    except LocalLLMError:
        return ModelFacts(quant=model.quant or "", license=model.license or "")
    return ModelFacts(
        architecture=spec.architecture,
        parameters=spec.parameters,
        quant=model.quant or spec.quant or "",
        license=model.license or spec.license or "",
        template=spec.chat_template or "",
        generates=why_not_generative(spec) is None,
        embeds=is_embedding_model(spec) and not _ranks(spec),
        infill=any(key in spec.metadata for key in _INFILL_KEYS),
        info=tuple(model_info(spec, longest=_LONGEST_ARRAY).items()),
    )


def verbose_facts(
    model: InstalledModel,
) -> tuple[Mapping[str, JsonValue], tuple[TensorItem, ...]]:
    """Read all of a header: every key, every tensor. Blocks. Raises LocalLLMError."""
    spec = inspect_model(model.path).spec
    tensors = tuple(
        TensorItem(name=each.name, type=each.type.name, shape=list(each.shape))
        for each in spec.tensors
    )
    return model_info(spec, longest=None), tensors


def model_info(spec: ModelSpec, *, longest: int | None) -> dict[str, JsonValue]:
    """Return the keys of a header as JSON has them; arrays of more than `longest` are null."""
    info: dict[str, JsonValue] = {"general.parameter_count": spec.parameters}
    for key, value in spec.metadata.items():
        if key not in _NOT_LISTED:
            info[key] = _json_value(value, longest)
    return info


def _json_value(value: MetadataValue, longest: int | None) -> JsonValue:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _scalar(value)
    if longest is not None and len(value) > longest:
        return None
    return [_scalar(each) for each in value]


def _scalar(value: str | float | bool) -> str | int | float | bool | None:
    """Write a value as JSON can: no number that is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _ranks(spec: ModelSpec) -> bool:
    try:
        return "rerank" in (why_not_generative(spec) or "")
    except GgufError:
        return False


def human_number(count: int) -> str:
    """Write a number of parameters as Ollama does: 134.52M, 7.2B, 8B."""
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 2)):
        if count >= size:
            return (
                f"{count // size}{unit}"
                if count % size == 0
                else f"{count / size:.{digits}f}{unit}"
            )
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)
