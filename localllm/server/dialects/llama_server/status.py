"""What llama-server says of itself: `/props` and `/slots`, for the models that are in memory.

Neither loads a model, and neither shows a prompt.
"""

from dataclasses import asdict
from pathlib import Path

from pydantic import RootModel

from localllm import __version__
from localllm.core.text import single_line
from localllm.engine.messages import Sampling
from localllm.runtime.model_pool.listing import ModelListing
from localllm.server.schema import ApiModel


class DefaultSettings(ApiModel):
    """`n_ctx`: tokens of one conversation, None while the model is not in memory. `params`: what a
    request has that says nothing."""

    n_ctx: int | None
    params: dict[str, object]


class Modalities(ApiModel):
    vision: bool
    audio: bool = False


class Props(ApiModel):
    """The answer of `/props`. `model_path` is the file's name alone."""

    default_generation_settings: DefaultSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool

    @classmethod
    def of(cls, listing: ModelListing) -> "Props":
        resident = listing.resident
        loaded = None if resident is None else resident.loaded
        vocabulary = None if loaded is None else loaded.vocabulary
        return cls(
            default_generation_settings=DefaultSettings(
                n_ctx=None if loaded is None else loaded.context,
                params={**asdict(Sampling()), "n_predict": -1},
            ),
            total_slots=0 if loaded is None else loaded.parallel,
            model_alias=listing.name,
            model_path=single_line(Path(listing.model.path).name),
            modalities=Modalities(vision=loaded is not None and loaded.vision),
            chat_template=(loaded.chat_template if loaded is not None else None) or "",
            bos_token=(vocabulary.bos if vocabulary is not None else None) or "",
            eos_token=(vocabulary.eos if vocabulary is not None else None) or "",
            build_info=f"localllm {__version__}",
            is_sleeping=loaded is None,
        )


class Slot(ApiModel):
    """A place for one answer at a time. Which answer has which place is the engine's affair: the
    first ones are those that are busy."""

    id: int
    model: str
    n_ctx: int
    is_processing: bool


class SlotList(RootModel[list[Slot]]):
    """The answer of `/slots`."""


def slots_of(listing: ModelListing, running: int) -> list[Slot]:
    """Return the slots of a model, of which `running` are busy; none when it is not in memory."""
    if listing.resident is None:
        return []
    loaded = listing.resident.loaded
    return [
        Slot(id=i, model=listing.name, n_ctx=loaded.context, is_processing=i < running)
        for i in range(loaded.parallel)
    ]
