"""A file as it goes with a question: its text or the bytes of a picture, within limits.

The kind of a file is found by its first bytes, not by its name: a name lies more often. Nothing is
opened that could wait for ever (a pipe, a device), and no more is read of a file than any context
holds.
"""

import asyncio
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from localllm.chat.attachments.pdf import PdfText, read_pdf
from localllm.chat.attachments.text import decode_text
from localllm.chat.conversation import Attachment
from localllm.core.image import ImageKind, read_header
from localllm.core.units import format_bytes
from localllm.engine.messages import Image, Message, Role
from localllm.engine.messages.limits import MAX_IMAGE_BYTES
from localllm.engine.messages.validation import check_images
from localllm.errors import BadRequest, NotFound, UsageError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.translation import _

MAX_TEXT_BYTES = 16 * 2**20
"""Four million tokens: more than any context."""
MAX_PDF_BYTES = 512 * 2**20

_IMAGE_TYPES = {
    ImageKind.PNG: "image/png",
    ImageKind.JPEG: "image/jpeg",
    ImageKind.GIF: "image/gif",
    ImageKind.BMP: "image/bmp",
}
_IMAGE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_BMP_START = b"BM"
_BMP_HEADERS = frozenset({12, 40, 52, 56, 64, 108, 124})
"""Sizes of the header behind the first 14 bytes: many texts begin with BM too."""
_OTHER_IMAGES = ((b"II*\0", "TIFF"), (b"MM\0*", "TIFF"))
_PDF_START = b"%PDF-"
_PDF_START_WITHIN = 1024
"""Readers take junk of so many bytes before it (PDF 1.7, appendix H, note 13)."""
PDF_TYPE = "application/pdf"
_TEXT_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".html": "text/html",
    ".htm": "text/html",
    ".xml": "text/xml",
    ".json": "application/json",
    ".py": "text/x-python",
}
PLAIN_TYPE = "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """What was read of a file: `text` (of a PDF: `pages`), or the bytes of a picture (`data`).

    `remarks` are sentences for the person: what was guessed, and what is missing. `size_bytes` is
    the size of the file.
    """

    path: Path
    media_type: str
    size_bytes: int
    text: str = ""
    pages: tuple[str, ...] = field(default=())
    data: bytes = b""
    remarks: tuple[str, ...] = ()

    def attachment(self, name: str | None = None) -> Attachment:
        """Return it as it goes with a question, not counted yet. `name`: how the model and the
        person read it, the file's own if None."""
        return Attachment(
            name=printable(name or self.path.name),
            media_type=self.media_type,
            text=_with_page_marks(self.pages) if self.pages else self.text,
            data=self.data,
        )


async def read_file(path: Path) -> FileContent:
    """Read a file that a person chose. Cancelling the call ends the reading of a PDF.

    Raises NotFound, and UsageError for a folder, a file that cannot be read, is neither text nor
    PDF nor a picture, or a picture that the engine would refuse. The messages name the file.
    """
    path = paths.absolute(path)
    try:
        head, size_bytes = await asyncio.to_thread(_read_start, path)
        if _PDF_START in head[:_PDF_START_WITHIN]:
            return await _pdf(path, size_bytes)
        if _is_image(head):
            return _image(path, head, size_bytes)
        return await asyncio.to_thread(_text, path, head, size_bytes)
    except (UsageError, BadRequest) as error:
        raise UsageError(f"{printable(path.name)}: {error}") from error


def _read_start(path: Path) -> tuple[bytes, int]:
    """Read the first MAX_TEXT_BYTES of a file, and its size."""
    if path.is_dir():
        raise UsageError(
            _("It is a folder. Attach its files one by one, or make a collection of it.")
        )
    try:
        # Opened without waiting: a named pipe would hang here for ever.
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError:
        raise NotFound(_("There is no file {path}.").format(path=printable(path))) from None
    except (OSError, ValueError) as error:
        raise UsageError(_cannot_be_read(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(_("It is no plain file but a pipe or a device."))
            return file.read(max(MAX_TEXT_BYTES, MAX_IMAGE_BYTES + 1)), status.st_size
        except OSError as error:
            raise UsageError(_cannot_be_read(error)) from error


def _is_image(head: bytes) -> bool:
    if head.startswith(_BMP_START):
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return head.startswith(_IMAGE_STARTS)


def _cannot_be_read(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _("It cannot be read: {reason}.").format(reason=reason)


async def _pdf(path: Path, size_bytes: int) -> FileContent:
    if size_bytes > MAX_PDF_BYTES:
        raise UsageError(
            _("The PDF has {size}; at most {limit} are read.").format(
                size=format_bytes(size_bytes), limit=format_bytes(MAX_PDF_BYTES)
            )
        )
    read: PdfText = await read_pdf(path)
    return FileContent(
        path=path,
        media_type=PDF_TYPE,
        size_bytes=size_bytes,
        pages=read.pages,
        remarks=(read.remark,) if read.remark else (),
    )


def _image(path: Path, data: bytes, size_bytes: int) -> FileContent:
    if size_bytes > MAX_IMAGE_BYTES:
        raise UsageError(
            _("The picture has {size}; at most {limit} are taken. Scale it down.").format(
                size=format_bytes(size_bytes), limit=format_bytes(MAX_IMAGE_BYTES)
            )
        )
    check_images((Message(role=Role.USER, content="", images=(Image(data=data),)),))
    return FileContent(
        path=path,
        media_type=_IMAGE_TYPES[read_header(data).kind],
        size_bytes=size_bytes,
        data=data,
    )


def _text(path: Path, data: bytes, size_bytes: int) -> FileContent:
    if data[8:12] == b"WEBP" or any(data.startswith(start) for start, _kind in _OTHER_IMAGES):
        raise UsageError(_("Of pictures only PNG, JPEG, GIF and BMP are read. Convert it first."))
    cut = size_bytes > MAX_TEXT_BYTES
    decoded = decode_text(data[:MAX_TEXT_BYTES], suffix=path.suffix, cut=cut)
    if not decoded.text.strip():
        raise UsageError(_("It is empty."))
    remarks = [decoded.remark] if decoded.remark else []
    if cut:
        remarks.append(
            _("Only the first {limit} of {size} were read.").format(
                limit=format_bytes(MAX_TEXT_BYTES), size=format_bytes(size_bytes)
            )
        )
    return FileContent(
        path=path,
        media_type=_TEXT_TYPES.get(path.suffix.lower(), PLAIN_TYPE),
        size_bytes=size_bytes,
        text=decoded.text,
        remarks=tuple(remarks),
    )


def _with_page_marks(pages: tuple[str, ...]) -> str:
    """Join the pages of a PDF; each begins with its number, so that an answer can name it."""
    marked = (f"[page {number}]\n{text.strip()}" for number, text in enumerate(pages, 1))
    return "\n\n".join(marked)
