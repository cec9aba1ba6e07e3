"""The base of every request and answer of the API, and the metadata of their fields.

Nothing is ignored: a client that asks for something this server does not do gets an error instead
of another answer than it asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, LiteralString

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from localllm.engine.messages.limits import Range


class ApiModel(BaseModel):
    """Fields of exactly these types and no others. Its errors quote nothing of what was sent."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def encode(self) -> bytes:
        """Write JSON as ASCII: no line separator inside, whatever a client takes for one."""
        return self.model_dump_json(ensure_ascii=True).encode("ascii")


def json_response(answer: ApiModel, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer.encode(), headers=headers, media_type="application/json")


MAX_HEADER_CHARS = 2048
"""Of one header's value: clients and proxies refuse answers with headers of about 8 KiB."""


def warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """Make the header `x-localllm-warnings`; without warnings there is none."""
    return _list_header("x-localllm-warnings", warnings)


def _list_header(name: str, items: Sequence[str]) -> dict[str, str]:
    # A header is ASCII without control characters, and a field's name is the client's own text.
    text = "; ".join(printable_ascii(item) for item in items)
    if len(text) > MAX_HEADER_CHARS:
        text = text[: MAX_HEADER_CHARS - 3] + "..."
    return {name: text} if text else {}


def printable_ascii(text: str) -> str:
    """Replace each character that a header cannot hold by a question mark."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


ModelName = Annotated[str, Field(max_length=512)]

OMIT_IF_NONE = Field(exclude_if=lambda value: value is None)
"""Metadata of an answer's field that is left out instead of written as null."""


def in_range(values: Range) -> object:
    """Make the metadata of a number's field: pydantic's bounds from the engine's own."""
    if values.low_open:
        return Field(gt=values.low, le=values.high)
    return Field(ge=values.low, le=values.high)


def unsupported(*defaults: object) -> AfterValidator:
    """Accept an unsupported field with null or one of its `defaults` only; it becomes None.

    True is not 1 here, though Python says they are equal.
    """

    def check(value: object) -> None:
        if value is not None and not any(
            type(value) is type(default) and value == default for default in defaults
        ):
            raise field_error("unsupported_parameter", "is not supported with this value")

    return AfterValidator(check)


def field_error(code: LiteralString, reason: LiteralString, **numbers: int) -> PydanticCustomError:
    """Make the error that a validator raises: the API's `code`, and `reason` as a sentence's end
    whose beginning is the field."""
    return PydanticCustomError(code, reason, numbers)
