"""URLs: which can be requested, and how they are shown in messages.

Apart from `client.py`, because these checks are pure and every one of them guards something: what
may be requested, who gets the token, what a message may show.
"""

import re
from urllib.parse import quote

import httpx2

from localllm.core.text import single_line
from localllm.errors import UsageError

DEFAULT_ENDPOINT = "https://huggingface.co"

_LIKE = f"Give one like {DEFAULT_ENDPOINT}."
_HOST = re.compile(
    rb"(?=.{1,253}$)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9a-fA-F:.]+"
)
"""For other host names the socket module raises errors that are not network errors."""


def checked_endpoint(text: str, origin: str) -> str:
    """Return an endpoint without its last slash. Raises UsageError naming `origin`."""
    wrong = f"{origin} is {printable_url(text)!r}"
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise UsageError(f"{wrong}, which is no address. {_LIKE}") from error
    if not is_usable(url):
        raise UsageError(f"{wrong}, which is no http(s) address. {_LIKE}")
    if url.userinfo or url.query or url.fragment:
        raise UsageError(f"{wrong} with more than a host and a path in it. {_LIKE}")
    return str(url).rstrip("/")


def file_url(endpoint: str, repo: str, commit: str, file: str) -> str:
    """Build the URL of a repository's file at an endpoint."""
    return f"{endpoint}/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(file)}"


def printable_url(url: httpx2.URL | str) -> str:
    """Make a URL fit for a message: no signature, no password, one line."""
    plain = str(url).partition("?")[0].partition("#")[0]
    scheme, found, rest = plain.partition("://") if "://" in plain else ("", "", plain)
    host, slash, path = rest.partition("/")
    return single_line(f"{scheme}{found}{host.rpartition('@')[2]}{slash}{path}")[:200]


def same_origin(one: httpx2.URL, other: httpx2.URL) -> bool:
    """Tell whether two URLs have the same scheme, host and port."""
    return origin_of(one) == origin_of(other)


def is_usable(url: httpx2.URL) -> bool:
    """Tell whether a socket could be opened to a URL's host and port."""
    host = _HOST.fullmatch(url.raw_host) is not None
    port = url.port is None or 0 < url.port < 65536
    return url.scheme in ("http", "https") and host and port


def origin_of(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port: the unit that a token is sent to."""
    return url.scheme, url.host.lower(), url.port or {"http": 80, "https": 443}.get(url.scheme)
