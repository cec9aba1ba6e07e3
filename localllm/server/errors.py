"""What goes wrong over HTTP: every error becomes a status and one JSON shape, here and only here.

The shape is OpenAI's, so that its clients raise the exception their users expect:
``{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}``.
"""

from collections.abc import Mapping

from fastapi import Response
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
    QueueFull,
)
from localllm.server.schema import Shape


class Problem(Shape):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Shape):
    error: Problem


class ApiError(LocalLLMError):
    """An error with its place in HTTP. `param` is the JSON path of the field at fault."""

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

    @property
    def type(self) -> str:
        """OpenAI's coarse class of the error."""
        match self.status:
            case 401:
                return "authentication_error"
            case 403:
                return "permission_error"
            case status if status < 500:
                return "invalid_request_error"
            case _:
                return "server_error"

    def body(self) -> bytes:
        problem = Problem(message=str(self), type=self.type, param=self.param, code=self.code)
        return ErrorAnswer(error=problem).encode()

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, media_type="application/json")


def ended_in_order(error: EngineCrashed) -> bool:
    """Tell an engine that was closed, with an answer still in flight, from one that crashed."""
    return error.reason in ("exit status 0", "closed")


def api_error(error: LocalLLMError) -> ApiError:
    """Give an error of the rooms below its status and code."""
    message = strip_controls(str(error))  # a file's name can hold what JSON cannot
    match error:
        case ApiError():
            return error
        case NotFound():
            return ApiError(message, status=404, code="model_not_found", param="model")
        case ContextOverflow():
            return ApiError(message, code="context_length_exceeded", param="messages")
        case BadRequest():
            return ApiError(message, code=error.code)
        case QueueFull():
            return ApiError(message, status=503, code=error.code, headers={"Retry-After": "1"})
        case DeadlineExceeded():
            return ApiError(message, status=504, code=error.code)
        case GenerationFailed():
            return ApiError(message, status=500, code=error.code)
        case EngineCrashed() if ended_in_order(error):
            return ApiError("The server is stopping.", status=503, code="server_stopping")
        case EngineCrashed(reason=reason):  # its own message names files of this machine
            crashed = f"The model's engine crashed ({reason}); its log is on the server."
            return ApiError(crashed, status=503, code=error.code)
        case EngineError() | DoesNotFit():
            return ApiError(message, status=503, code=error.code)
        case _:
            return ApiError(message, status=500, code=error.code)


def field_error(error: ValidationError) -> ApiError:
    """Name the first field that a request's shape refuses, and why, without its value."""
    first = error.errors(include_url=False)[0]
    path = _path(first["loc"])
    if first["type"] not in _REASONS:  # a refusal of ours
        code, reason = first["type"], first["msg"]
    elif first["input"] is None and first["type"] != "extra_forbidden":
        code, reason = _REASONS["missing"]  # null is the same as nothing
    else:
        code, reason = _REASONS[first["type"]]
    return ApiError(f"`{path}` {reason.format(**first.get('ctx', {}))}.", code=code, param=path)


_REASONS = {
    "missing": ("missing_required_parameter", "is required"),
    "extra_forbidden": ("unknown_parameter", "is not known to this server"),
    "bool_type": ("invalid_type", "must be true or false"),
    "float_type": ("invalid_type", "must be a number"),
    "int_type": ("invalid_type", "must be an integer"),
    "list_type": ("invalid_type", "must be an array"),
    "dict_type": ("invalid_type", "must be an object"),
    "model_type": ("invalid_type", "must be an object"),
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
"""pydantic's kinds of errors: the code and the words of each in this API."""


def _path(steps: tuple[int | str, ...]) -> str:
    """A field as messages show it: `messages[0].content`."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if len(step) <= 64 else f".{step[:64]}..."
    return path.removeprefix(".")
