"""What JSON may say: the base of every request and answer of the API.

Nothing is ignored: a client that asks for something this server does not do is told so, instead
of getting another answer than it asked for.
"""

from typing import LiteralString

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Shape(BaseModel):
    """Fields of exactly these types and no others. Its errors quote nothing of what was sent."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def encode(self) -> bytes:
        """Write JSON as ASCII: no line separator inside, whatever a client takes for one."""
        return self.model_dump_json(ensure_ascii=True).encode("ascii")


LEFT_OUT_IF_NONE = Field(exclude_if=lambda value: value is None)
"""Metadata of an answer's field that is not written as null."""


def neutral(*values: object) -> AfterValidator:
    """Accept a field only when it asks for nothing: null or one of `values`; it becomes None.

    True is not 1 here, though Python says they are equal.
    """

    def check(value: object) -> None:
        if value is not None and not any(
            type(value) is type(known) and value == known for known in values
        ):
            raise refusal("unsupported_parameter", "is not supported with this value")

    return AfterValidator(check)


def refusal(code: LiteralString, reason: LiteralString, **numbers: int) -> PydanticCustomError:
    """Make the error of a validator of ours: the API's `code`, what is wrong with the field."""
    return PydanticCustomError(code, reason, numbers)
