"""How many images a request may bring, and how large. Checked on both sides, as in `limits.py`."""

from collections.abc import Sequence

from localllm.core.image import MAX_PIXELS, read_header
from localllm.core.units import format_bytes
from localllm.engine.events import GenerateRequest, Message
from localllm.errors import BadRequest

MAX_IMAGES = 16
MAX_IMAGE_BYTES = 20 * 2**20
MAX_ALL_BYTES = 32 * 2**20
"""Of all images of a request: as base64 they stay below what a line of the wire may have."""
MAX_ALL_PIXELS = 2 * MAX_PIXELS


def check_sight(request: GenerateRequest, blind: str | None) -> None:
    """Raise BadRequest for images that a model cannot see; `blind` says why."""
    if blind is not None and any(message.images for message in request.messages or ()):
        raise BadRequest(blind)


def check_images(messages: Sequence[Message]) -> None:
    """Raise BadRequest for images that are too many, too large or of a kind that is not read."""
    images = [image for message in messages for image in message.images]
    if len(images) > MAX_IMAGES:
        raise BadRequest(f"The conversation has {len(images)} images; at most {MAX_IMAGES}.")
    size = sum(len(image.data) for image in images)
    largest = max((len(image.data) for image in images), default=0)
    if largest > MAX_IMAGE_BYTES or size > MAX_ALL_BYTES:
        raise BadRequest(
            f"The images have {format_bytes(size)}, the largest {format_bytes(largest)}; at most "
            f"{format_bytes(MAX_ALL_BYTES)} together and {format_bytes(MAX_IMAGE_BYTES)} each are "
            "accepted. Scale them down, or save them as JPEG."
        )
    pixels = 0
    for image in images:
        header = read_header(image.data)
        pixels += header.width * header.height
    if pixels > MAX_ALL_PIXELS:
        raise BadRequest(
            f"The images have {pixels} pixels together; at most {MAX_ALL_PIXELS}. Scale them down."
        )
    for message in messages:
        places = [image.at for image in message.images]
        if places != sorted(places) or any(not 0 <= at <= len(message.content) for at in places):
            raise BadRequest(
                "An image stands outside its message's text, or before the image that it follows."
            )
