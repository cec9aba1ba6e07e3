"""OpenAI's error envelope, so that its clients raise the exceptions their users expect.

``{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}``. It is also the default for
paths of no dialect and for bytes that are no HTTP, which have no path.
"""

from localllm.server.errors import ApiError
from localllm.server.schema import ApiModel


class ErrorObject(ApiModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ApiModel):
    error: ErrorObject


def error_body(error: ApiError) -> bytes:
    """Write an error as the body of a response, or as the data of a stream's last event."""
    document = ErrorObject(
        message=str(error), type=_error_type(error.status), param=error.param, code=error.code
    )
    return ErrorResponse(error=document).encode()


def _error_type(status: int) -> str:
    """Return OpenAI's coarse class of an error."""
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case _ if status < 500:
            return "invalid_request_error"
        case _:
            return "server_error"
