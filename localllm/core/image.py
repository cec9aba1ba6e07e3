"""The check of an image file's header before any native code sees its bytes.

Images come from outside. A picture of 100 bytes can claim 4 billion pixels, and a PNG of 20 MB
can unpack to 20 GB: both are found here, in Python, from the header alone or (`inflated_bytes`)
in pieces that are thrown away. Only formats that mtmd's decoder (stb_image) reads are known.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import StrEnum

from localllm.errors import BadRequest

MAX_SIDE = 16_384
MAX_PIXELS = 32 * 2**20
"""A photograph of 33 megapixels; decoded it is 100 MB, several times over while it is scaled."""

MAX_RATIO = 200
"""Of the longer to the shorter side; no encoder was made for more (Qwen-VL's limit)."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (PNG specification, 11.2.2)
_PNG_PASSES = ((8, 8, 0, 0), (8, 8, 4, 0), (4, 8, 0, 4), (4, 4, 2, 0), (2, 4, 0, 2), (2, 2, 1, 0),
               (1, 2, 0, 1))  # fmt: skip
"""Interlacing (Adam7): step and first pixel of each pass, across and down (PNG, 8.2)."""
_INFLATE_PIECE = 2**20

_JPEG_START = b"\xff\xd8"
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: what stb_image decodes
_JPEG_SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # DHT, DQT, DRI, COM, APPn
_UNREAD = (
    (b"RIFF", "WebP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"%PDF", "PDF"), (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
)  # fmt: skip


class ImageKind(StrEnum):
    """The formats that mtmd's decoder reads."""

    PNG = "PNG"
    JPEG = "JPEG"
    GIF = "GIF"
    BMP = "BMP"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """Kind and size of an image; width and height are pixels."""

    kind: ImageKind
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Read kind and size of an image. Raises BadRequest for one that is of no known kind, broken,
    or larger than MAX_SIDE, MAX_PIXELS or MAX_RATIO."""
    try:
        header = _read(data)
    except (struct.error, IndexError):
        raise BadRequest(f"The image ends inside its header, after {len(data)} bytes.") from None
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise BadRequest(f"The {header.kind} image says it is {width} x {height} pixels.")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadRequest(
            f"The {header.kind} image is {width} x {height} pixels; at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS} together are accepted. Scale it down: encoders look at far less."
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadRequest(
            f"The {header.kind} image is {width} x {height} pixels: one side is more than "
            f"{MAX_RATIO} times the other. Cut it into pieces."
        )
    return header


def check_packed(data: bytes) -> None:
    """Raise BadRequest for a PNG whose compressed data is not what its header says: stb_image
    unpacks all of it, to 4 GB, before it compares. Reads the whole file; the other kinds unpack to
    their size and no more."""
    if data.startswith(_PNG):
        _check_png(data)


def _read(data: bytes) -> ImageHeader:
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(_JPEG_START):
        return _jpeg(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack_from("<HH", data, 6)
        return ImageHeader(kind=ImageKind.GIF, width=width, height=height)
    if data.startswith(b"BM"):
        return _bmp(data)
    found = next((kind for start, kind in _UNREAD if data.startswith(start)), None)
    what = f"a {found} file" if found else "of no kind that is known here"
    raise BadRequest(
        f"The image is {what}, which the engine does not read. Send PNG, JPEG, GIF or BMP."
    )


def _png(data: bytes) -> ImageHeader:
    length, kind, width, height = struct.unpack_from(">I4sII", data, len(_PNG))
    if kind != b"IHDR" or length != 13:
        raise BadRequest("The PNG image does not begin with its header (IHDR).")
    return ImageHeader(kind=ImageKind.PNG, width=width, height=height)


def _jpeg(data: bytes) -> ImageHeader:
    """Walk the segments to the frame header, as stb_image does (stbi__decode_jpeg_header)."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise BadRequest("The JPEG image is broken: a segment is not where one should be.")
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        (length,) = struct.unpack_from(">H", data, at + 1)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 4)
            return ImageHeader(kind=ImageKind.JPEG, width=width, height=height)
        if marker not in _JPEG_SKIPPED or length < 2:
            raise BadRequest(
                f"The JPEG image has a segment {marker:#04x} before its frame, which the engine "
                "does not read. Save it again as a plain JPEG or PNG."
            )
        at += 1 + length


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader(kind=ImageKind.BMP, width=width, height=abs(height))


def _check_png(data: bytes) -> None:
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _PNG_SAMPLES.get(colour, 4)
    passes = _PNG_PASSES if interlaced else ((1, 1, 0, 0),)
    expected = 0
    for across, down, left, top in passes:
        columns = -(-max(0, width - left) // across)
        rows = -(-max(0, height - top) // down)
        expected += (1 + -(-columns * bits // 8)) * rows if columns else 0
    unpacker = zlib.decompressobj()
    unpacked = 0
    try:
        for packed in _png_data(data):
            rest: bytes | memoryview = packed
            while rest:
                unpacked += len(unpacker.decompress(rest, _INFLATE_PIECE))
                rest = unpacker.unconsumed_tail
                if unpacked > expected:
                    raise BadRequest(
                        f"The PNG image unpacks to more than the {expected} bytes that "
                        f"{width} x {height} pixels are: it is broken, or made to do harm."
                    )
    except (zlib.error, struct.error) as error:
        raise BadRequest(f"The PNG image is broken: {error}.") from None
    if unpacked < expected:
        raise BadRequest(f"The PNG image is cut off: {unpacked} of {expected} bytes are there.")


def _png_data(data: bytes) -> "list[memoryview]":
    """Return the compressed data, in the order of its chunks."""
    view, at, found = memoryview(data), len(_PNG), []
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            found.append(view[at + 8 : at + 8 + length])
        at += 12 + length
    return found
