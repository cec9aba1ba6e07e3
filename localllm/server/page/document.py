"""The page as one document: its style and scripts stand inside it, and nothing else may.

The policy names them by their digests, so that text of a model that became markup would still not
run; `trusted-types 'none'` makes every way from text to markup fail in the browsers that know it.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

SCRIPTS = ("api.js", "markdown.js", "conversation.js", "images.js", "view.js", "page.js")
"""In the order in which they stand in the document: each uses what is above it."""

_STYLE_PLACE, _SCRIPT_PLACE = "/* style */", "/* script */"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDocument:
    """The page and the headers that it is sent with."""

    body: bytes
    headers: Mapping[str, str]


@functools.cache
def page_document() -> PageDocument:
    """Put the page together from its files."""
    folder = resources.files(__package__)
    style = _read("page.css")
    script = '"use strict";\n' + "\n".join(map(_read, SCRIPTS))
    html = folder.joinpath("page.html").read_text("utf-8")
    if "</style" in style or "</script" in script or "<!--" in script:
        raise ValueError("a file of the page ends its element")
    for place, content in ((_STYLE_PLACE, style), (_SCRIPT_PLACE, script)):
        before, found, after = html.partition(place)
        if not found:
            raise ValueError(f"page.html has no {place}")
        html = before + content + after
    policy = {
        "default-src": "'none'",
        "script-src": _digest(script),
        "style-src": _digest(style),
        "img-src": "data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return PageDocument(
        body=html.encode("utf-8"),
        headers={
            "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in policy.items()),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
            "Cache-Control": "no-store",
            "Vary": "Accept",
        },
    )


def _read(name: str) -> str:
    # A browser reads \r\n as \n, and takes the digest of what it has read.
    text = resources.files(__package__).joinpath(name).read_text("utf-8")
    return text.replace("\r\n", "\n")


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest())
    return f"'sha256-{digest.decode('ascii')}'"
