"""The fields of a request, read from the types of a vendor's own client.

A TypedDict or a pydantic model gives its fields, and those of the objects in them, as paths:
`messages[].content[].text`. Alternatives of one place are put together.
"""

import types
from collections.abc import Iterator
from typing import (
    Annotated,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel
from typing_extensions import is_typeddict

_MAX_DEPTH = 6
_WRAPPERS = (Annotated, Required, NotRequired)


def fields_of(*requests: object) -> set[str]:
    """Return the paths of all fields of the types of a request."""
    return {path for request in requests for path in _paths(request, "", ())}


def literals_of(union: object, field: str = "type") -> set[str]:
    """Return the values of the literal `field` in all alternatives of a union of objects."""
    return {
        str(value)
        for kind in _alternatives(union)
        for each in _alternatives(_hints(kind).get(field))
        if get_origin(each) is Literal
        for value in get_args(each)
    }


def _paths(hint: object, prefix: str, above: tuple[object, ...]) -> Iterator[str]:
    for kind in _alternatives(hint):
        items = get_args(kind)
        if kind in above or len(above) > _MAX_DEPTH:
            continue
        if fields := _hints(kind):
            for name, inner in fields.items():
                path = f"{prefix}.{name}" if prefix else name
                yield path
                yield from _paths(inner, path, (*above, kind))
        elif len(items) == 1 or (get_origin(kind) is tuple and items):  # a list of something
            yield from _paths(items[0], f"{prefix}[]", (*above, kind))


def _alternatives(hint: object) -> Iterator[object]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for each in get_args(hint):
            yield from _alternatives(each)
    elif origin in _WRAPPERS:
        yield from _alternatives(get_args(hint)[0])
    elif hint is not None:
        yield hint


def _hints(kind: object) -> dict[str, object]:
    """Return the types of an object's fields; nothing for what is no object."""
    if is_typeddict(kind):
        assert isinstance(kind, type)
        return get_type_hints(kind, include_extras=True)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return {}
