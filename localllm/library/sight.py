"""Whether an installed model can see: the encoder (mmproj) beside it, or what to do about it."""

from dataclasses import replace
from pathlib import Path

from localllm.core.load import Encoder, LoadSettings
from localllm.core.model import ModelSpec
from localllm.core.text import single_line
from localllm.library.examine import encoder_for
from localllm.library.installed import InstalledModel

_HUB, _PATH = "hub:", "path"


def encoder_of(model: InstalledModel) -> Encoder | None:
    """The encoder to ask for in a load, not looked at yet. None: the model has none here.

    Of a file that is not in the library it is the only one that lies beside it.
    """
    if model.mmproj is not None:
        return Encoder(path=str(model.mmproj))
    beside = list(model.path.parent.glob("*mmproj*.gguf")) if model.source == _PATH else []
    return Encoder(path=str(beside[0])) if len(beside) == 1 else None


def with_encoder(settings: LoadSettings, model: ModelSpec) -> LoadSettings:
    """These settings with the encoder examined, if they have one.

    Raises NotFound, StoreError, and GgufError for a file that does not go with the model.
    """
    if settings.encoder is None:
        return settings
    return replace(settings, encoder=encoder_for(Path(settings.encoder.path), model))


def why_blind(model: InstalledModel) -> str:
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
