"""What a server serves: the models that were named, and all others that are installed, on demand.

The settings say the rest: other names, profiles, how long a model stays, what is never unloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from localllm.core.text import single_line
from localllm.core.units import parse_keep_alive
from localllm.errors import NotFound, UsageError
from localllm.library.files.settings import Settings
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool_model import (
    DEFAULT_KEEP_ALIVE_S,
    FOREVER,
    OnDemand,
    PoolModel,
    PoolModels,
)
from localllm.runtime.runtime import Runtime
from localllm.server.local.model_aliases import resolve_aliases


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The options of the command line that say how models are loaded, kept and named. `only`:
    installed models that were not named are not served."""

    choice: LoadChoice = field(default_factory=LoadChoice)
    keep_alive_s: float | None = None
    pins: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    max_memory_bytes: int | None = None
    only: bool = False
    force: bool = False


def pool_models(
    runtime: Runtime, chosen: Sequence[InstalledModel], options: PoolOptions, user: Settings
) -> PoolModels:
    """Say how the models of a server are loaded, kept and named: the `chosen` ones, and others on
    demand. The settings fill in what no option says.

    Raises UsageError for a pin or an alias of the command line that names no model.
    """
    choice, only, keep_alive_s = options.choice, options.only, options.keep_alive_s
    tables = {name: dict(table) for name, table in user.models}
    kept = {
        name: parse_keep_alive(str(table["keep_alive"]))
        for name, table in tables.items()
        if keep_alive_s is None and "keep_alive" in table
    }
    if keep_alive_s is None and user.keep_alive is not None:
        keep_alive_s = parse_keep_alive(user.keep_alive)
    given = tuple(
        PoolModel(
            model=model,
            choice=choice,
            keep_alive_s=kept.get(model.name, FOREVER if keep_alive_s is None else keep_alive_s),
            force=options.force,
        )
        for model in chosen
    )
    on_demand = OnDemand(
        choice=choice_on_demand(choice),
        default_keep_alive_s=DEFAULT_KEEP_ALIVE_S if keep_alive_s is None else keep_alive_s,
        keep_alive_s=kept,
        profiles={name: str(table["model"]) for name, table in tables.items() if "model" in table},
    )
    models = PoolModels(runtime, given, on_demand=None if only else on_demand)
    saved = (*user.pin, *(name for name, table in tables.items() if table.get("pin")))
    pinned = _pinned(models, options.pins, saved)
    return PoolModels(
        runtime,
        [replace(model, pinned=model.name in pinned) for model in given],
        aliases=resolve_aliases(runtime, models, options.aliases, dict(user.aliases)),
        on_demand=None if only else replace(on_demand, pinned=pinned),
    )


def choice_on_demand(choice: LoadChoice) -> LoadChoice:
    """Return the options of a load without those that belong to the models that were named."""
    return replace(
        choice,
        draft=None,
        loras=(),
        chat_template=None,
        embeddings=None,
        pooling=None,
        rope_scaling=None,
        rope_scale=None,
        rope_freq_base=None,
        rope_freq_scale=None,
        yarn_orig_ctx=None,
    )


def _pinned(models: PoolModels, given: Sequence[str], saved: Sequence[str]) -> frozenset[str]:
    names = set()
    for text in given:
        try:
            names.add(models.find(text).name)
        except NotFound as error:
            raise UsageError(f"--pin {single_line(text)[:80]!r}: {error}") from None
    for text in saved:  # for every `serve`, also one that does not serve it
        try:
            names.add(models.find(text).name)
        except NotFound:
            continue
    return frozenset(names)
