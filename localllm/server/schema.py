"""The bases of every request and answer of the API, and the metadata of their fields.

Liberal in what is accepted, strict in what is done: a request's unknown fields are kept apart and
named in the answer (`unknown_fields.py`); what is known, would change the answer and cannot be done
is an error (`unsupported`).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, LiteralString

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from localllm.engine.messages.limits import Range


class ApiModel(BaseModel):
    """Fields of exactly these types and no others. Its errors quote nothing of what was sent."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def encode(self) -> bytes:
        """Write JSON as ASCII: no line separator inside, whatever a client takes for one."""
        return self.model_dump_json(ensure_ascii=True).encode("ascii")


class RequestModel(ApiModel):
    """An object of a request. Null is the same as nothing; fields that are not declared are kept in
    `model_extra`, of whatever type they are, and change nothing."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, value: object) -> object:
        if value == []:
            value = {}  # an empty object, as PHP writes it
        if isinstance(value, dict):
            value = {name: each for name, each in value.items() if each is not None}
        return cls.understand(value)

    @classmethod
    def understand(cls, value: object) -> object:
        """Rewrite what other servers or older APIs write in another form; the rest stays."""
        return value


def json_response(answer: ApiModel, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer.encode(), headers=headers, media_type="application/json")


MAX_HEADER_CHARS = 2048
"""Of one header's value: clients and proxies refuse answers with headers of about 8 KiB."""


def warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """Make the header `x-localllm-warnings`; without warnings there is none."""
    return list_header("x-localllm-warnings", warnings)


def list_header(name: str, items: Sequence[str]) -> dict[str, str]:
    """Make a header of texts; without any there is none."""
    # A header is ASCII without control characters, and a field's name is the client's own text.
    text = "; ".join(printable_ascii(item) for item in items)
    if len(text) > MAX_HEADER_CHARS:
        text = text[: MAX_HEADER_CHARS - 3] + "..."
    return {name: text} if text else {}


def printable_ascii(text: str) -> str:
    """Replace each character that a header cannot hold by a question mark."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


ModelName = Annotated[str, Field(max_length=512)]


def _whole_number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole_number)
"""Metadata of an integer's field: JavaScript and YAML write 16 as 16.0."""


def minus_one_is(meaning: int | None) -> BeforeValidator:
    """Make the metadata of a number's field that clients send -1 in, for "any" or "all"."""
    # True is no number here, and neither of them is -1.
    return BeforeValidator(lambda value: meaning if value == -1 else value)


def also_named(name: str, *others: str) -> object:
    """Make the metadata of the field `name` that other servers call by `others`.

    The first of them that a request has counts; a second one is unknown.
    """
    return Field(validation_alias=AliasChoices(name, *others))


OMIT_IF_NONE = Field(exclude_if=lambda value: value is None)
"""Metadata of an answer's field that is left out instead of written as null."""


def in_range(values: Range) -> object:
    """Make the metadata of a number's field: pydantic's bounds from the engine's own."""
    if values.low_open:
        return Field(gt=values.low, le=values.high)
    return Field(ge=values.low, le=values.high)


def unsupported(
    *defaults: object, reason: LiteralString = "is not supported with this value"
) -> AfterValidator:
    """Accept an unsupported field with null or one of its `defaults` only; it becomes None.

    For what would change the answer: anything else is ignored as an unknown field. True is not 1
    here, though Python says they are equal. `reason` ends the sentence of its error.
    """

    def check(value: object) -> None:
        if value is not None and not any(
            type(value) is type(default) and value == default for default in defaults
        ):
            raise field_error("unsupported_parameter", reason)

    return AfterValidator(check)


def field_error(code: LiteralString, reason: LiteralString, **numbers: int) -> PydanticCustomError:
    """Make the error that a validator raises: the API's `code`, and `reason` as a sentence's end
    whose beginning is the field."""
    return PydanticCustomError(code, reason, numbers)
