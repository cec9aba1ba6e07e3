"""What a server's answer to a request for bytes means. Pure: status and headers in, a value out.

RFC 9110 sections 13.1.5 (If-Range), 14 (ranges) and 15 (status codes); what the Hub and its CDN
do beyond it is in docs/download.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from localllm.core.text import single_line
from localllm.core.units import format_bytes

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_TRY_AGAIN = frozenset({408, 421, 423, 425, 429})
_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What a CDN says of an address whose signature is too old (CloudFront 403, S3 400 and 403)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """The body holds the file from `start` up to `end`. `whole`: the range was not looked at."""

    start: int
    end: int
    etag: str | None
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The bytes are elsewhere."""

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The file is not the one whose first bytes are here."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TryAgain:
    """Nothing now; perhaps later."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorized:
    """401, 403 or 404 (`status`): of an endpoint an answer, of a CDN's address that it expired."""

    status: int
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No bytes, and asking again will not help."""

    why: str


Answer = Bytes | Moved | Changed | TryAgain | Unauthorized | Refused


def read_answer(
    status: int,
    headers: Mapping[str, str],
    *,
    start: int,
    size: int,
    etag: str | None,
) -> Answer:
    """Say what an answer to `Range: bytes=START-...` of a file of `size` bytes means.

    `headers` has lower-case names (or finds names in any case); `etag` is the one that the bytes
    that are already here came with, None when that is not known.
    """
    if status in (200, 206):
        return _content(status, headers, start=start, size=size, etag=etag)
    if status in (301, 302, 303, 307, 308):
        to = headers.get("location")
        return Moved(to=to) if to else TryAgain(why=f"it answers {status} without an address")
    if status in _EXPIRED:
        return Unauthorized(status=status, code=_clean(headers.get("x-error-code")))
    if status == 416:
        return Changed(why=f"the file there ends before byte {start}")
    if status in _TRY_AGAIN or status >= 500:
        return TryAgain(why=f"it answers {status}{_named(status)}")
    return Refused(why=f"it answers {status}")


def same_etag(one: str, other: str) -> bool:
    """Whether two ETags name the same bytes, weak or not (a CDN that compresses weakens them)."""
    return one.removeprefix("W/") == other.removeprefix("W/")


def usable_in_if_range(etag: str | None) -> bool:
    """Whether `If-Range` may carry an ETag: only a strong one (RFC 9110 section 13.1.5)."""
    return etag is not None and not etag.startswith("W/")


def _content(
    status: int, headers: Mapping[str, str], *, start: int, size: int, etag: str | None
) -> Answer:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        return TryAgain(why=f"it sends the file encoded ({single_line(encoding)[:40]})")
    found = headers.get("etag")
    if etag is not None and found is not None and not same_etag(etag, found):
        return Changed(why="the server's copy has another ETag than before")
    if status == 206:
        return _part(headers, start=start, size=size, etag=found)
    return _whole(headers, size=size, etag=found)


def _part(headers: Mapping[str, str], *, start: int, size: int, etag: str | None) -> Answer:
    text = headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return TryAgain(why="it sends a part of the file without saying which")
    first, last = int(match[1]), int(match[2])
    if match[3] != "*" and int(match[3]) != size:
        return TryAgain(why=_other_length(int(match[3]), size))
    if first != start or not first <= last < size:
        return TryAgain(why=f"it sends bytes {first}-{last} when asked for those from {start} on")
    return Bytes(start=first, end=last + 1, etag=etag, whole=False)


def _whole(headers: Mapping[str, str], *, size: int, etag: str | None) -> Answer:
    length = headers.get("content-length", "").strip()
    if length.isascii() and length.isdigit() and int(length[:19]) == size:
        return Bytes(start=0, end=size, etag=etag, whole=True)
    if headers.get("content-type", "").lower().startswith(("text/html", "application/xhtml")):
        return Refused(
            why="it sends a web page instead of the file, as a network does that wants a login"
            " first; open any page in a browser"
        )
    if not length:
        return Bytes(start=0, end=size, etag=etag, whole=True)
    return TryAgain(why=_other_length(int(length[:19]) if length.isdigit() else 0, size))


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
