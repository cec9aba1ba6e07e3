"""The one place that makes an HTTP client, and so the one that can switch the network off.

Whatever leaves this machine passes `_Gate`, below the client, its redirects and huggingface_hub:
it opens nothing while the network is off, sends GET and HEAD with a short list of headers, and
gives the token to an endpoint's own origin only. `CONNECTIONS` lists everything that can pass.
"""

import logging
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path

import httpx2

from localllm.core.text import single_line
from localllm.errors import HubError, Offline, UsageError
from localllm.library.files import paths
from localllm.library.files.settings import Settings
from localllm.library.http import token
from localllm.library.http.urls import (
    DEFAULT_ENDPOINT,
    checked_endpoint,
    is_loopback,
    is_usable,
    origin_of,
    proxy_for,
)
from localllm.library.http.urls import file_url as file_url
from localllm.library.http.urls import same_origin as same_origin
from localllm.library.http.urls import shown_url as shown_url

CONNECT_S = 10.0
READ_S = 30.0
"""A server that sends nothing for so long has stalled."""

_TIMEOUTS = {"connect": CONNECT_S, "read": READ_S, "write": READ_S, "pool": READ_S}
_METHODS = ("GET", "HEAD")
_SENT = ("host", "accept", "connection", "range", "if-range")
"""Headers that pass as they were given; the gate writes the others that leave the machine."""
_TALKATIVE = ("httpx2", "httpcore2")
"""Their lower levels log addresses with signatures and whole headers."""
_ON = ("1", "on", "yes", "true")  # as huggingface_hub reads HF_HUB_OFFLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the network may be used.

    `endpoints` are tried in order, without a slash at the end. `offline` says who switched the
    network off ("--offline"), None: it is on. `token` is sent to the endpoints; while it is None
    `find_token` is asked, and only when a request to an endpoint is about to leave. `ca_file`
    holds certificates that are trusted beside the system's.
    """

    endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    offline: str | None = None
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    find_token: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)

    def bearer(self) -> str | None:
        """The token to send, or None. Raises UsageError for one that cannot be sent."""
        if self.token is not None or self.find_token is None:
            return self.token
        return self.find_token()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection the program can make: the verbs that cause it, and all that is sent."""

    purpose: str
    verbs: tuple[str, ...]
    host: str
    request: str
    sent: str


_ENDPOINT = "the endpoint (huggingface.co, HF_ENDPOINT or [hub] endpoints)"
_CDN = "where the endpoint's answer leads (its CDN)"
_ALWAYS = "User-Agent localllm/VERSION"
_TOKEN = f"{_ALWAYS}; the token, if there is one"
_METADATA = ("pull", "show", "size", "suggest")

CONNECTIONS: tuple[Connection, ...] = (
    Connection(
        purpose="find repositories",
        verbs=("search",),
        host=_ENDPOINT,
        request="GET /api/models",
        sent=f"the words searched for; {_TOKEN}",
    ),
    Connection(
        purpose="list a repository's files and their hashes",
        verbs=_METADATA,
        host=_ENDPOINT,
        request="GET /api/models/{repo}, GET /api/models/{repo}/revision/{revision}",
        sent=f"the repository's name and revision; {_TOKEN}",
    ),
    Connection(
        purpose="ask where a file is, or read a small one",
        verbs=_METADATA,
        host=_ENDPOINT,
        request="GET /{repo}/resolve/{commit}/{file}",
        sent=f"the file's name and a byte range; {_TOKEN}",
    ),
    Connection(
        purpose="read a model's header, or download a file",
        verbs=_METADATA,
        host=_CDN,
        request="GET the address that the endpoint gave",
        sent=f"a byte range; {_ALWAYS}; never the token",
    ),
)
"""Every connection to another machine that localllm can make. There are no others."""


def access(
    settings: Settings,
    *,
    offline: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Access:
    """How this user lets the network be used; `offline` is the verb's own option.

    HF_ENDPOINT takes the place of the settings' endpoints. Raises UsageError for an endpoint that
    is no http(s) address.
    """
    chosen = environment.get("HF_ENDPOINT", "").strip()
    listed = (chosen,) if chosen else settings.endpoints or (DEFAULT_ENDPOINT,)
    origin = "HF_ENDPOINT" if chosen else "[hub] endpoints"
    return Access(
        endpoints=tuple(checked_endpoint(each, origin) for each in listed),
        offline=_switched_off_by(settings, offline, environment),
        ca_file=paths.absolute(Path(settings.ca_cert)) if settings.ca_cert else None,
        find_token=lambda: token.find(environment),
    )


def open_client(
    access: Access,
    *,
    follow_redirects: bool = False,
    around: Callable[[httpx2.BaseTransport], httpx2.BaseTransport] | None = None,
) -> httpx2.Client:
    """Make the client for everything that leaves this machine. Close it when done.

    Redirects are shown to the caller unless `follow_redirects`; `around` may be stricter still
    with what comes and goes. Raises Offline before anything is
    opened while the network is off, UsageError for certificates that cannot be read. Its requests
    raise httpx2's errors, HubError for an address that must not be asked, UsageError for a proxy
    that cannot be used.
    """
    require_online(access)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    gate = _Gate(access, _certificates(access.ca_file))
    return httpx2.Client(
        transport=around(gate) if around else gate,
        follow_redirects=follow_redirects,
        trust_env=False,
    )


def require_online(access: Access) -> None:
    """Raise Offline when the network is switched off."""
    if access.offline is not None:
        raise Offline(
            f"This needs the Hub and the network is switched off ({access.offline}). Nothing was"
            " tried. Switch it on, or use a model that is installed (localllm ls)."
        )


def problem(error: httpx2.HTTPError) -> str:
    """What went wrong with a request, for a message: never an address, a header or a token."""
    match error:
        case httpx2.ConnectTimeout():
            return f"no connection within {CONNECT_S:g} s"
        case httpx2.TimeoutException():
            return f"nothing came for {READ_S:g} s"
        case httpx2.ConnectError() if "CERTIFICATE_VERIFY" in str(error):
            return (
                "its certificate is not trusted here; behind a proxy that looks into connections,"
                " name the proxy's certificate in settings.toml ([hub] ca_cert)"
            )
        case httpx2.ConnectError():
            return f"no connection: {_system_reason(error)}"
        case httpx2.NetworkError():
            return f"the connection broke: {_system_reason(error)}"
        case httpx2.ProxyError():
            return "the proxy refused the connection"
        case httpx2.RemoteProtocolError():
            return "the answer broke off or is no HTTP"
        case httpx2.TooManyRedirects():
            return "it leads from one address to the next without end"
    return type(error).__name__


def retry_after_s(headers: httpx2.Headers, *, now: datetime | None = None) -> float | None:
    """The seconds a server asks to wait (`Retry-After`: seconds or an HTTP date), not negative.

    None when it does not say, or says what is neither.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        until = parsedate_to_datetime(text)
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):
        return None


def bounded(timeouts: Mapping[str, float | None]) -> dict[str, float]:
    """Timeouts that end, in httpx2's words: huggingface_hub asks to wait for ever (None)."""
    return {name: timeouts.get(name) or most for name, most in _TIMEOUTS.items()}


class _Gate(httpx2.BaseTransport):
    """Where every request leaves: what is not meant to leave stops here.

    Chooses the way (direct, or through the environment's proxy; never a proxy to this machine)
    and writes the headers itself, so that a redirect or a library on top adds nothing.
    """

    def __init__(self, access: Access, certificates: ssl.SSLContext) -> None:
        self._access = access
        self._certificates = certificates
        self._origins = {origin_of(httpx2.URL(each)) for each in access.endpoints}
        self._local = any(is_loopback(host) for _, host, _ in self._origins)
        self._ways: dict[str | None, httpx2.HTTPTransport] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        require_online(self._access)
        self._require_allowed(request)
        timeouts = bounded(request.extensions.get("timeout", {}))
        leaving = httpx2.Request(
            request.method,
            request.url,
            headers=self._headers(request),
            stream=request.stream,
            extensions={**request.extensions, "timeout": timeouts},
        )
        return self._way(proxy_for(request.url)).handle_request(leaving)

    def close(self) -> None:
        for way in self._ways.values():
            way.close()

    def _headers(self, request: httpx2.Request) -> dict[str, str]:
        headers = {name: request.headers[name] for name in _SENT if name in request.headers}
        headers["user-agent"] = f"localllm/{version('localllm')}"
        headers["accept-encoding"] = "identity"
        if origin_of(request.url) in self._origins and (token := self._access.bearer()):
            headers["authorization"] = f"Bearer {token}"
        return headers

    def _require_allowed(self, request: httpx2.Request) -> None:
        url, where = request.url, shown_url(request.url)
        if request.method not in _METHODS:
            raise HubError(f"{request.method} {where} was not sent: only GET and HEAD may leave.")
        if not is_usable(url):
            raise HubError(f"The Hub's answer leads to {where}, which is no http(s) address.")
        if origin_of(url) in self._origins:
            return
        if is_loopback(url.host):
            if not self._local:
                raise HubError(f"The Hub's answer leads to {where}, a place on this machine.")
        elif url.scheme == "http":
            raise HubError(
                f"The Hub's answer leads to {where}, which is not encrypted. It was not asked."
            )

    def _way(self, proxy: str | None) -> httpx2.HTTPTransport:
        with self._lock:
            if proxy not in self._ways:
                self._ways[proxy] = self._open_way(proxy)
            return self._ways[proxy]

    def _open_way(self, proxy: str | None) -> httpx2.HTTPTransport:
        try:
            return httpx2.HTTPTransport(verify=self._certificates, proxy=proxy)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UsageError(
                f"The proxy {shown_url(proxy or '')!r} of the environment cannot be used: give"
                " an http:// or https:// address in HTTPS_PROXY, or name the host in NO_PROXY."
            ) from error


def _certificates(ca_file: Path | None) -> ssl.SSLContext:
    """The system's certificates (SSL_CERT_FILE instead, when it is set), and the user's own."""
    origin = "SSL_CERT_FILE or SSL_CERT_DIR"
    try:
        context = httpx2.create_ssl_context()
        if ca_file is not None:
            origin = f"[hub] ca_cert ({single_line(str(ca_file))})"
            context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        reason = "there is no certificate in it"
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            reason = error.strerror or reason
        raise UsageError(
            f"{origin} cannot be used: {reason}. Name a file in PEM format."
        ) from error
    return context


def _switched_off_by(
    settings: Settings, offline: bool, environment: Mapping[str, str]
) -> str | None:
    if offline:
        return "--offline"
    if settings.offline:
        return "LOCALLLM_OFFLINE" if "LOCALLLM_OFFLINE" in environment else "offline in settings"
    return "HF_HUB_OFFLINE" if environment.get("HF_HUB_OFFLINE", "").lower() in _ON else None


def _system_reason(error: httpx2.HTTPError) -> str:
    """The system's words for an error; they name no address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return single_line(cause.strerror)[:120]
        cause = cause.__cause__ or cause.__context__
    return "the other side closed it"
