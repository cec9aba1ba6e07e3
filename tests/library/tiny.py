"""Small GGUF files with true headers, in a few hundred bytes."""

import os
import struct
from pathlib import Path

Values = dict[str, str | int | bool]
MODEL: Values = {"general.architecture": "llama", "general.file_type": 15}
_STRING, _UINT32, _BOOL = 8, 4, 7


def header(metadata: Values, *, tensors: int = 1) -> bytes:
    """A GGUF v3 file whose tensors are 32 zeros each."""
    keys = b"".join(_text(key) + _value(value) for key, value in metadata.items())
    infos = b"".join(
        _text(f"blk.{each}.weight") + struct.pack("<IQIQ", 1, 32, 0, each * 128)
        for each in range(tensors)
    )
    head = struct.pack("<4sIQQ", b"GGUF", 3, tensors, len(metadata)) + keys + infos
    return head + bytes(-len(head) % 32) + bytes(tensors * 128)


def write(path: Path, *, tensors: int = 1, **general: str | int | bool) -> Path:
    """A model whose `general.*` keys are the arguments."""
    own: Values = {f"general.{key}": value for key, value in general.items()}
    path.write_bytes(header(MODEL | own, tensors=tensors))
    return path


def write_split(directory: Path, stem: str, count: int, **general: str | int | bool) -> list[Path]:
    """A split model as `gguf-split` writes it: all but the first part know only their place."""
    files = []
    for number in range(count):
        own: Values = {f"general.{key}": value for key, value in general.items()}
        place: Values = {"split.no": number, "split.count": count, "split.tensors.count": count}
        path = directory / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(header((MODEL | own | place) if number == 0 else place))
        files.append(path)
    return files


def spoil(file: Path) -> None:
    """Flip the last byte and leave size and times as they are, as a bad disk does."""
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: str | int | bool) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
