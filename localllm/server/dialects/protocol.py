"""A dialect: one vendor's HTTP API in front of the models, and nothing that another one needs.

Its folder has the routes, the models of its requests and answers, its error envelope and its event
encoding (a `StreamEncoder`). The way from a request to the engine's and from events to an answer
is shared (`generation/`), so another dialect is one folder and one entry in `app.DIALECTS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from localllm.server.errors import ApiError
from localllm.server.openapi import Operation
from localllm.server.request_record import current_record
from localllm.server.served_models import ServedModels


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One vendor's API.

    `router` makes its routes. Errors on paths that begin with one of `prefixes` are written by
    `error_body`, also those of the layers in front of the routes (a wrong key, a path that does
    not exist); `error` is its model. A dialect without an envelope of its own leaves them out.
    `operations` describe its routes in `/openapi.json`.
    """

    name: str
    router: Callable[[ServedModels], APIRouter]
    prefixes: tuple[str, ...] = ()
    error_body: Callable[[ApiError], bytes] | None = None
    error: type[BaseModel] | None = None
    operations: tuple[Operation, ...] = ()


class ErrorResponses:
    """Writes each error in the envelope of the dialect whose path was requested."""

    def __init__(
        self,
        dialects: Sequence[Dialect],
        default: Callable[[ApiError], bytes],
        default_model: type[BaseModel] = BaseModel,
    ) -> None:
        """`default` is the envelope of all other paths, `default_model` what describes it."""
        self._default = default
        self._default_model = default_model
        # The longest prefix wins: /v1/messages is Anthropic's within OpenAI's /v1.
        self._envelopes = sorted(
            ((prefix, dialect) for dialect in dialects for prefix in dialect.prefixes),
            key=lambda envelope: -len(envelope[0]),
        )

    def __call__(self, error: ApiError, path: str) -> Response:
        if (record := current_record()) is not None:
            record.error_code = error.code
        dialect = self._dialect(path)
        write = (dialect and dialect.error_body) or self._default
        return Response(write(error), error.status, error.headers, media_type="application/json")

    def model_at(self, path: str) -> type[BaseModel]:
        """Return the model of the envelope on a path."""
        dialect = self._dialect(path)
        return (dialect and dialect.error) or self._default_model

    def _dialect(self, path: str) -> Dialect | None:
        return next((each for prefix, each in self._envelopes if path.startswith(prefix)), None)
