"""The models that a pool can load, and the names by which requests find them.

A request names a model and nothing else: no name is ever read as a path (a file that is there would
be told from one that is not).
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from localllm.core.text import single_line
from localllm.errors import NotFound
from localllm.library.files import names
from localllm.library.store.find import pulled_as, separators
from localllm.library.store.installed import InstalledModel
from localllm.library.store.spelling import models_spelled
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.runtime import Runtime

DEFAULT_KEEP_ALIVE_S = 300.0
"""Of a model that was loaded on demand: as Ollama's."""

FOREVER = float("inf")

NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolModel:
    """A model that the pool can load, and how: `keep_alive_s` after its last request it is
    unloaded, unless it is `pinned`; `force`: whether it fits or not."""

    model: InstalledModel
    choice: LoadChoice = field(default_factory=LoadChoice)
    keep_alive_s: float = DEFAULT_KEEP_ALIVE_S
    pinned: bool = False
    force: bool = False

    @property
    def name(self) -> str:
        return self.model.name


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemand:
    """How installed models are loaded that nobody gave to the pool: as `choice`, with what
    `keep_alive_s` and `pinned` say of some by name. `profiles` maps names to installed models'."""

    choice: LoadChoice = field(default_factory=LoadChoice)
    default_keep_alive_s: float = DEFAULT_KEEP_ALIVE_S
    keep_alive_s: Mapping[str, float] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    profiles: Mapping[str, str] = field(default_factory=dict)

    def pool_model(self, model: InstalledModel) -> PoolModel:
        """Say how this model is loaded."""
        return PoolModel(
            model=model,
            choice=self.choice,
            keep_alive_s=self.keep_alive_s.get(model.name, self.default_keep_alive_s),
            pinned=model.name in self.pinned,
        )


class PoolModels:
    """Everything that can be named: the models that were `given`, and with `on_demand` every
    installed one.

    `aliases` maps further names to those of models. `on_demand` says how installed models are
    loaded; None: only the given ones are served.
    """

    def __init__(
        self,
        runtime: Runtime,
        given: Sequence[PoolModel],
        *,
        aliases: Mapping[str, str] = NO_NAMES,
        on_demand: OnDemand | None = None,
    ) -> None:
        self.given = tuple(given)
        self._runtime = runtime
        self._aliases = dict(aliases)
        self._on_demand = on_demand

    def give(self, model: PoolModel) -> None:
        """Say how one model is loaded from its next load on; it takes the place of what was said of
        this name before."""
        self.withdraw(model.name)
        self.given = (*self.given, model)

    def withdraw(self, name: str) -> None:
        """Take back what was said of one model; unknown names are ignored."""
        self.given = tuple(each for each in self.given if each.name != name)

    @property
    def default(self) -> PoolModel | None:
        """The model of a request that names none: the only one that was given, or that there
        is."""
        models = self.given or self.all()
        return models[0] if len(models) == 1 else None

    def all(self) -> tuple[PoolModel, ...]:
        """List them: the given ones, then profiles and installed models whose files are there."""
        models: dict[str, PoolModel] = {}
        for model in (*self.given, *self._installed()):
            models.setdefault(model.name, model)
        return tuple(models.values())

    def names(self) -> tuple[tuple[str, ...], ...]:
        """List the names of each model: its own first, then its aliases."""
        models = self.all()
        return tuple((model.name, *self.aliases_of(model.name, models)) for model in models)

    def ids(self) -> tuple[str, ...]:
        """List the names that a request can use: those of the models, then the aliases."""
        names = self.names()
        aliases = (alias for _, *aliases in names for alias in aliases)
        return tuple(dict.fromkeys([*(own for own, *_ in names), *aliases]))

    def aliases_of(self, name: str, models: Sequence[PoolModel] = ()) -> tuple[str, ...]:
        """List the aliases of one model; `models` are all of them, if they are known."""
        models = models or self.all()
        return tuple(
            alias
            for alias in self._aliases
            if (target := self._target(alias, models)) is not None and target.name == name
        )

    def exact(self, name: str) -> PoolModel | None:
        """Return the model of exactly this name."""
        return next((model for model in (*self.given, *self.all()) if model.name == name), None)

    def find(self, text: str) -> PoolModel:
        """Find the model that a request calls `text`: its name, an alias, another spelling of the
        name or the beginning of one.

        Raises NotFound, with the names that are near.
        """
        for model in self.given:
            if model.name == text:
                return model
        models = self.all()
        named = {model.name.lower(): model for model in models}
        if (exact := named.get(text.lower())) is not None:
            return exact
        if (target := self._target(text, models)) is not None:
            return target
        found = _meant(text, models)
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(single_line(model.name) for model in found)
            raise NotFound(f"{_quoted(text)} can mean more than one model. Name one: {listed}.")
        raise NotFound(self._unknown_message(text))

    def _target(self, alias: str, models: Sequence[PoolModel]) -> PoolModel | None:
        target = self._aliases.get(alias)
        if target is None:
            return None
        named = {model.name.lower(): model for model in models}
        if (exact := named.get(target.lower())) is not None:
            return exact
        found = _meant(target, models)
        return found[0] if len(found) == 1 else None

    def _installed(self) -> Iterator[PoolModel]:
        if self._on_demand is None:
            return
        installed = tuple(model for model in self._runtime.installed() if not model.missing)
        by_name = {model.name: model for model in installed}
        for profile, target in self._on_demand.profiles.items():
            if target in by_name:
                yield self._on_demand.pool_model(replace(by_name[target], name=profile))
        for model in installed:
            yield self._on_demand.pool_model(model)

    def _unknown_message(self, text: str) -> str:
        ids = self.ids()
        near = difflib.get_close_matches(text.lower(), ids, n=_MAX_LISTED, cutoff=0.5)
        if near and len(ids) > _MAX_LISTED:
            return f"There is no model {_quoted(text)} here. Nearest: {_listed(near)}."
        hint = "" if ids else " `localllm pull NAME` downloads one."
        return unknown_model_message(text, ids) + hint


def unknown_model_message(text: str, ids: Sequence[str]) -> str:
    """Say that no model is called `text`, and which can be asked for instead."""
    start = f"There is no model {_quoted(text)} here."
    if not ids:
        return f"{start} There is none to choose from."
    return f"{start} Choose from: {_listed(ids)}."


_MAX_LISTED = 12
_MAX_QUOTED = 80
"""Characters of a name that a request has made up."""


def _quoted(text: str) -> str:
    return f"`{single_line(text if len(text) <= _MAX_QUOTED else f'{text[:_MAX_QUOTED]}...')}`"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _MAX_LISTED} more" if len(ids) > _MAX_LISTED else ""
    return ", ".join(single_line(each) for each in ids[:_MAX_LISTED]) + more


def _meant(text: str, models: Sequence[PoolModel]) -> tuple[PoolModel, ...]:
    """Return the models that a name which is no model's own can mean."""
    installed = tuple(model.model for model in models)
    found = pulled_as(text, installed)
    if not found and not any(each in text for each in separators()):
        key = names.spelling_key(text)
        found = models_spelled(text, installed) or tuple(
            each for each in installed if key and names.spelling_key(each.name).startswith(key)
        )
    by_name = {model.name: model for model in models}
    return tuple(by_name[each.name] for each in found)
