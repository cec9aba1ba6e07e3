"""Forged models of the catalogue, for architectures that the forge has no model of its own for."""

from pathlib import Path

from localllm.core.catalogue.catalogue import parse
from localllm.core.model.spec import MetadataValue
from tests.core.forge import Forged

CATALOGUE = Path(__file__).parents[2] / "models.toml"
ARCHITECTURES = (
    "ernie4_5-moe",
    "gemma4",
    "glm4",
    "granite",
    "lfm2moe",
    "mistral3",
    "olmo2",
    "qwen2vl",
    "qwen35",
    "qwen35moe",
    "qwen3vl",
    "qwen3vlmoe",
    "seed_oss",
    "smollm3",
)
_LOADER_WANTS: dict[str, MetadataValue] = {  # read by llama.cpp, without weight for sizes
    "attention.layer_norm_rms_epsilon": 1e-6,
    "expert_gating_func": 2,
    "logit_scale": 1.0,
}


def catalogued() -> tuple[Forged, ...]:
    """The first model of each architecture, as a file of it would state itself."""
    first: dict[str, Forged] = {}
    for entry in parse(CATALOGUE.read_text(encoding="utf-8")):
        spec = entry.spec("Q8_0")
        architecture = spec.architecture
        if architecture not in ARCHITECTURES or architecture in first:
            continue
        prefix = f"{architecture}."
        keys = dict(_LOADER_WANTS)
        if spec.arch.mrope:
            keys["rope.dimension_sections"] = [16, 24, 24, 0]
        keys |= {k.removeprefix(prefix): v for k, v in spec.metadata.items() if prefix in k}
        keys.pop("vocab_size", None)  # the forge writes it
        first[architecture] = Forged(
            name=spec.name or architecture,
            architecture=architecture,
            keys=keys,
            vocabulary=spec.vocabulary,
            tensors=tuple((tensor.name, tensor.shape) for tensor in spec.tensors),
            general={},
        )
    return tuple(first.values())
