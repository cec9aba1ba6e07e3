"""Other names of served models: `--alias NAME=MODEL` and the setting `serve.aliases`."""

from collections.abc import Sequence

from localllm.core.text import single_line
from localllm.errors import LocalLLMError, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.runtime import Runtime

MAX_ALIAS_CHARS = 512
"""As in a request's field `model`."""


def resolve_aliases(
    runtime: Runtime,
    chosen: tuple[InstalledModel, ...],
    given: Sequence[str],
    saved: Sequence[str],
) -> dict[str, str]:
    """Map the aliases of the command line (`given`) and of the settings (`saved`) to the models.

    Of the settings, which are for every `serve`, those of models that are not served now are left
    out; what is given comes first. Raises UsageError for one that names no served model, that is
    the name of one, or that names two.
    """
    served = tuple(model.name for model in chosen)
    aliases: dict[str, str] = {}
    for text in given:
        alias, model = _alias(runtime, served, text, origin="--alias")
        if alias in served:
            raise UsageError(f"--alias {single_line(alias)!r} is the name of a model already.")
        if model is None:
            raise UsageError(
                f"--alias {single_line(text)!r} names a model that is not served here: "
                f"{', '.join(map(single_line, served))}."
            )
        if aliases.setdefault(alias, model) != model:
            raise UsageError(f"--alias {single_line(alias)!r} is given for two models.")
    for text in saved:
        alias, model = _alias(runtime, served, text, origin="serve.aliases")
        if model is not None and alias not in served:
            aliases.setdefault(alias, model)
    return aliases


def _alias(
    runtime: Runtime, served: tuple[str, ...], text: str, *, origin: str
) -> tuple[str, str | None]:
    """Split NAME=MODEL into the alias and the name of the served model, None for another one."""
    alias, equals, query = (each.strip() for each in text.partition("="))
    if not alias or not (query or not equals) or len(alias) > MAX_ALIAS_CHARS:
        raise UsageError(f"{origin} {single_line(text)[:80]!r} is not NAME=MODEL.")
    if query in served:
        return alias, query
    if query:
        try:
            model = runtime.resolve(query).name
        except LocalLLMError:
            return alias, None
        return alias, model if model in served else None
    if len(served) > 1:
        raise UsageError(
            f"{origin} {single_line(alias)!r}: which model? Write NAME=MODEL with one of "
            f"{', '.join(map(single_line, served))}."
        )
    return alias, served[0]
