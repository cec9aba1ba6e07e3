"""One response on a socket, with the faults that are switched on for it."""

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.hub.content import Content, InMemory
from tests.hub.faults import (
    BrokenJson,
    Drop,
    Faults,
    Flip,
    Gzip,
    NoRanges,
    Plan,
    Portal,
    Redirect,
    Refuse,
    Stall,
    Throttle,
    Truncate,
    WrongLength,
)
from tests.hub.record import Record, Request

_PIECE = 256 << 10
_TICK_S = 0.02
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_PORTAL = b"<!DOCTYPE html><html><title>Hotel WLAN</title><body>Please log in.</body></html>"


class FaultyHandler(BaseHTTPRequestHandler):
    """The common part of both ports. Subclasses name their port and `route` the request."""

    protocol_version = "HTTP/1.1"
    server_version = "FakeHub"
    port_name: str
    faults: Faults
    record: Record
    closing: threading.Event

    def route(self, path: str) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name above
        pass

    def _handle(self) -> None:
        split = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_seen = Request(self.command, unquote(split.path), split.query, headers)
        self.record.add(self.request_seen)
        self.stalled = False
        self.plan: Plan = self.faults.take(self.port_name, self.request_seen.path)
        try:
            if not self._refused():
                self.route(self.request_seen.path)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        finally:
            self.request_seen.done = True
            self.request_seen.answered.set()

    def _refused(self) -> bool:
        """Respond with a fault that needs no lookup; false when there is none."""
        if fault := self.plan.get(Refuse):
            wait = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
            self.respond(fault.status, b"not now", {"Content-Type": "text/plain", **wait})
        elif self.plan.get(Portal):
            self.respond(200, _PORTAL, {"Content-Type": "text/html; charset=utf-8"})
        elif broken := self.plan.get(BrokenJson):
            self.respond(200, broken.body, {"Content-Type": "application/json"})
        elif away := self.plan.get(Redirect):
            self.respond(away.status, b"", {"Location": away.to})
        else:
            return False
        return True

    def respond_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(value).encode("utf-8", "surrogatepass")
        self.respond(
            200, text, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        )

    def respond_error(self, status: int, message: str, code: str | None = None) -> None:
        """Respond with an error as the Hub does: in headers and as JSON."""
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        body = json.dumps({"error": message}).encode()
        self.respond(status, body, {"Content-Type": "application/json; charset=utf-8", **headers})

    def respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send(status, InMemory(body), 0, len(body), headers)

    def respond_content(self, content: Content, etag: str, headers: dict[str, str]) -> None:
        """Respond with a file, or the part of it that Range and If-Range ask for."""
        size = content.size
        headers = {"ETag": etag, **headers}
        if self.plan.get(NoRanges):
            self.send(200, content, 0, size, headers)
            return
        headers["Accept-Ranges"] = "bytes"
        requested = self._range(size, etag)
        if requested is None:
            self.send(200, content, 0, size, headers)
        elif requested[0] >= requested[1]:
            self.send(416, InMemory(b""), 0, 0, {**headers, "Content-Range": f"bytes */{size}"})
        else:
            start, end = requested
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self.send(206, content, start, end, headers)

    def _range(self, size: int, etag: str) -> tuple[int, int] | None:
        """Return start and end of the range; start >= end when it cannot be satisfied."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or match[0] == "bytes=-":
            return None
        if self.headers.get("If-Range", etag) != etag:
            return None
        if not match[1]:
            return max(0, size - int(match[2])), size
        end = min(size, int(match[2]) + 1) if match[2] else size
        return int(match[1]), end

    def send(
        self, status: int, content: Content, start: int, end: int, headers: dict[str, str]
    ) -> None:
        """Send the bytes from `start` to `end` of a content, as the plan lets it."""
        self.request_seen.status = status
        zipped = self._zipped(content, start, end)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if zipped is not None:
            content, start, end = zipped, 0, zipped.size
            self.send_header("Content-Encoding", "gzip")
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            wrong = self.plan.get(WrongLength)
            self.send_header("Content-Length", str(end - start + (wrong.by if wrong else 0)))
            self.close_connection = self.close_connection or wrong is not None
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(content, start, end)

    def _zipped(self, content: Content, start: int, end: int) -> InMemory | None:
        if self.plan.get(Gzip) is None or end <= start:
            return None
        return InMemory(gzip.compress(content.read(start, end - start)))

    def _send_body(self, content: Content, start: int, end: int) -> None:
        position = start
        while position < end and not self._ends_here(position - start):
            piece = content.read(
                position, min(end - position, self._next_piece_bytes(position - start))
            )
            piece = self._flipped(piece, position)
            self.wfile.write(piece)
            self.request_seen.sent += len(piece)
            position += len(piece)
            self._slow_down(len(piece))

    def _next_piece_bytes(self, sent: int) -> int:
        """Return how many bytes may be sent before the next fault."""
        marks = [each.after for each in self.plan.faults if isinstance(each, Drop | Truncate)]
        if (stall := self.plan.get(Stall)) and not self.stalled:
            marks.append(stall.after)
        if throttle := self.plan.get(Throttle):
            marks.append(sent + max(1, int(throttle.bytes_per_s * _TICK_S)))
        return min([mark - sent for mark in marks if mark > sent], default=_PIECE) or 1

    def _flipped(self, piece: bytes, position: int) -> bytes:
        flip = self.plan.get(Flip)
        if flip is None or not position <= flip.offset < position + len(piece):
            return piece
        changed = bytearray(piece)
        changed[flip.offset - position] ^= 0xFF
        return bytes(changed)

    def _slow_down(self, sent: int) -> None:
        if throttle := self.plan.get(Throttle):
            self.wfile.flush()
            time.sleep(sent / throttle.bytes_per_s)

    def _ends_here(self, sent: int) -> bool:
        """Tell whether the response breaks off after so many bytes; wait while it stalls."""
        stall = self.plan.get(Stall)
        if stall and sent >= stall.after and not self.stalled:
            self.stalled = True
            stall.reached.set()
            while not stall.until.wait(_TICK_S):
                if self.closing.is_set() or self._client_left():
                    self.close_connection = True
                    return True
        drop, cut = self.plan.get(Drop), self.plan.get(Truncate)
        if drop and sent >= drop.after:
            self._reset()
            return True
        if cut and sent >= cut.after:
            self.close_connection = True
            return True
        return False

    def _client_left(self) -> bool:
        self.connection.settimeout(0)
        try:
            return len(self.connection.recv(1, socket.MSG_PEEK)) == 0
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self.connection.settimeout(None)

    def _reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
