"""Other names of served models: `--alias NAME=MODEL` and the setting `aliases`."""

from collections.abc import Iterator, Mapping, Sequence

from localllm.core.text import single_line
from localllm.errors import LocalLLMError, NotFound, UsageError
from localllm.library.files.settings import Settings
from localllm.runtime.model_pool.pool_model import PoolModels
from localllm.runtime.runtime import Runtime

MAX_ALIAS_CHARS = 512
"""As in a request's field `model`."""


def resolve_aliases(
    runtime: Runtime, models: PoolModels, given: Sequence[str], saved: Mapping[str, str]
) -> dict[str, str]:
    """Map the aliases of the command line (`given`) and of the settings (`saved`) to models.

    What is given comes first. Of the settings, which are for every `serve`, a model may not be
    served, or not be installed yet: its alias then names nothing. Raises UsageError for a given one
    that names no model, that is the name of one, or that names two.
    """
    known = {model.name for model in models.all()}
    aliases: dict[str, str] = {}
    for text in given:
        alias, model = _alias(runtime, models, text)
        if alias in known:
            raise UsageError(f"--alias {single_line(alias)!r} is the name of a model already.")
        if aliases.setdefault(alias, model) != model:
            raise UsageError(f"--alias {single_line(alias)!r} is given for two models.")
    for alias, model in saved.items():
        if alias not in known:
            aliases.setdefault(alias, model)
    return aliases


def names_without_effect(models: PoolModels, saved: Settings) -> Iterator[str]:
    """Say of each alias and profile of the settings that no request can use why that is so."""
    everything = models.all()
    known = {model.name.lower() for model in everything}
    for alias, target in saved.aliases:
        if alias.lower() in known:
            yield f"The alias {single_line(alias)!r} of the settings is a model's own name already."
        elif not any(alias in models.aliases_of(model.name, everything) for model in everything):
            yield (
                f"The alias {single_line(alias)!r} of the settings names nothing: no model here is "
                f"called {single_line(target)!r} (an alias of an alias is none)."
            )
    for name, table in saved.models:
        target = str(dict(table).get("model", ""))
        if target and name.lower() not in known:
            yield (
                f"The profile {single_line(name)!r} of the settings is not offered: no installed "
                f"model is called {single_line(target)!r}."
            )


def _alias(runtime: Runtime, models: PoolModels, text: str) -> tuple[str, str]:
    """Split NAME=MODEL into the alias and the name of a served model."""
    alias, equals, query = (each.strip() for each in text.partition("="))
    if not alias or not (query or not equals) or len(alias) > MAX_ALIAS_CHARS:
        raise UsageError(f"--alias {single_line(text)[:80]!r} is not NAME=MODEL.")
    if query:
        return alias, _served(runtime, models, query, text)
    if models.default is None:
        names = ", ".join(single_line(model.name) for model in models.given or models.all())
        raise UsageError(
            f"--alias {single_line(alias)!r}: which model? Write NAME=MODEL with one of {names}."
        )
    return alias, models.default.name


def _served(runtime: Runtime, models: PoolModels, query: str, text: str) -> str:
    """Find a served model by its name, or by what else finds it on this disk (a path)."""
    try:
        return models.find(query).name
    except NotFound:
        pass
    try:
        found = models.exact(runtime.resolve(query).name)
    except LocalLLMError:
        found = None
    if found is None:
        served = ", ".join(single_line(model.name) for model in models.all())
        raise UsageError(
            f"--alias {single_line(text)!r} names a model that is not served here: {served}."
        )
    return found.name
