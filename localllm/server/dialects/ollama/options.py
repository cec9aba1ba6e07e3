"""The `options` of Ollama's requests: sampling parameters under llama.cpp's names, and a few more;
and `keep_alive`, which stands beside them.

What Ollama decides when it loads a model (`num_gpu`, `num_thread`, `num_batch`, `use_mmap` ...) is
no field here: it is ignored and named in `x-localllm-ignored`, as every unknown field is.
"""

import math
from typing import Annotated, LiteralString

from pydantic import BeforeValidator, Field

from localllm.core.units import parse_keep_alive
from localllm.engine.messages.limits import MAX_INT32
from localllm.errors import UsageError
from localllm.server.generation.request import GenerationFields, StopStrings
from localllm.server.schema import WHOLE, field_error


def _no_limit(value: object) -> object:
    """Read -1 (no limit) and -2 (until the context is full) alike: an answer ends there."""
    return None if value in (-1, -2) else value


def _default_context(value: object) -> object:
    return None if value == 0 and not isinstance(value, bool) else value


class Options(GenerationFields):
    """A field that is absent keeps the server's default, which may be another one than Ollama's.

    `num_ctx` changes nothing: the context belongs to the load (see `context_warnings`).
    """

    stop: StopStrings | None = None
    num_predict: Annotated[
        Annotated[int, Field(ge=1, le=MAX_INT32), WHOLE] | None, BeforeValidator(_no_limit)
    ] = None
    num_ctx: Annotated[
        Annotated[int, Field(ge=1, le=MAX_INT32), WHOLE] | None, BeforeValidator(_default_context)
    ] = None


def _keep_alive(value: object) -> object:
    """Read a number of seconds, or a duration; what is negative is for ever."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return math.inf if value < 0 else float(min(value, _LONGEST_S))
    if not isinstance(value, str):
        raise field_error("invalid_type", _KEEP_ALIVE)
    try:
        return parse_keep_alive(value)
    except UsageError:
        raise field_error("invalid_value", _KEEP_ALIVE) from None


_KEEP_ALIVE: LiteralString = "must be a number of seconds or a duration such as '5m'"
_LONGEST_S = 10**9
"""Thirty years; a number may have 64 digits."""

KeepAlive = Annotated[float, BeforeValidator(_keep_alive)]
"""Seconds that a model stays in memory after its last request; infinity for ever, 0 until it has
nothing to do."""
