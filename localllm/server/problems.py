"""What goes wrong over HTTP: every error becomes a status and one JSON shape, here and only here.

The shape is OpenAI's, so that its clients raise the exception their users expect:
``{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}``.
"""

import json
from collections.abc import Mapping

from starlette.responses import Response

from localllm.errors import (
    BadRequest,
    ContextOverflow,
    DoesNotFit,
    EngineCrashed,
    EngineError,
    GenerationFailed,
    LocalLLMError,
    NotFound,
    QueueFull,
)


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

    def body(self) -> dict[str, object]:
        return {
            "error": {
                "message": str(self),
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        return json_response(self.body(), status=self.status, headers=self.headers)


def encode(value: object) -> bytes:
    """Write JSON as ASCII: no line separator inside, whatever a client takes for one."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(encode(value), status, headers, media_type="application/json")


def ended_in_order(error: EngineCrashed) -> bool:
    """Tell an engine that was closed, with an answer still in flight, from one that crashed."""
    return error.reason in ("exit status 0", "closed")


def api_error(error: LocalLLMError) -> ApiError:
    """Give an error of the rooms below its status and code."""
    message = str(error)
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
