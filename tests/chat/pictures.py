"""Pictures for tests, made without a library."""

import struct
import zlib


def png_bytes(width: int, height: int, rgb: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """Write a PNG of one colour."""
    rows = b"".join(b"\0" + bytes(rgb) * width for _row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
