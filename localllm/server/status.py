"""Endpoints that belong to no vendor's dialect: the health of the server, its LoRA adapters."""

from pathlib import Path
from typing import Literal

from fastapi import APIRouter

from localllm.core.text import single_line
from localllm.server.schema import ApiModel
from localllm.server.served_models import ServedModels


class ModelStatus(ApiModel):
    id: str
    status: Literal["ready", "crashed"]


class Health(ApiModel):
    status: Literal["ok", "degraded"]
    models: list[ModelStatus]


class LoraAdapter(ApiModel):
    """An adapter as llama-server lists it. `path` is the file's name alone: clients need not know
    the folders of this machine."""

    id: int
    path: str
    scale: float
    model: str


def router(models: ServedModels) -> APIRouter:
    """Make the routes `/health`, which needs no key, and `/lora-adapters`."""
    routes = APIRouter()

    @routes.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Health:
        """Report which engines run. A crashed one starts again with the next request for it."""
        running = {resident.model.name for resident in models.resident}
        return Health(
            status="ok" if running.issuperset(models.names) else "degraded",
            models=[
                ModelStatus(id=name, status="ready" if name in running else "crashed")
                for name in models.names
            ],
        )

    @routes.api_route("/lora-adapters", methods=["GET", "HEAD"])
    async def lora_adapters() -> list[LoraAdapter]:
        """List the adapters that requests can name in `lora`."""
        return [
            LoraAdapter(
                id=i,
                path=single_line(Path(lora.path).name),
                scale=lora.scale,
                model=resident.model.name,
            )
            for resident in models.resident
            for i, lora in enumerate(resident.settings.loras)
        ]

    return routes
