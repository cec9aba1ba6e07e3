"""The meaning of an HTTP response to a range request. Pure: status and headers in, a value out.

Apart from `http_source.py`, so that every odd status and header is tested without a server.
RFC 9110 sections 13.1.5 (If-Range), 14 (ranges) and 15 (status codes); what the Hub and its CDN
do beyond it is in docs/download.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from localllm.core.text import single_line
from localllm.core.units import format_bytes

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_RETRYABLE = frozenset({408, 421, 423, 425, 429})
_UNAUTHORIZED = frozenset({400, 401, 403, 404, 410})
"""Also how a CDN answers a URL whose signature has expired (CloudFront 403, S3 400 and 403)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The body holds the file from `start` up to `end`. `whole_file`: the range was ignored."""

    start: int
    end: int
    etag: str | None
    whole_file: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The bytes are at another URL."""

    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanged:
    """The file is not the one whose first bytes are here."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retryable:
    """No usable bytes now; another attempt may bring them."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorized:
    """401, 403, 404 and their like: an endpoint refuses, or a CDN's signed URL has expired."""

    status: int
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """No bytes, and another attempt will not help."""

    reason: str


RangeResponse = Content | Redirect | FileChanged | Retryable | Unauthorized | Rejected


def classify_response(
    status: int,
    headers: Mapping[str, str],
    *,
    start: int,
    size: int,
    etag: str | None,
) -> RangeResponse:
    """Classify the response to `Range: bytes=START-...` of a file of `size` bytes.

    `headers` has lower-case names (or finds names in any case); `etag` is the one that the bytes
    that are already here came with, None when that is not known.
    """
    if status in (200, 206):
        return _content(status, headers, start=start, size=size, etag=etag)
    if status in (301, 302, 303, 307, 308):
        location = headers.get("location")
        if location:
            return Redirect(location=location)
        return Retryable(reason=f"it answers {status} without an address")
    if status in _UNAUTHORIZED:
        return Unauthorized(status=status, code=_clean(headers.get("x-error-code")))
    if status == 416:
        return FileChanged(reason=f"the file there ends before byte {start}")
    if status in _RETRYABLE or status >= 500:
        return Retryable(reason=f"it answers {status}{_named(status)}")
    return Rejected(reason=f"it answers {status}")


def same_etag(one: str, other: str) -> bool:
    """Compare two ETags weakly: a CDN that compresses turns a strong one into `W/...`."""
    return one.removeprefix("W/") == other.removeprefix("W/")


def usable_in_if_range(etag: str | None) -> bool:
    """Tell whether `If-Range` may carry an ETag: a strong one only (RFC 9110 section 13.1.5)."""
    return etag is not None and not etag.startswith("W/")


def _content(
    status: int, headers: Mapping[str, str], *, start: int, size: int, etag: str | None
) -> RangeResponse:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        return Retryable(reason=f"it sends the file encoded ({single_line(encoding)[:40]})")
    new_etag = headers.get("etag")
    if etag is not None and new_etag is not None and not same_etag(etag, new_etag):
        return FileChanged(reason="the server's copy has another ETag than before")
    if status == 206:
        return _partial_content(headers, start=start, size=size, etag=new_etag)
    return _whole_file(headers, size=size, etag=new_etag)


def _partial_content(
    headers: Mapping[str, str], *, start: int, size: int, etag: str | None
) -> RangeResponse:
    text = headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return Retryable(reason="it sends a part of the file without saying which")
    first, last = int(match[1]), int(match[2])
    if match[3] != "*" and int(match[3]) != size:
        return Retryable(reason=_other_length(int(match[3]), size))
    if first != start or not first <= last < size:
        return Retryable(
            reason=f"it sends bytes {first}-{last} when asked for those from {start} on"
        )
    return Content(start=first, end=last + 1, etag=etag, whole_file=False)


def _whole_file(headers: Mapping[str, str], *, size: int, etag: str | None) -> RangeResponse:
    length = headers.get("content-length", "").strip()
    if length.isascii() and length.isdigit() and int(length[:19]) == size:
        return Content(start=0, end=size, etag=etag, whole_file=True)
    # After the length: a repository may hold an HTML file, which has the listed length.
    if headers.get("content-type", "").lower().startswith(("text/html", "application/xhtml")):
        return Rejected(
            reason="it sends a web page instead of the file, as a network does that wants a login"
            " first; open any page in a browser"
        )
    if not length:
        return Content(start=0, end=size, etag=etag, whole_file=True)
    return Retryable(reason=_other_length(int(length[:19]) if length.isdigit() else 0, size))


def _other_length(length: int, size: int) -> str:
    return (
        f"it has a file of {length} bytes ({format_bytes(length)}), and the repository lists"
        f" {size} ({format_bytes(size)})"
    )


def _named(status: int) -> str:
    names = {429: " (too many requests)", 503: " (busy)", 502: " (bad gateway)"}
    return names.get(status, "")


def _clean(text: str | None) -> str | None:
    return single_line(text)[:40] if text else None
