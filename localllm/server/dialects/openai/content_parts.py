"""The parts of a message's content: texts, images, files, earlier thoughts.

They are the same in OpenAI's two APIs but for the names of their types.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.server.generation.history import MAX_ITEMS
from localllm.server.generation.request import decode_data_url
from localllm.server.schema import RequestModel, field_error, unsupported

# Of a list that is wrong everywhere only the first error is kept: there could be millions.
Items = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)

T = TypeVar("T")


_NOT_HERE = "names a file that this server does not have: send its content, as `file_data`"


def _decode_text_file(value: object) -> object:
    """Decode a text file from a data: URL or base64."""
    if not isinstance(value, str):
        raise field_error("invalid_type", "must be a string")
    data = value.partition(",")[2] if value.startswith("data:") else value
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8-sig")
    except (binascii.Error, UnicodeDecodeError):
        text = "\0"
    if "\0" in text:
        raise field_error(
            "unsupported_parameter",
            "must be the base64 of a text file in UTF-8: this server reads no other documents",
        )
    return text


class FileParam(RequestModel):
    """A text file, which stands in the prompt under its name."""

    filename: str | None = None
    file_data: Annotated[str, BeforeValidator(_decode_text_file, json_schema_input_type=str)]
    file_id: Annotated[object, unsupported(reason=_NOT_HERE)] = None
    file_url: Annotated[
        object, unsupported(reason="is not supported: this server fetches nothing")
    ] = None

    @property
    def text(self) -> str:
        return f"{self.filename}:\n{self.file_data}" if self.filename else self.file_data


class ImageUrl(RequestModel):
    """`detail` changes nothing: an image is scaled to what the model's encoder takes."""

    url: Annotated[bytes, BeforeValidator(decode_data_url, json_schema_input_type=str)]
    detail: object = None

    @classmethod
    def understand(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value


PartType = Literal["text", "image_url", "file", "thinking"]

_TYPES: dict[object, PartType] = {
    "input_text": "text",
    "output_text": "text",
    "refusal": "text",
    "reasoning": "thinking",
    "redacted_thinking": "thinking",
    "reasoning_text": "thinking",
    "summary_text": "thinking",
    "input_image": "image_url",
    "input_file": "file",
}
"""Names that OpenAI's Responses API, Anthropic's and the AI SDK have for types of parts."""


_OWN_FIELDS = ("text", "image_url", "file", "thinking")

_OF_A_FILE = ("filename", "file_data", "file_id", "file_url")


class ContentPart(RequestModel):
    """A text, an image, a file or an earlier thought, by its `type`; the fields of another type are
    not read."""

    type: PartType
    text: Annotated[str | None, Field(validate_default=True)] = None
    image_url: Annotated[ImageUrl | None, Field(validate_default=True)] = None
    file: Annotated[FileParam | None, Field(validate_default=True)] = None
    thinking: object = None
    file_id: Annotated[object, unsupported(reason=_NOT_HERE)] = None

    @classmethod
    def understand(cls, value: object) -> object:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        if not isinstance(value, dict):
            return value
        theirs = value.get("type", "text" if "text" in value else None)
        ours = _TYPES.get(theirs, theirs) if isinstance(theirs, str) else theirs
        part = {name: each for name, each in value.items() if name not in _OWN_FIELDS}
        if ours is not None:
            part["type"] = ours
        if theirs == "refusal":
            own = part.pop("refusal", None)
        elif ours == "thinking":
            own = value.get("thinking", part.pop("reasoning", value.get("text")))
        elif theirs == "input_file":
            own = {name: part.pop(name) for name in _OF_A_FILE if name in part}
        else:
            own = value.get(ours) if isinstance(ours, str) else None
        if own is not None and isinstance(ours, str):
            part[ours] = own
        return part

    @field_validator("text", "image_url", "file")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        if info.data.get("type") == info.field_name and value is None:
            raise field_error("missing_required_parameter", "is required")
        return value

    @property
    def content(self) -> str | bytes:
        if self.file is not None:
            return self.file.text
        return self.image_url.url if self.image_url is not None else self.text or ""


def read_parts(value: object) -> object:
    if isinstance(value, str) or (not value and isinstance(value, list)):
        # An answer that only called tools, or that was cut before its first word, has none.
        return [{"type": "text", "text": value or ""}]
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [{"type": "text", "text": "\n".join(value)}]  # as `join_content` joins them
    if value is not None and not isinstance(value, list):
        raise field_error("invalid_type", "must be a string or an array of parts")
    return value


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts in a thought: it is one, or a list of blocks that hold some."""
    for block in value if isinstance(value, list) else [value]:
        if isinstance(block, str):
            yield block
        elif isinstance(block, dict):
            fields = (block.get(name) for name in ("thinking", "text", "reasoning", "summary"))
            yield next((text for text in fields if isinstance(text, str)), "")


def text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
