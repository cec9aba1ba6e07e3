"""Unknown fields of a request: ignored, and named in the answer's header `x-localllm-ignored`.

Clients hang fields of their own on everything that they send, and send one server what another one
has asked for. Refusing them costs the whole request; ignoring them without a word hides a misspelt
`temperatur`. `localllm serve --strict` refuses them.

The header is added around the application, so that it stands on whole answers, streams and errors
of every dialect alike: `read_body` notes what it found in the request's scope.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.server.errors import ApiError, field_path
from localllm.server.schema import RequestModel, list_header

HARMLESS_FIELDS = frozenset(
    {
        # What clients call their own things, and when they happened.
        "id", "index", "name", "title", "timestamp", "created", "created_at", "object", "user",
        "safety_identifier", "prompt_cache_key", "metadata", "tags",
        # What an answer had, of this server or of another one, and comes back with the history.
        "annotations", "audio", "encrypted_content", "finish_reason", "logprobs", "parsed",
        "parsed_arguments", "provider_specific_fields", "reasoning_details", "refusal",
        "signature", "thinking_blocks", "thought_signature", "usage",
        # What asks for speed, for a price or for a record, never for another answer.
        "cache_control", "detail", "prediction", "prompt_cache_breakpoint", "prompt_cache_options",
        "prompt_cache_retention", "service_tier", "store",
    }
)  # fmt: skip
"""Fields that change no answer, whatever their value and wherever they stand: not worth a word.
One that a model declares has that model's meaning."""

MAX_NAMED = 64
"""Fields of a request that are named; the header's own limit of characters comes on top."""

_SCOPE_KEY = "localllm.unknown_fields"


def unknown_fields(model: RequestModel) -> Iterator[str]:
    """Yield the paths of the unknown fields in a request, those of the outermost object first."""
    return (field_path(steps) for steps in _unknown(model, ()))


def _unknown(model: RequestModel, at: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    for name in model.model_extra or ():
        if name not in HARMLESS_FIELDS:
            yield (*at, name)
    fields = type(model).model_fields
    for name, value in model.__dict__.items():
        if isinstance(value, RequestModel):
            yield from _unknown(value, (*at, fields[name].alias or name))
        elif isinstance(value, list) and value and isinstance(value[0], RequestModel):
            # Items of a list are all of one model.
            for index, item in enumerate(value):
                yield from _unknown(item, (*at, fields[name].alias or name, index))


def note_unknown(scope: Scope, paths: Iterable[str]) -> None:
    """Note the unknown fields of a request for its answer's header.

    Raises ApiError for the first of them when the server is strict.
    """
    noted: _Noted | None = scope.get(_SCOPE_KEY)
    if noted is None:  # a route outside `UnknownFields`
        return
    named = list(islice(paths, MAX_NAMED + 1))
    if named and noted.strict:
        raise ApiError(
            f"`{named[0]}` is not known to this server.", code="unknown_parameter", param=named[0]
        )
    noted.paths = [*named[:MAX_NAMED], "and more"] if len(named) > MAX_NAMED else named


class _Noted:
    """The unknown fields of one request."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.paths: list[str] = []


class UnknownFields:
    """The middleware that writes the header. `strict`: refuse requests with unknown fields."""

    def __init__(self, app: ASGIApp, *, strict: bool = False) -> None:
        self._app = app
        self._strict = strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        noted = scope[_SCOPE_KEY] = _Noted(strict=self._strict)

        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and noted.paths:
                header = list_header("x-localllm-ignored", noted.paths)
                message["headers"] = [
                    *message.get("headers", ()),
                    *(
                        (name.encode("ascii"), text.encode("ascii"))
                        for name, text in header.items()
                    ),
                ]
            await send(message)

        await self._app(scope, receive, with_header)
