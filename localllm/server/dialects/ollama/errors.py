"""Ollama's errors: `{"error": "..."}`, as a body or as the last line of a stream.

What its API changes on the disk is one here, 403, with the command that does it: a client that
reaches the port, or a page that found a way to it, can neither fetch nor delete a model.
"""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from localllm.server.errors import ApiError
from localllm.server.openapi import Method, Operation
from localllm.server.schema import ApiModel


class ErrorResponse(ApiModel):
    error: str


def error_body(error: ApiError) -> bytes:
    """Write an error. Clients look for "not found" in that of a model that is not there."""
    message = str(error)
    if error.code == "model_not_found":
        message = f"model not found: {message}"
    return ErrorResponse(error=message).encode()


_COMMANDS = {
    "pull": "Models are not fetched over the API: use `localllm pull NAME`.",
    "push": "Models are not published from here: the file is where `localllm show NAME` says.",
    "create": (
        "Models are not made over the API: use `localllm import FILE.gguf`, and `localllm serve "
        "--alias NAME=MODEL` for another name."
    ),
    "copy": (
        "Models are not copied over the API: `localllm serve --alias NAME=MODEL` gives one another "
        "name."
    ),
    "delete": "Models are not deleted over the API: use `localllm rm NAME`.",
    "blobs": "Files are not uploaded over the API: use `localllm import FILE.gguf`.",
}
_METHODS: tuple[Method, ...] = ("POST", "DELETE", "GET", "PUT")


def add_refusals(router: APIRouter) -> None:
    """Add the refusals, whatever the method."""
    for verb, message in _COMMANDS.items():
        methods = [*_METHODS, "HEAD"]
        router.add_api_route(_path(verb), _refusal(message), methods=methods, response_model=None)


def refused_operations() -> tuple[Operation, ...]:
    """Describe the refusals."""
    return tuple(
        Operation(
            method=method,
            paths=(_path(verb),),
            summary=f"Refused. {message}",
            answer=ErrorResponse,
            status=403,
        )
        for verb, message in _COMMANDS.items()
        for method in _METHODS
    )


def _path(verb: str) -> str:
    return "/api/blobs/{digest}" if verb == "blobs" else f"/api/{verb}"


def _refusal(message: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        raise ApiError(message, status=403, code="forbidden")

    return refuse
