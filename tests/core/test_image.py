"""Headers of image files, and the refusals before native code sees one."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.core.image import (
    MAX_PIXELS,
    MAX_RATIO,
    MAX_SIDE,
    ImageKind,
    check_packed,
    read_header,
)
from localllm.errors import BadRequest
from tests.engine.fake_vision import jpeg, packed_png, png


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<Iii", 40, width, height) + bytes(28)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(1, width=30, height=20), ImageKind.PNG),
        (jpeg(30, 20), ImageKind.JPEG),
        (jpeg(30, 20, marker=0xC2, before=b"\xff\xff\xdb\x00\x03x"), ImageKind.JPEG),
        (gif(30, 20), ImageKind.GIF),
        (bmp(30, 20), ImageKind.BMP),
        (bmp(30, -20), ImageKind.BMP),
    ],
)
def test_the_size_of_every_known_kind_is_read(data: bytes, kind: ImageKind) -> None:
    header = read_header(data)
    assert (header.kind, header.width, header.height) == (kind, 30, 20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed_png(65_535, 65_535, b""), "65535 x 65535"),
        (packed_png(2**31, 1, b""), "2147483648 x 1"),
        (jpeg(65_535, 65_535), "65535 x 65535"),
        (gif(MAX_SIDE, MAX_PIXELS // MAX_SIDE + 1), str(MAX_PIXELS)),
        (packed_png(0, 10, b""), "0 x 10"),
        (packed_png(MAX_RATIO + 1, 1, b""), str(MAX_RATIO)),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"<svg xmlns=''/>", "SVG"),
        (b"\x00\x00\x00\x18ftypheic", "no kind"),
        (b"", "no kind"),
        (b"ID3\x04a song", "no kind"),
        (jpeg(30, 20)[:16], "ends inside its header"),
        (b"\xff\xd8\xff\xe0\x00\x04ab!" + jpeg(30, 20)[8:], "broken"),
        (jpeg(30, 20, marker=0xC3), "0xc3"),
        (png(1)[:20], "ends inside its header"),
        (b"\x89PNG\r\n\x1a\n" + png(1)[33:], "does not begin with its header"),
    ],
)
def test_what_the_engine_must_not_decode_is_refused_with_its_reason(
    data: bytes, message: str
) -> None:
    with pytest.raises(BadRequest, match=message.replace("(", r"\(")):
        read_header(data)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"BM", b"GIF89a", png(1)[:24]]))
def test_no_bytes_are_more_than_refused(data: bytes, start: bytes) -> None:
    try:
        header = read_header(start + data)
    except BadRequest:
        return
    assert header.width * header.height <= MAX_PIXELS


def test_a_whole_png_unpacks_to_what_it_says() -> None:
    check_packed(png(1, width=31, height=17))
    check_packed(jpeg(30, 20))  # nothing is packed in the others


def test_a_png_that_unpacks_to_more_than_it_says_is_refused() -> None:
    bomb = packed_png(8, 8, bytes(64 * 2**20))
    assert len(bomb) < 100_000
    with pytest.raises(BadRequest, match="unpacks to more than the 200 bytes"):
        check_packed(bomb)


@pytest.mark.parametrize("cut", [40, 60, -60])
def test_a_png_that_is_cut_off_or_damaged_is_refused(cut: int) -> None:
    with pytest.raises(BadRequest, match="PNG image is"):
        check_packed(png(1, width=40, height=40)[:cut])


def test_an_interlaced_png_has_its_rows_counted_by_pass() -> None:
    width, height = 9, 5
    sizes = [(2, 1), (1, 1), (3, 1), (2, 2), (5, 1), (4, 3), (9, 2)]  # of the seven passes
    rows = b"".join(bytes(h * (1 + 3 * w)) for w, h in sizes)
    plain = packed_png(width, height, rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    interlaced = plain[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + plain[33:]
    check_packed(interlaced)
