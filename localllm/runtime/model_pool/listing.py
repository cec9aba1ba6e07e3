"""A model that requests can name, as every front end shows it."""

from dataclasses import dataclass
from enum import StrEnum

from localllm.library.store.installed import InstalledModel
from localllm.runtime.model_pool.warm_swap import KeptConversations
from localllm.runtime.runtime import ResidentModel


class ModelState(StrEnum):
    """Where a model is: on the disk alone, on its way into memory, in memory, or its engine is gone
    and starts again with the next request."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """How far a load is: `progress` from 0 to 1, None while it waits for its turn or for room;
    `plan` explains it in a sentence, or is empty. `testing_devices`: the GPU's results are compared
    with the processor's."""

    progress: float | None = None
    plan: str = ""
    testing_devices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListing:
    """A model and what is known of it in memory.

    `aliases` are its other names. `resident` is None unless it is READY. `keep_alive_s`: seconds
    that it stays in memory after its last request, infinity: for ever. `expires_in_s`: seconds
    until it is unloaded if nothing asks for it; None when it is not: it is in use, pinned, kept for
    ever or not in memory.
    `memory_bytes` are measured of its engine's process, `estimated_bytes` are what it was planned
    to take on all devices. `last_used_s`: seconds since its last request; None: it had none.
    `requests` are those that it answers or that wait for it, `slots` the answers it gives at the
    same time. `progress`: the part of a load that is done, None when it is not LOADING. `plan`
    explains its last load, or what a load waits for; None when there was none. `kept` are its
    conversations that wait for its next load.
    """

    name: str
    model: InstalledModel
    aliases: tuple[str, ...] = ()
    state: ModelState = ModelState.UNLOADED
    resident: ResidentModel | None = None
    keep_alive_s: float = float("inf")
    expires_in_s: float | None = None
    pinned: bool = False
    memory_bytes: int | None = None
    estimated_bytes: int | None = None
    last_used_s: float | None = None
    requests: int = 0
    slots: int | None = None
    progress: float | None = None
    plan: str | None = None
    kept: KeptConversations | None = None
