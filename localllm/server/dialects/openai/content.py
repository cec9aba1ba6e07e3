"""What a message holds: texts and images, in their order."""

import base64
import binascii
import re
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from localllm.engine.messages import Image
from localllm.engine.messages.limits import MAX_IMAGE_BYTES
from localllm.server.schema import Shape, neutral, refusal

T = TypeVar("T")

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)


def _decoded(value: object) -> object:
    """The bytes of a data: URL. Nothing is fetched for a client, from nowhere: an address that
    this machine reaches may be one that the client does not."""
    if not isinstance(value, str):
        raise refusal("invalid_type", "must be a string")
    head = _DATA_URL.match(value)
    if head is None:
        raise refusal(
            "unsupported_url",
            "must be data:image/...;base64,... with the image itself: this server fetches nothing",
        )
    if len(value) - head.end() > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise refusal("image_too_large", "is larger than {most} bytes", most=MAX_IMAGE_BYTES)
    try:
        return base64.b64decode(value[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise refusal("invalid_value", "is not valid base64 after its comma") from None


class ImageUrl(Shape):
    """`detail`: an image is shown as large as the encoder takes it."""

    url: Annotated[bytes, BeforeValidator(_decoded)]
    detail: Annotated[object, neutral("auto", "high")] = None


class Part(Shape):
    """A text or an image, as `type` says."""

    type: Literal["text", "image_url"]
    text: Annotated[str | None, Field(validate_default=True)] = None
    image_url: Annotated[ImageUrl | None, Field(validate_default=True)] = None

    @field_validator("text", "image_url")
    @classmethod
    def _of_its_type(cls, value: T, info: ValidationInfo) -> T:
        kind = info.data.get("type")
        if kind == info.field_name and value is None:
            raise refusal("missing_required_parameter", "is required")
        if kind is not None and kind != info.field_name and value is not None:
            raise refusal("unknown_parameter", "is no field of a part of this type")
        return value


def said(parts: list[Part]) -> tuple[str, tuple[Image, ...]]:
    """Text and images of a message: texts each on a line, as llama-server joins them, and no
    line's end beside an image."""
    text, images = "", []
    after_text = False
    for part in parts:
        if part.image_url is not None:
            images.append(Image(data=part.image_url.url, offset=len(text)))
        else:
            text += ("\n" if after_text else "") + (part.text or "")
        after_text = part.image_url is None
    return text, tuple(images)
