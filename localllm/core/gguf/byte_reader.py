"""The bytes of a header, one field after the other, never more than the file can hold.

No size that a file states is believed: a length is first compared with what is left of the file
and with what a header may have, and only then is anything read or allocated. Exactly the header's
bytes are taken from the stream, none of the tensor data.
"""

from typing import BinaryIO

from localllm.core.gguf.format import U32, U64
from localllm.errors import GgufError

MAX_HEADER_BYTES = 32 << 20
"""gemma-3-270m, with a vocabulary of 262144, has a header of 6.5 MB; merges can double that."""
MAX_TEXT_BYTES = 2 << 20
"""All keys and single texts of a header together: chat templates, licences, descriptions."""

_PIECE = 1 << 20
"""Read at once: bounds the memory that a long array takes twice while it is put together."""


class HeaderIncomplete(GgufError):
    """The stream ended inside the header although the file is longer.

    `needed_bytes` is how long the stream must be at least, counted from the start of the file,
    to get further; the header may then still go on.
    """

    code = "header_incomplete"

    def __init__(self, message: str, *, needed_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class ByteReader:
    """A stream with a position and an end.

    `file_bytes` is the real length of the file, which the stream may be a beginning of.
    """

    def __init__(self, stream: BinaryIO, file_bytes: int) -> None:
        self._stream = stream
        self._text_left = MAX_TEXT_BYTES
        self.file_bytes = file_bytes
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes of the file after the position."""
        return self.file_bytes - self.position

    def u32(self, what: str) -> int:
        return int(U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(U64.unpack(self.take(8, what))[0])

    def text(self, length: int, what: str) -> bytes:
        """Take a key or a single text. Raises GgufError when all of them grow too long."""
        self.require(length, what)
        if length > self._text_left:
            raise GgufError(
                f"{what} is {length} bytes long; all texts of a header together may have"
                f" {MAX_TEXT_BYTES} and {self._text_left} of these are left. {DAMAGED}"
            )
        self._text_left -= length
        return bytes(self.take(length, what))

    def take(self, count: int, what: str) -> bytearray:
        """Take exactly `count` bytes. `what` names them in errors ("the key 'a.b'").

        Raises GgufError when the file or a header cannot have so many, HeaderIncomplete when the
        stream ends first.
        """
        into = bytearray()
        self.append(into, count, what)
        return into

    def append(self, into: bytearray, count: int, what: str) -> None:
        """Take `count` bytes and add them to the end of `into`. Raises as `take`."""
        self.require(count, what)
        end = self.position + count
        while self.position < end:
            piece = self._stream.read(min(end - self.position, _PIECE))
            if not piece:
                raise self._ended(end, what)
            into += piece
            self.position += len(piece)

    def require(self, count: int, what: str) -> None:
        """Raise GgufError unless the file and a header can have `count` more bytes here."""
        if count > self.left:
            raise GgufError(
                f"{what} needs {count} bytes at byte {self.position} and the file ends at"
                f" {self.file_bytes}: the download is not complete or the file is damaged."
                " Download it again."
            )
        if self.position + count > MAX_HEADER_BYTES:
            raise GgufError(
                f"{what} needs {count} bytes at byte {self.position}; a header may have"
                f" {MAX_HEADER_BYTES}. {DAMAGED}"
            )

    def _ended(self, end: int, what: str) -> HeaderIncomplete:
        return HeaderIncomplete(
            f"the header goes on after the {self.position} bytes that were read: {what} ends at"
            f" byte {end} of {self.file_bytes} or later. Read at least {end} bytes, or download"
            " the file again if this is all of it.",
            needed_bytes=end,
        )


DAMAGED = "The file is damaged or made to do harm: download it again from a source you trust."
