"""Errors of the API: every failure becomes a status, a code and a message, here and only here.

How they are written is a dialect's (`dialects/protocol.py`): each vendor has its own envelope.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from localllm.core.text import strip_controls
from localllm.errors import (
    BadRequest,
    ContextOverflow,
    DeadlineExceeded,
    DoesNotFit,
    EngineCrashed,
    EngineError,
    GenerationFailed,
    LocalLLMError,
    NotFound,
    PolicyRefused,
    QueueFull,
)
from localllm.runtime.model_pool.admission import InsufficientMemory


class ApiError(LocalLLMError):
    """An error with its HTTP status. `param` is the JSON path of the field at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def unexpected_error() -> ApiError:
    """Make the error of an unexpected exception, whose own message stays out of the answer."""
    return ApiError(
        "Something in the server failed; its log says where.", status=500, code="internal_error"
    )


def is_shutdown(error: EngineCrashed) -> bool:
    """Tell an engine that was closed, with a request still in flight, from one that crashed."""
    return error.reason in ("exit status 0", "closed")


def api_error(  # noqa: PLR0911  # one for each class
    error: LocalLLMError, *, prompt_field: str = "messages"
) -> ApiError:
    """Map an error of the layers below to its status and code.

    `prompt_field`: the request's field that holds the text, which is at fault when the context
    overflows.
    """
    message = strip_controls(str(error))  # a file's name can hold what JSON cannot
    match error:
        case ApiError():
            return error
        case PolicyRefused():
            return ApiError(message, status=403, code=PolicyRefused.code)
        case NotFound():
            return ApiError(message, status=404, code="model_not_found", param="model")
        case ContextOverflow():
            return ApiError(message, code="context_length_exceeded", param=prompt_field)
        case BadRequest():
            return ApiError(message, code=error.code)
        case QueueFull():
            return ApiError(message, status=503, code=error.code, headers={"Retry-After": "1"})
        case DeadlineExceeded():
            return ApiError(message, status=504, code=error.code)
        case GenerationFailed():
            return ApiError(message, status=500, code=error.code)
        case EngineCrashed() if is_shutdown(error):
            return ApiError(
                "The server is stopping.",
                status=503,
                code="server_stopping",
                headers={"Retry-After": "5"},  # it may be started again
            )
        case EngineCrashed(reason=reason, retry_after_s=seconds):
            # Its own message names files of this machine.
            crashed = f"The model's engine crashed ({reason}); its log is on the server."
            headers = {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}
            return ApiError(crashed, status=503, code=error.code, headers=headers)
        case InsufficientMemory(retry_after=seconds):
            status, headers = (503, {"Retry-After": str(seconds)}) if seconds else (507, {})
            return ApiError(message, status=status, code=error.code, headers=headers)
        case EngineError() | DoesNotFit():
            return ApiError(message, status=503, code=error.code)
        case _:
            return ApiError(message, status=500, code=error.code)


def request_validation_error(error: ValidationError) -> ApiError:
    """Name the first field that a request's model refuses, and why, without its value."""
    first = error.errors(include_url=False)[0]
    path = field_path(first["loc"])
    if first["type"] in FIELD_ERRORS:  # a `field_error`
        code, reason = first["type"], first["msg"]
    elif first["input"] is None:
        code, reason = _REASONS["missing"]  # null is the same as nothing
    else:
        # pydantic's own words are those of a programmer who sees this code.
        code, reason = _REASONS.get(first["type"], ("invalid_value", "is not valid"))
        reason = reason.format(**{k: _number(v) for k, v in first.get("ctx", {}).items()})
    subject = f"`{path}`" if path else "The body"
    return ApiError(f"{subject} {reason}.", code=code, param=path or None)


FIELD_ERRORS = frozenset(
    {
        "image_too_large",
        "invalid_type",
        "invalid_value",
        "missing_required_parameter",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_url",
    }
)
"""The codes of errors that name a field."""

_REASONS = {
    "missing": ("missing_required_parameter", "is required"),
    "bool_type": ("invalid_type", "must be true or false"),
    "float_type": ("invalid_type", "must be a number"),
    "int_type": ("invalid_type", "must be a whole number"),
    "list_type": ("invalid_type", "must be an array"),
    "dict_type": ("invalid_type", "must be an object"),
    "model_type": ("invalid_type", "must be an object"),
    "model_attributes_type": ("invalid_type", "must be an object"),
    "string_type": ("invalid_type", "must be a string"),
    "greater_than": ("invalid_value", "must be above {gt}"),
    "greater_than_equal": ("invalid_value", "must be at least {ge}"),
    "less_than_equal": ("invalid_value", "must be at most {le}"),
    "literal_error": ("invalid_value", "must be {expected}"),
    "string_too_short": ("invalid_value", "has fewer characters than {min_length}"),
    "string_too_long": ("invalid_value", "is longer than {max_length} characters"),
    "too_long": ("invalid_value", "holds more than {max_length} items"),
    "too_short": ("invalid_value", "must not be empty"),
}
"""The code and the words of each of pydantic's error types."""

_MAX_STEP_CHARS = 64


def _number(value: object) -> object:
    """Write a limit as JSON does: 5, not 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def field_path(steps: Sequence[int | str]) -> str:
    """Write the location of a field as messages show it: `messages[0].content`.

    A name that is empty, or that could be mistaken for a path, is quoted: `metadata[""]`.
    """
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        name = step if len(step) <= _MAX_STEP_CHARS else f"{step[:_MAX_STEP_CHARS]}..."
        path += f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{json.dumps(name)}]"
    return path.removeprefix(".")


_PLAIN_NAME = re.compile(r"[^\s\[\]\"\\\x00-\x1f\x7f]+")
