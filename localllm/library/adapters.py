"""LoRA adapters on disk: passed by the gatekeeper, against the model they are to be loaded with."""

from dataclasses import replace
from pathlib import Path

from localllm.core.adapter import adapter_of
from localllm.core.load import LoadSettings, Lora
from localllm.core.model import ModelSpec
from localllm.errors import GgufError
from localllm.library.examine import adapter_at
from localllm.library.names import shown


def examined(lora: Lora, model: ModelSpec) -> Lora:
    """The same adapter with what it weighs beside this model.

    Raises NotFound, StoreError, and GgufError for a file that does not fit the model.
    """
    path = Path(lora.path)
    header = adapter_at(path)
    try:
        return adapter_of(header, model, path=lora.path, scale=lora.scale)
    except GgufError as error:
        raise GgufError(f"The adapter {shown(path)} cannot be used: {error}.") from error


def with_adapters(settings: LoadSettings, model: ModelSpec) -> LoadSettings:
    """These settings with every adapter examined. Raises as `examined` does."""
    if not settings.adapters:
        return settings
    return replace(settings, adapters=tuple(examined(each, model) for each in settings.adapters))
