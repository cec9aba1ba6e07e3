"""The `options` of Ollama's requests: sampling parameters under llama.cpp's names, and a few more;
and `keep_alive`, which stands beside them.

What Ollama decides when it loads a model (`num_gpu`, `num_thread`, `num_batch`, `use_mmap` ...) is
no field here: it is ignored and named in `x-localllm-ignored`, as every unknown field is.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from localllm.engine.messages.limits import MAX_INT32
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


_PIECE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_MAX_CHARS = 64


def parse_keep_alive(value: object) -> float:
    """Read a number of seconds, or a duration as Go writes it ("5m", "1h30m", "-1s"), in seconds.

    Anything negative is for ever, infinity. Raises a field error.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return math.inf if value < 0 else float(value)
    if not isinstance(value, str):
        raise field_error("invalid_type", "must be a number of seconds or a duration such as '5m'")
    text = value.strip()[: _MAX_CHARS + 1]
    sign, digits = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
    try:
        seconds = float(digits) if _is_number(digits) else _duration_s(digits)
    except ValueError:
        raise field_error(
            "invalid_value", "must be a number of seconds or a duration such as '5m'"
        ) from None
    return math.inf if sign == "-" and seconds else seconds


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII) is not None


def _duration_s(text: str) -> float:
    """Sum up the pieces of a duration. Raises ValueError."""
    pieces = _PIECE.findall(text)
    if not pieces or len(text) > _MAX_CHARS or "".join(map("".join, pieces)) != text:
        raise ValueError(text)
    return math.fsum(float(number) * _UNITS_S[unit] for number, unit in pieces)


KeepAlive = Annotated[float, BeforeValidator(parse_keep_alive)]
"""Seconds; infinity for ever, 0 until the model has nothing to do."""
