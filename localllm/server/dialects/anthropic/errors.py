"""Anthropic's error envelope, so that its clients raise the exceptions their users expect.

``{"type": "error", "error": {"type": ..., "message": ...}, "request_id": ...}``
"""

from localllm.server.errors import ApiError
from localllm.server.request_record import current_record
from localllm.server.schema import ApiModel


class ErrorObject(ApiModel):
    type: str
    message: str


class ErrorResponse(ApiModel):
    type: str = "error"
    error: ErrorObject
    request_id: str | None = None


def error_body(error: ApiError) -> bytes:
    """Write an error as the body of a response, or as the data of a stream's last event."""
    document = ErrorObject(type=_error_type(error.status), message=_message(error))
    record = current_record()
    request_id = None if record is None else record.request_id
    return ErrorResponse(error=document, request_id=request_id).encode()


def _message(error: ApiError) -> str:
    if error.code == "context_length_exceeded":
        # Agents look for these words to know that they must shorten their conversation.
        return f"prompt is too long: {error}"
    return str(error)


def _error_type(status: int) -> str:
    """Return the type that Anthropic's API has for a status."""
    if status in _TYPES:
        return _TYPES[status]
    return "invalid_request_error" if status < 500 else "api_error"


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
