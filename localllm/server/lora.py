"""LoRA adapters over HTTP, in llama-server's shapes: which are there, and which a request wants."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from localllm.core.sizing.lora import MAX_SCALE
from localllm.core.text import single_line
from localllm.engine.messages import LoraScale
from localllm.engine.messages.limits import MAX_LORAS
from localllm.runtime.runtime import ResidentModel
from localllm.server.schema import Shape


class AdapterScale(Shape):
    """One item of a request's `lora`; adapters that are not listed do not count."""

    id: Annotated[int, Field(ge=0, le=MAX_LORAS - 1)]
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]

    def adapter(self) -> LoraScale:
        return LoraScale(id=self.id, scale=self.scale)


AdapterScales = Annotated[list[AdapterScale], Field(max_length=MAX_LORAS)]


def loras(asked: list[AdapterScale] | None) -> tuple[LoraScale, ...] | None:
    """The same for the engine; None is what the model was loaded with."""
    return None if asked is None else tuple(each.adapter() for each in asked)


class AdapterCard(Shape):
    """`path` is the file's name: where it lies is nobody's business."""

    id: int
    path: str
    scale: float
    model: str


def cards(resident: ResidentModel) -> list[AdapterCard]:
    """The adapters of a model that is in memory."""
    return [
        AdapterCard(
            id=i,
            path=single_line(Path(lora.path).name),
            scale=lora.scale,
            model=resident.model.name,
        )
        for i, lora in enumerate(resident.settings.loras)
    ]
