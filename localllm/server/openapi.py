"""The description of the API in OpenAPI's form, made of what its routes are made of.

Routes read their bodies themselves (`request_body.read_body`), so FastAPI does not know what they
take. Each dialect lists its `Operation`s beside its routes; `tests/server/test_openapi.py` fails
when one of the two has what the other one has not.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from pydantic import BaseModel, TypeAdapter

JSON = "application/json"
Method = Literal["GET", "POST", "PUT", "DELETE"]
Mode = Literal["validation", "serialization"]
_REF = "#/components/schemas/{model}"

_ALWAYS = (400, 401, 403, 404, 429, 500, 503)
"""Statuses of the guards in front of the routes and of a failed engine, on any path."""
_WITH_BODY = (408, 413, 415, 504, 507)
"""Those of bodies that are not read, of a deadline, and of a model that never fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One endpoint: a method on one path or several, which are the same.

    `body`: the model that reads the request, or several; None: it has none. `answer`: the type of
    the JSON document that answers it with `status`; None: there is none. `media_types`: further
    ones of the answer, such as that of a stream, which have no schema. `statuses`: those of
    errors that not every endpoint has. `query`: the parameters behind the path.
    """

    method: Method
    paths: tuple[str, ...]
    summary: str
    body: object = None
    answer: object = None
    status: int = 200
    media_types: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    query: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The operations of one dialect. `error_at` returns the envelope of errors on a path."""

    name: str
    operations: Sequence[Operation]
    error_at: Callable[[str], type[BaseModel]]


def openapi_document(described: Sequence[Described], *, version: str) -> dict[str, object]:
    """Make the document. It refers to nothing outside itself."""
    schemas = _Schemas(described)
    paths: dict[str, dict[str, object]] = {}
    for each in described:
        for operation in each.operations:
            for path in operation.paths:
                entry = _operation(path, operation, each, schemas)
                paths.setdefault(_plain(path), {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "localllm", "version": version},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def encode(document: Mapping[str, object]) -> bytes:
    """Write the document as JSON."""
    return json.dumps(document).encode("ascii")


class _Schemas:
    """The schemas of every type in the document; two of one name get names of their own."""

    def __init__(self, described: Sequence[Described]) -> None:
        requests: list[object] = []
        answers: list[object] = []
        for each in described:
            for operation in each.operations:
                requests += [t for t in (operation.body, operation.query) if t is not None]
                answers += [each.error_at(path) for path in operation.paths]
                if operation.answer is not None:
                    answers.append(operation.answer)
        adapters = [
            *_adapters(requests, "validation"),
            *_adapters(answers, "serialization"),
        ]
        found, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)
        self._found = {key: dict(schema) for key, schema in found.items()}
        self.components: dict[str, object] = definitions.get("$defs", {})

    def of(self, kind: object, mode: Mode) -> dict[str, object]:
        return self._found[_key(kind), mode]

    def resolved(self, kind: object, mode: Mode) -> dict[str, object]:
        """Return the schema of an object itself, where it is referred to."""
        schema = self.of(kind, mode)
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        found = self.components.get(name, schema)
        assert isinstance(found, dict)
        return found


def _key(kind: object) -> str:
    return f"{getattr(kind, '__module__', '')}.{kind!r}"


def _adapters(kinds: Iterable[object], mode: Mode) -> list[tuple[str, Mode, TypeAdapter[object]]]:
    once = {_key(kind): kind for kind in kinds}
    return [
        (key, mode, TypeAdapter(kind))  # type: ignore[arg-type]  # any type that pydantic knows
        for key, kind in once.items()
    ]


def _plain(path: str) -> str:
    """Write a route's path as OpenAPI does: without the converters of its parameters."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


def _operation(
    path: str, operation: Operation, described: Described, schemas: _Schemas
) -> dict[str, object]:
    entry: dict[str, object] = {
        "summary": operation.summary,
        "tags": [described.name],
        "operationId": f"{operation.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', path)}",
        "responses": _responses(operation, described.error_at(path), schemas),
    }
    if parameters := [*_path_parameters(path), *_query_parameters(operation, schemas)]:
        entry["parameters"] = parameters
    if operation.body is not None:
        schema = schemas.of(operation.body, "validation")
        entry["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if path == "/health":
        entry["security"] = []
    return entry


def _responses(
    operation: Operation, envelope: type[BaseModel], schemas: _Schemas
) -> dict[str, dict[str, object]]:
    content: dict[str, object] = {}
    if operation.answer is not None:
        content[JSON] = {"schema": schemas.of(operation.answer, "serialization")}
    for media_type in operation.media_types:
        content[media_type] = {}
    answered: dict[str, object] = {"description": "The answer."}
    if content:
        answered["content"] = content
    responses = {str(operation.status): answered}
    error = schemas.of(envelope, "serialization")
    common = (*_ALWAYS, *(_WITH_BODY if operation.body is not None else ()))
    for status in sorted({*common, *operation.statuses} - {operation.status}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": error}},
        }
    return responses


def _path_parameters(path: str) -> list[dict[str, object]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)(?::\w+)?\}", path)
    ]


def _query_parameters(operation: Operation, schemas: _Schemas) -> list[dict[str, object]]:
    if operation.query is None:
        return []
    schema = schemas.resolved(operation.query, "validation")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    return [
        {"name": name, "in": "query", "required": name in required, "schema": each}
        for name, each in properties.items()
    ]
