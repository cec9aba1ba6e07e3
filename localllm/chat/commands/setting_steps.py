"""Settings that move by steps, as an arrow key changes them, and where they stand in the range that
a bar shows."""

import math
from dataclasses import replace
from typing import TypeVar

from localllm.chat.commands.setting_values import SAMPLING_NAMES, setting_value
from localllm.chat.settings import ChatSettings
from localllm.core.sizing.load import DEFAULT_CONTEXT, KvType
from localllm.engine.messages import Effort, Sampling, Thinking
from localllm.engine.messages.limits import ranges_of

_STEPS: dict[str, float] = {
    "temperature": 0.1,
    "top_p": 0.05,
    "min_p": 0.01,
    "top_k": 10,
    "typical_p": 0.05,
    "repeat_penalty": 0.05,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "penalty_last_n": 64,
    "top_n_sigma": 0.1,
    "dynatemp_range": 0.1,
    "dynatemp_exponent": 0.1,
    "xtc_probability": 0.05,
    "xtc_threshold": 0.05,
    "dry_multiplier": 0.1,
    "dry_base": 0.05,
    "dry_allowed_length": 1,
    "dry_penalty_last_n": 256,
    "mirostat": 1,
    "mirostat_tau": 0.5,
    "mirostat_eta": 0.05,
    "seed": 1,
}
_SHOWN: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 0.5),
    "top_k": (0, 200),
    "repeat_penalty": (1, 2),
}
"""The part of a range that people use; values outside stand at the end of the bar."""

_LENGTHS = (None, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
KV_TYPES = (None, KvType.F16.value, KvType.Q8_0.value, KvType.Q4_0.value)
THINKING = (
    Thinking(),
    Thinking(enabled=True),
    *(Thinking(effort=each) for each in Effort),
    Thinking(enabled=False),
)
_LEAST_CONTEXT = 512
_MOST_CONTEXT = 2**20


def step(settings: ChatSettings, name: str, up: bool, most_context: int | None) -> ChatSettings:
    """Move a setting by one step and stay in its range; what has no steps is returned as it is.

    `most_context` is what the model was trained with, None where that is not known.
    """
    match name:
        case "max_tokens":
            return replace(settings, max_tokens=_next_length(settings.max_tokens, up))
        case "kv_type":
            return replace(settings, kv_type=_cycled(KV_TYPES, settings.kv_type, up))
        case "thinking":
            return replace(settings, thinking=_cycled(THINKING, settings.thinking, up))
        case "context":
            most = most_context or _MOST_CONTEXT
            return replace(settings, context=_next_context(settings.context, up, most))
    if name not in _STEPS:
        return settings
    values = ranges_of(Sampling)[name]
    value = setting_value(settings, name)
    if not isinstance(value, int | float):  # the seed, which is random
        number: float = 0 if up else -1
    else:
        number = value + (_STEPS[name] if up else -_STEPS[name])
    if name == "seed" and number < 0:
        return replace(settings, sampling=replace(settings.sampling, seed=None))
    low = values.low + (_STEPS[name] if values.low_open else 0)
    number = min(max(round(number, 4), low), values.high)
    changed = {name: int(number) if values.type is int else float(number)}
    return replace(settings, sampling=replace(settings.sampling, **changed))  # type: ignore[arg-type]  # the type of this very field


Value = TypeVar("Value")


def _cycled(values: tuple[Value, ...], value: Value, up: bool) -> Value:
    if value not in values:
        return values[0]
    return values[(values.index(value) + (1 if up else -1)) % len(values)]


def _next_length(value: int | None, up: bool) -> int | None:
    if value is None:
        return _LENGTHS[1] if up else _LENGTHS[-1]
    known = [each for each in _LENGTHS if each is not None]
    if up:
        return next((each for each in known if each > value), None)
    return next((each for each in reversed(known) if each < value), None)


def _next_context(value: int | None, up: bool, most: int) -> int:
    """Double or halve, on powers of two; the last step ends at what the model was trained with."""
    exponent = math.log2(value or min(DEFAULT_CONTEXT, most))
    power = 1 << max(math.floor(exponent) + 1 if up else math.ceil(exponent) - 1, 0)
    return min(max(power, min(_LEAST_CONTEXT, most)), most)


def fraction(settings: ChatSettings, name: str, most_context: int | None) -> float | None:
    """Return where a setting stands on its bar, 0 to 1; None for one without a bar."""
    value = setting_value(settings, name) if name in (*SAMPLING_NAMES, "context") else None
    if name == "context" and most_context is not None:
        at = value if isinstance(value, int) else min(DEFAULT_CONTEXT, most_context)
        low, high = math.log2(_LEAST_CONTEXT), math.log2(max(most_context, _LEAST_CONTEXT * 2))
        return min(max((math.log2(max(at, 1)) - low) / (high - low), 0.0), 1.0)
    if name not in _SHOWN or not isinstance(value, int | float):
        return None
    low, high = _SHOWN[name]
    return min(max((value - low) / (high - low), 0.0), 1.0)
