"""The text of a file of unknown encoding, or the reason why it has none.

A text without a byte order mark does not say how it is encoded. UTF-8 is known by its bytes; what
is not UTF-8 and holds no control characters is taken for Windows-1252, with a remark, because most
of such files are old ones from Windows. Everything else is refused: a model makes nothing of bytes.
"""

import codecs
from dataclasses import dataclass

from localllm.errors import UsageError
from localllm.translation import _

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\x08\x1b")
_MAX_CONTROLS = 1 / 200
"""Of the bytes of a text: captured terminals have a few others."""
_UTF16_ZEROS = 2 / 5
"""Of the bytes at even or at odd places, in UTF-16 of mostly Latin letters."""
_SAMPLE_BYTES = 65_536

_KINDS = (
    (b"PK\x03\x04", "ZIP"),  # also .docx, .xlsx, .odt, .jar
    (b"\x7fELF", "ELF"),
    (b"MZ", "EXE"),
    (b"GGUF", "GGUF"),
    (b"\x1f\x8b", "gzip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"SQLite format 3\0", "SQLite"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office 97"),
)
_OFFICE = frozenset({".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".doc", ".xls", ".ppt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedText:
    """The text of a file with plain line ends. `remark` is a sentence for the person, or ""."""

    text: str
    encoding: str
    remark: str = ""


def decode_text(data: bytes, *, suffix: str = "", cut: bool = False) -> DecodedText:
    """Decode the bytes of a text file. `suffix` is the ending of its name; `cut`: the end is
    missing, perhaps in the middle of a character. Raises UsageError for what is no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    if (unmarked := _unmarked_utf16(data)) is not None:
        return _decoded(data, unmarked)
    if b"\0" in data or _mostly_controls(data):
        raise UsageError(_binary(data, suffix))
    try:
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(data, final=not cut)
        return DecodedText(text=_with_line_ends(text), encoding="utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    remark = _("It is not UTF-8 and was read as Windows-1252: some letters may be wrong.")
    return DecodedText(text=_with_line_ends(text), encoding="cp1252", remark=remark)


def _decoded(data: bytes, encoding: str) -> DecodedText:
    text = data.decode(encoding, "replace")
    remark = ""
    if "\ufffd" in text:
        remark = _("Some bytes are no {encoding}, and are shown as �.").format(encoding=encoding)
    return DecodedText(text=_with_line_ends(text), encoding=encoding, remark=remark)


def _unmarked_utf16(data: bytes) -> str | None:
    """Return the encoding of UTF-16 without a mark, as Windows' tools write it; None: it is not."""
    sample = data[:_SAMPLE_BYTES]
    if len(sample) < 4 or b"\0" not in sample:
        return None
    even, odd = sample[0::2], sample[1::2]
    even_zeros, odd_zeros = even.count(0) / len(even), odd.count(0) / len(odd)
    if odd_zeros > _UTF16_ZEROS and even_zeros == 0:
        return "utf-16-le"
    if even_zeros > _UTF16_ZEROS and odd_zeros == 0:
        return "utf-16-be"
    return None


def _mostly_controls(data: bytes) -> bool:
    sample = data[:_SAMPLE_BYTES]
    controls = sum(byte < 0x20 and byte not in _TEXT_CONTROLS for byte in sample)
    return controls > len(sample) * _MAX_CONTROLS


def _binary(data: bytes, suffix: str) -> str:
    if suffix.lower() in _OFFICE:
        return _("It is an Office document ({suffix}). Save it as PDF or as plain text.").format(
            suffix=suffix.lower()
        )
    kind = next((name for start, name in _KINDS if data.startswith(start)), None)
    if kind is not None:
        return _("It is no text but a {kind} file.").format(kind=kind)
    return _("It is no text: it holds bytes that no text has.")


def _with_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
