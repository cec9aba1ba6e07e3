"""The models that requests can name: their names as Ollama's clients write them (`NAME:TAG`), and
`/api/tags`, `/api/ps` and `/api/show`."""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from localllm import __version__
from localllm.errors import LocalLLMError
from localllm.library.store.installed import InstalledModel
from localllm.library.store.spelling import models_spelled
from localllm.runtime.model_pool.listing import ModelListing
from localllm.runtime.runtime import ResidentModel
from localllm.server.dialects.ollama.answer import timestamp
from localllm.server.dialects.ollama.fields import ModelFields
from localllm.server.dialects.ollama.model_facts import (
    JsonValue,
    ModelDetails,
    ModelFacts,
    TensorItem,
    model_facts,
    verbose_facts,
)
from localllm.server.errors import api_error
from localllm.server.schema import OMIT_IF_NONE, ApiModel

_LATEST = ":latest"
_REGISTRY = ("registry.ollama.ai/", "library/")


def tagged(name: str) -> str:
    """Write a name as Ollama lists it; `served_name` finds the model by it again."""
    return name if ":" in name else name + _LATEST


def served_name(text: str, models: Sequence[ModelListing]) -> str:
    """Return the model's own name, or alias, for what a client calls it.

    Case makes no difference; behind the name may stand `:latest` or a tag that belongs to it,
    such as its quant. A name that none is called by is returned as it is, and so is one of several.
    """
    names = {name for each in models for name in (each.name, *each.aliases)}
    if text in names:
        return text
    plain = text
    for prefix in _REGISTRY:
        plain = plain.removeprefix(prefix)
    for candidate in (plain, _without_latest(plain)):
        matching = [name for name in names if name.casefold() == candidate.casefold()]
        if len(matching) == 1:
            return matching[0]
    spelled = models_spelled(plain, tuple(each.model for each in models))
    found = {each.name for each in models if each.model in spelled}
    return found.pop() if len(found) == 1 else text


def _without_latest(text: str) -> str:
    return text[: -len(_LATEST)] if text.lower().endswith(_LATEST) else text


NEVER = "9999-12-31T23:59:59Z"
"""The end of what is kept for ever: clients read a time there."""


class TagItem(ApiModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails
    capabilities: list[str]


API_VERSION = "0.32.6"
"""The version of Ollama whose API this is (2026-08): clients refuse versions that are too old."""


class Version(ApiModel):
    version: str = API_VERSION
    server: str = f"localllm {__version__}"


class Tags(ApiModel):
    models: list[TagItem]


class RunningItem(ApiModel):
    """`size` is the memory that was planned for it, `size_vram` that on GPUs."""

    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails
    expires_at: str
    size_vram: int
    context_length: int


class Running(ApiModel):
    models: list[RunningItem]


class ShowBody(ModelFields):
    """`options`, `system` and `template` belong to what Ollama would write into a Modelfile."""

    verbose: bool | None = None
    options: object = None
    system: object = None
    template: object = None


class Shown(ApiModel):
    license: Annotated[str | None, OMIT_IF_NONE] = None
    modelfile: str
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, JsonValue]
    tensors: Annotated[list[TensorItem] | None, OMIT_IF_NONE] = None
    capabilities: list[str]
    modified_at: str


async def tags(models: Iterable[ModelListing]) -> Tags:
    """List the models, each name and alias, those of the newest files first."""

    def read() -> Tags:
        items = [_tag(name, each) for each in models for name in (each.name, *each.aliases)]
        return Tags(models=sorted(items, key=lambda item: item.modified_at, reverse=True))

    return await asyncio.to_thread(read)


async def running(models: Iterable[ModelListing]) -> Running:
    """List the models in memory, the one that stays longest first."""

    def read() -> Running:
        now = datetime.now(UTC)
        items = [_running(each, each.resident, now) for each in models if each.resident is not None]
        return Running(models=sorted(items, key=lambda item: item.expires_at, reverse=True))

    return await asyncio.to_thread(read)


async def shown(listing: ModelListing, *, verbose: bool) -> Shown:
    """Describe one model; `verbose`: with its vocabulary and tensors. Raises ApiError."""
    return await asyncio.to_thread(_shown, listing, verbose)


def _tag(name: str, listing: ModelListing) -> TagItem:
    facts, model = model_facts(listing.model), listing.model
    return TagItem(
        name=tagged(name),
        model=tagged(name),
        modified_at=_modified_at(model),
        size=model.size_bytes,
        digest=digest(model),
        details=facts.details(vision=_sees(listing)),
        capabilities=_capabilities(facts, listing),
    )


def _running(listing: ModelListing, resident: ResidentModel, now: datetime) -> RunningItem:
    left_s = listing.expires_in_s
    expires_at = NEVER if left_s is None else timestamp(now + timedelta(seconds=left_s))
    return RunningItem(
        name=tagged(listing.name),
        model=tagged(listing.name),
        size=resident.fit.with_draft_bytes,
        digest=digest(listing.model),
        details=model_facts(listing.model).details(vision=_sees(listing)),
        expires_at=expires_at,
        size_vram=sum(share.total_bytes for share in resident.fit.placement.devices[:-1]),
        context_length=resident.loaded.context,
    )


def _shown(listing: ModelListing, verbose: bool) -> Shown:
    facts, resident = model_facts(listing.model), listing.resident
    info: Mapping[str, JsonValue] = dict(facts.info)
    tensors: tuple[TensorItem, ...] | None = None
    if verbose:
        try:
            info, tensors = verbose_facts(listing.model)
        except LocalLLMError as error:
            raise api_error(error) from error
    template = _template(facts, resident)
    context = resident.loaded.context if resident is not None else None
    return Shown(
        license=facts.license or None,
        modelfile=_modelfile(listing.name, template, context),
        parameters="" if context is None else f"{'num_ctx':<30} {context}",
        template=template,
        details=facts.details(vision=_sees(listing)),
        model_info=dict(info),
        tensors=list(tensors) if tensors is not None else None,
        capabilities=_capabilities(facts, listing),
        modified_at=_modified_at(listing.model),
    )


def _template(facts: ModelFacts, resident: ResidentModel | None) -> str:
    """Return the chat template that answers are made with: one that was given for the file's."""
    return (resident.loaded.chat_template if resident is not None else None) or facts.template


def _modelfile(name: str, template: str, context: int | None) -> str:
    """Write what Ollama would show. The model stands there by its name: where its file is, no
    client needs to know."""
    lines = ["# What this server answers with; it cannot be changed here.", f"FROM {tagged(name)}"]
    if template:
        lines.append(f'TEMPLATE """{template}"""')
    if context is not None:
        lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"


def _sees(listing: ModelListing) -> bool:
    """Return True for a model whose messages may have images; unloaded, one with an mmproj."""
    if listing.resident is not None:
        return listing.resident.loaded.vision
    return listing.model.mmproj is not None


def _capabilities(facts: ModelFacts, listing: ModelListing) -> list[str]:
    resident = listing.resident
    return facts.capabilities(
        vision=_sees(listing),
        embeds=resident is not None and resident.settings.embeddings,
        infill=resident is not None and resident.loaded.vocabulary.infill,
    )


def _modified_at(model: InstalledModel) -> str:
    try:
        changed_s = model.path.stat().st_mtime
    except (OSError, ValueError):
        changed_s = 0.0
    return timestamp(datetime.fromtimestamp(changed_s, UTC))


def digest(model: InstalledModel) -> str:
    """Return the SHA-256 of a model. Of a split one, and of one that nobody has hashed yet, it is
    that of what identifies its files: clients tell models apart by it, and some cut it."""
    if model.sha256 is not None:
        return model.sha256
    files = [f"{each.path.name} {each.size_bytes} {each.sha256}" for each in model.files]
    return hashlib.sha256("\n".join(files).encode("utf-8", "surrogatepass")).hexdigest()
