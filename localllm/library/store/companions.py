"""Files that are loaded beside a model: the image encoder (mmproj) and LoRA adapters.

Each passes the gatekeeper, against the model it is to be loaded with, before llama.cpp opens it.
"""

from dataclasses import replace
from pathlib import Path

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import LoadSettings, Lora, Mmproj
from localllm.core.sizing.lora import lora_of
from localllm.core.text import single_line
from localllm.errors import GgufError
from localllm.library.files.names import printable
from localllm.library.store.inspect import adapter_at, mmproj_for
from localllm.library.store.installed import InstalledModel

_HUB, _PATH = "hub:", "path"


def mmproj_of(model: InstalledModel) -> Mmproj | None:
    """The encoder to ask for in a load, not looked at yet. None: the model has none here.

    Of a file that is not in the library it is the only one that lies beside it.
    """
    if model.mmproj is not None:
        return Mmproj(path=str(model.mmproj.path))
    beside = list(model.path.parent.glob("*mmproj*.gguf")) if model.source == _PATH else []
    return Mmproj(path=str(beside[0])) if len(beside) == 1 else None


def with_mmproj(settings: LoadSettings, model: ModelSpec) -> LoadSettings:
    """These settings with the encoder examined, if they have one.

    Raises NotFound, StoreError, and GgufError for a file that does not go with the model.
    """
    if settings.mmproj is None:
        return settings
    return replace(settings, mmproj=mmproj_for(Path(settings.mmproj.path), model))


def why_no_vision(model: InstalledModel) -> str:
    """Why a model that was loaded without an encoder cannot see, and what to do."""
    name = single_line(model.name)
    if model.mmproj is not None:
        return f"{name} was loaded without its image encoder, so it cannot see images."
    repository = "ORG/REPO"
    if model.source.startswith(_HUB):
        repository = single_line(model.source.removeprefix(_HUB).rpartition("@")[0])
    return (
        f"{name} has no image encoder here (a file called mmproj-... that is published beside some "
        f"models), so it cannot see images. Where there is one, this fetches it with the model: "
        f"localllm pull {repository}"
    )


def examined(lora: Lora, model: ModelSpec) -> Lora:
    """The same adapter with what it weighs beside this model.

    Raises NotFound, StoreError, and GgufError for a file that does not fit the model.
    """
    path = Path(lora.path)
    header = adapter_at(path)
    try:
        return lora_of(header, model, path=lora.path, scale=lora.scale)
    except GgufError as error:
        raise GgufError(f"The adapter {printable(path)} cannot be used: {error}.") from error


def with_adapters(settings: LoadSettings, model: ModelSpec) -> LoadSettings:
    """These settings with every adapter examined. Raises as `examined` does."""
    if not settings.loras:
        return settings
    return replace(settings, loras=tuple(examined(each, model) for each in settings.loras))
