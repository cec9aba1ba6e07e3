"""An upload as HTML forms send it (multipart/form-data), written to the disk as it comes.

The parser is python-multipart's, without what reads a form into memory: a file, and a few short
fields beside it.
"""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from localllm.core.text import single_line
from localllm.server.errors import ApiError

if TYPE_CHECKING:  # it is there for type checkers alone
    from python_multipart.multipart import MultipartCallbacks

MAX_FILE_BYTES = 2 * 2**30
"""OpenAI takes inputs of 200 MB; files here lie on the user's own disk."""

CHUNK_TIMEOUT_S = 60.0
"""Without a byte: a large file may take long, a client that is gone may not."""

_MAX_FIELD_BYTES = 1024
_MAX_PARTS = 8
_MAX_HEADER_BYTES = 4096


@dataclass(slots=True, kw_only=True)
class Upload:
    """The fields of a form, and the name of its file, whose bytes are written elsewhere."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def read_upload(request: Request, out: BinaryIO) -> Upload:
    """Read a form with one file (its field is `file`), whose bytes go to `out`.

    Raises ApiError (400, 408, 413, 415), ClientDisconnect, OSError.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.lower() != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(
            "A file must be sent as multipart/form-data, with the fields `file` and `purpose`.",
            status=415,
            code="unsupported_media_type",
        )
    form = _Form(out)
    parser = MultipartParser(options[b"boundary"], form.callbacks())
    try:
        while True:
            async with asyncio.timeout(CHUNK_TIMEOUT_S):
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if chunk := message.get("body", b""):
                await asyncio.to_thread(parser.write, chunk)
            if not message.get("more_body", False):
                break
        parser.finalize()
    except TimeoutError:
        raise ApiError(
            f"Nothing of the file came for {CHUNK_TIMEOUT_S:.0f} s.",
            status=408,
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None
    except FormParserError:
        raise _malformed("it is not a form") from None
    if not form.ended:
        raise _malformed("its end is missing")
    if form.upload.filename is None:
        raise ApiError(
            "`file` is required: a part with a file name.",
            code="missing_required_parameter",
            param="file",
        )
    return form.upload


class _Form:
    """What the parser has found. Its methods are called in the parser's thread."""

    def __init__(self, out: BinaryIO) -> None:
        self.upload = Upload()
        self.ended = False
        self._out = out
        self._parts = self._bytes = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value: bytearray | None = None

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _malformed(f"it has more than {_MAX_PARTS} parts")
        self._headers = {}

    def _add_header(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)
        if len(self._header[which]) > _MAX_HEADER_BYTES:
            raise _malformed("a header of a part is too long")

    def _end_header(self) -> None:
        name, value = self._header
        if len(self._headers) < _MAX_PARTS:
            self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        if self._name != "file":
            self._value = bytearray()
            return
        if self.upload.filename is not None:
            raise _malformed("it has two files")
        self._value = None
        # A label and nothing more: no path is made of it.
        text = (filename or b"input.jsonl").decode("utf-8", "replace")
        self.upload.filename = single_line(text)[:255] or "input.jsonl"

    def _add_data(self, data: bytes) -> None:
        if self._value is not None:
            self._value += data
            if len(self._value) > _MAX_FIELD_BYTES:
                raise _malformed("a field is too long")
            return
        self._bytes += len(data)
        if self._bytes > MAX_FILE_BYTES:
            raise ApiError(
                f"The file is larger than {MAX_FILE_BYTES} bytes.",
                status=413,
                code="body_too_large",
            )
        self._out.write(data)

    def _end_part(self) -> None:
        if self._value is not None:
            self.upload.fields[self._name] = self._value.decode("utf-8", "replace")
            self._value = None

    def _end(self) -> None:
        self.ended = True


def _malformed(reason: str) -> ApiError:
    return ApiError(f"The upload cannot be read: {reason}.", code="invalid_form")
