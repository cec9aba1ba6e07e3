"""Pictures that are named on the command line."""

from pathlib import Path

from localllm.core.units import format_bytes
from localllm.engine.events import Image, Message, Role
from localllm.engine.images import MAX_IMAGE_BYTES, check_images
from localllm.errors import BadRequest, NotFound, UsageError
from localllm.library.names import shown


def read_images(paths: tuple[Path, ...]) -> tuple[Image, ...]:
    """Read picture files, before anything is loaded for them.

    Raises NotFound, and UsageError for one that cannot be read or that the engine would refuse.
    """
    images = tuple(Image(data=_read(path)) for path in paths)
    for path, image in zip(paths, images, strict=True):
        try:
            check_images((Message(role=Role.USER, content="", images=(image,)),))
        except BadRequest as error:
            raise UsageError(f"--image {shown(path)}: {error}") from None
    try:
        check_images((Message(role=Role.USER, content="", images=images),))
    except BadRequest as error:
        raise UsageError(str(error)) from None
    return images


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no file {shown(path)} for --image.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"--image {shown(path)} cannot be read: {reason}.") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise UsageError(
            f"--image {shown(path)} is larger than {format_bytes(MAX_IMAGE_BYTES)}. "
            "Scale it down, or save it as JPEG."
        )
    return data
