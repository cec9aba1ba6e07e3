"""Files that are loaded beside a model: mmproj and LoRA.

Each is inspected against the model that it is to be loaded with before llama.cpp opens it.
"""

from pathlib import Path

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Lora, Mmproj
from localllm.core.sizing.lora import lora_of
from localllm.core.text import single_line
from localllm.errors import GgufError, LocalLLMError
from localllm.library.files.names import printable
from localllm.library.store.inspect import lora_header, mmproj_for
from localllm.library.store.installed import InstalledModel

_HUB, _PATH = "hub:", "path"


def default_mmproj(model: InstalledModel) -> Mmproj | None:
    """Return the mmproj to load with a model, not inspected yet; None when there is none.

    For a file outside the library it is the only mmproj file in its directory, if there is exactly
    one.
    """
    if model.mmproj is not None:
        return Mmproj(path=str(model.mmproj.path))
    beside = list(model.path.parent.glob("*mmproj*.gguf")) if model.source == _PATH else []
    return Mmproj(path=str(beside[0])) if len(beside) == 1 else None


def usable_mmproj(model: InstalledModel, spec: ModelSpec) -> tuple[Mmproj | None, tuple[str, ...]]:
    """Inspect the model's mmproj. One that cannot be used is a warning, and the model answers text
    without it."""
    mmproj = default_mmproj(model)
    if mmproj is None:
        return None, ()
    try:
        return mmproj_for(Path(mmproj.path), spec), ()
    except LocalLLMError as error:
        return None, (single_line(f"{error} {model.name} answers, but sees no images."),)


def why_no_vision(model: InstalledModel) -> str:
    """Say why a model that was loaded without an mmproj has no vision, and what to do."""
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


def inspected_lora(lora: Lora, model: ModelSpec) -> Lora:
    """Return a LoRA with its size beside this model.

    Raises NotFound, StoreError, and GgufError for a file that does not fit the model.
    """
    path = Path(lora.path)
    header = lora_header(path)
    try:
        return lora_of(header, model, path=lora.path, scale=lora.scale)
    except GgufError as error:
        raise GgufError(f"The adapter {printable(path)} cannot be used: {error}.") from error
