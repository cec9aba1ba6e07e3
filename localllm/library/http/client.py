"""The only place that makes an HTTP client, and so the one that can switch the network off.

Every request to another machine passes `_OutboundTransport`. It sits below the client, its
redirects and huggingface_hub, where none of them can bypass it: it opens no connection while the
network is off, sends GET and HEAD with a short list of headers, and gives the token to an
endpoint's own origin only. `OUTBOUND_REQUESTS` lists everything that may pass.
"""

import logging
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from localllm.core.text import single_line
from localllm.errors import HubError, Offline
from localllm.library.files import paths
from localllm.library.files.settings import Settings, offline_switch
from localllm.library.http import token
from localllm.library.http.certificates import certificate_problem, ssl_context
from localllm.library.http.connection_file import Purpose
from localllm.library.http.hosts import is_loopback
from localllm.library.http.ledger import Exchange, NetworkLedger, process_ledger
from localllm.library.http.proxies import (
    Proxy,
    ProxyFailed,
    open_proxy_transport,
    proxy_failure,
    proxy_for,
    wants_login,
)
from localllm.library.http.urls import (
    DEFAULT_ENDPOINT,
    checked_endpoint,
    is_usable,
    origin_of,
    printable_url,
)
from localllm.policy.active import active_policy, require, require_network

CONNECT_S = 10.0
READ_S = 30.0
"""A server that sends nothing for this long has stalled."""

_TIMEOUTS = {"connect": CONNECT_S, "read": READ_S, "write": READ_S, "pool": READ_S}
_METHODS = ("GET", "HEAD")
_PROXY_LOGIN = 407
_PASSED_HEADERS = ("host", "accept", "connection", "range", "if-range")
"""Headers that pass unchanged; the outbound transport writes all others itself."""
_REPOSITORY = re.compile(r"/api/models/([^/]+/[^/]+)|/([^/]+/[^/]+)/resolve/")
_SEARCH_PATH = "/api/models"
_VERBOSE_LOGGERS = ("httpx2", "httpcore2")
"""Below WARNING they log URLs with signatures and whole headers."""


class OfflineSwitch:
    """Switches the network of this process off at once: clients that are open, and transfers that
    run, as well. `reason` names who did; None: it is on, as far as this switch goes."""

    def __init__(self) -> None:
        self.reason: str | None = None


PROCESS_SWITCH = OfflineSwitch()
"""The switch of this process; the app turns it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The permission to use the network: offline or not, endpoints, proxies, certificates.

    `endpoints` are tried in order; none ends in a slash. `offline` names what switched the network
    off ("--offline"), None: it is on. `token` is sent to the endpoints; while it is None
    `find_token` is called, and only when a request to an endpoint is about to be sent: a keyring
    may ask for a password. `ca_file` holds certificates that are trusted beside the system's.
    Every request is recorded in `ledger`, and none is sent while `switch` is off.
    """

    endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    offline: str | None = None
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    find_token: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)
    ledger: NetworkLedger = field(default_factory=process_ledger, repr=False, compare=False)
    switch: OfflineSwitch = field(default=PROCESS_SWITCH, repr=False, compare=False)

    def bearer(self) -> str | None:
        """Return the token to send, or None. Raises UsageError for one that cannot be sent."""
        if self.token is not None or self.find_token is None:
            return self.token
        return self.find_token()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """A kind of request that leaves this machine: the verbs that cause it, and all that is sent."""

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

OUTBOUND_REQUESTS: tuple[OutboundRequest, ...] = (
    OutboundRequest(
        purpose="find repositories",
        verbs=("search",),
        host=_ENDPOINT,
        request="GET /api/models",
        sent=f"the words searched for; {_TOKEN}",
    ),
    OutboundRequest(
        purpose="list a repository's files and their hashes",
        verbs=_METADATA,
        host=_ENDPOINT,
        request="GET /api/models/{repo}, GET /api/models/{repo}/revision/{revision}",
        sent=f"the repository's name and revision; {_TOKEN}",
    ),
    OutboundRequest(
        purpose="ask where a file is, or read a small one",
        verbs=_METADATA,
        host=_ENDPOINT,
        request="GET /{repo}/resolve/{commit}/{file}",
        sent=f"the file's name and a byte range; {_TOKEN}",
    ),
    OutboundRequest(
        purpose="read a model's header, or download a file",
        verbs=_METADATA,
        host=_CDN,
        request="GET the address that the endpoint gave",
        sent=f"a byte range; {_ALWAYS}; never the token",
    ),
    OutboundRequest(
        purpose="send traces of requests, when --otel-endpoint is given",
        verbs=("serve",),
        host="the collector that --otel-endpoint names",
        request="POST its address, /v1/traces (export.py)",
        sent=f"method, route, status, times, token counts, names of model and key, ids; {_ALWAYS}",
    ),
)
"""Every request that localllm can send to another machine. There are no others."""


def access_from(
    settings: Settings,
    *,
    offline: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Access:
    """Combine the user's settings and environment with a verb's own `offline` option.

    HF_ENDPOINT takes the place of the settings' endpoints. Raises UsageError for an endpoint that
    is no http(s) address.
    """
    chosen = environment.get("HF_ENDPOINT", "").strip()
    listed = (chosen,) if chosen else settings.endpoints or (DEFAULT_ENDPOINT,)
    origin = "HF_ENDPOINT" if chosen else "[hub] endpoints"
    return Access(
        endpoints=tuple(checked_endpoint(each, origin) for each in listed),
        offline="--offline" if offline else offline_switch(settings, environment),
        ca_file=paths.absolute(Path(settings.ca_cert)) if settings.ca_cert else None,
        find_token=lambda: token.find(environment),
    )


def open_client(
    access: Access,
    *,
    purpose: Purpose = Purpose.METADATA,
    follow_redirects: bool = False,
    wrap: Callable[[httpx2.BaseTransport], httpx2.BaseTransport] | None = None,
) -> httpx2.Client:
    """Make the client for every request that leaves this machine. Close it when done.

    `purpose` is what the ledger says its requests were for.
    Redirects are returned to the caller unless `follow_redirects`; `wrap` puts a stricter transport
    around the outbound one. Raises Offline while the network is off, before anything is opened,
    PolicyRefused
    for an endpoint that the policy does not allow, and UsageError for certificates that cannot be
    read. Its requests raise httpx2's errors,
    HubError for a URL that must not be requested, UsageError for a proxy that cannot be used.
    """
    require_online(access)
    for each in access.endpoints:
        require(active_policy().allows_endpoint(each))
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    transport = _OutboundTransport(access, purpose, ssl_context(access.ca_file))
    return httpx2.Client(
        transport=wrap(transport) if wrap else transport,
        follow_redirects=follow_redirects,
        trust_env=False,  # `proxy_for` reads the environment: it also knows networks in NO_PROXY
    )


def require_online(access: Access) -> None:
    """Raise Offline when the network is switched off, OfflineByPolicy when the policy did that."""
    require_network()
    if (switch := access.offline or access.switch.reason) is not None:
        raise Offline(
            f"This needs the Hub and the network is switched off ({switch}). Nothing was"
            " tried. Switch it on, or use a model that is installed (localllm ls)."
        )


def describe_error(error: httpx2.HTTPError) -> str:
    """Describe a failed request for a message, without URLs, headers and tokens."""
    match error:
        case ProxyFailed():
            return str(error)
        case httpx2.ConnectTimeout():
            return f"no connection within {CONNECT_S:g} s"
        case httpx2.TimeoutException():
            return f"nothing came for {READ_S:g} s"
        case httpx2.ConnectError() if (problem := certificate_problem(error)) is not None:
            return problem
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


def bounded_timeouts(timeouts: Mapping[str, float | None]) -> dict[str, float]:
    """Replace missing and endless timeouts by ours: huggingface_hub asks for none (None)."""
    return {name: timeouts.get(name) or maximum for name, maximum in _TIMEOUTS.items()}


class _OutboundTransport(httpx2.BaseTransport):
    """Refuses every request that is not meant to leave this machine, and sends the others.

    Chooses the route (direct, or through the environment's proxy; never a proxy to this machine)
    and writes the headers itself, so that a redirect or a library on top adds nothing.
    """

    def __init__(self, access: Access, purpose: Purpose, ssl_context: ssl.SSLContext) -> None:
        self._access = access
        self._purpose = purpose
        self._ssl_context = ssl_context
        self._origins = {origin_of(httpx2.URL(each)) for each in access.endpoints}
        self._local = any(is_loopback(host) for _, host, _ in self._origins)
        self._by_proxy: dict[Proxy | None, httpx2.HTTPTransport] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        require_online(self._access)
        self._require_allowed(request)
        timeouts = bounded_timeouts(request.extensions.get("timeout", {}))
        outbound = httpx2.Request(
            request.method,
            request.url,
            headers=self._headers(request),
            stream=request.stream,
            extensions={**request.extensions, "timeout": timeouts},
        )
        return self._send_recorded(outbound, proxy_for(request.url))

    def _send_recorded(self, request: httpx2.Request, proxy: Proxy | None) -> httpx2.Response:
        is_endpoint = origin_of(request.url) in self._origins
        path = request.url.path if is_endpoint else ""
        exchange = self._access.ledger.begin(
            request.url.host,
            Purpose.SEARCH if path.endswith(_SEARCH_PATH) else self._purpose,
            name=repository_in(path),
            proxy=None if proxy is None else urlsplit(proxy.url).hostname,
        )
        try:
            response = self._send(request, proxy)
        except BaseException as error:
            # Without a connection nothing of the request has left.
            if not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | ProxyFailed):
                exchange.sent(_request_bytes(request))
            exchange.end(failed=True)
            raise
        exchange.sent(_request_bytes(request))
        exchange.received(sum(len(name) + len(value) + 4 for name, value in response.headers.raw))
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_RecordedBody(response, exchange, self._access),
            extensions=response.extensions,
        )

    def _send(self, request: httpx2.Request, proxy: Proxy | None) -> httpx2.Response:
        """Send a request; a failure before its proxy names the proxy and not the server."""
        transport = self._transport_for(proxy)
        if proxy is None:
            return transport.handle_request(request)
        try:
            response = transport.handle_request(request)
        except httpx2.TransportError as error:
            is_servers = certificate_problem(error) is not None
            failed = None if is_servers else proxy_failure(proxy, error, describe_error(error))
            raise (failed or error) from error
        if response.status_code == _PROXY_LOGIN:
            response.close()
            raise wants_login(proxy)
        return response

    def close(self) -> None:
        for transport in self._by_proxy.values():
            transport.close()
        self._access.ledger.flush()

    def _headers(self, request: httpx2.Request) -> dict[str, str]:
        headers = {
            name: request.headers[name] for name in _PASSED_HEADERS if name in request.headers
        }
        headers["user-agent"] = f"localllm/{version('localllm')}"
        headers["accept-encoding"] = "identity"
        # By origin and not by host: a redirect to another port or to http is another server.
        if origin_of(request.url) in self._origins and (token := self._access.bearer()):
            headers["authorization"] = f"Bearer {token}"
        return headers

    def _require_allowed(self, request: httpx2.Request) -> None:
        url, where = request.url, printable_url(request.url)
        if request.method not in _METHODS:
            raise HubError(f"{request.method} {where} was not sent: only GET and HEAD may leave.")
        if not is_usable(url):
            raise HubError(f"The Hub's answer leads to {where}, which is no http(s) address.")
        if origin_of(url) in self._origins:
            return
        # A mirror on this machine may redirect within it; the Hub must not reach local services.
        if is_loopback(url.host):
            if not self._local:
                raise HubError(f"The Hub's answer leads to {where}, a place on this machine.")
        elif url.scheme == "http":
            raise HubError(
                f"The Hub's answer leads to {where}, which is not encrypted. It was not asked."
            )

    def _transport_for(self, proxy: Proxy | None) -> httpx2.HTTPTransport:
        with self._lock:
            if proxy not in self._by_proxy:
                self._by_proxy[proxy] = (
                    httpx2.HTTPTransport(verify=self._ssl_context)
                    if proxy is None
                    else open_proxy_transport(proxy, self._ssl_context)
                )
            return self._by_proxy[proxy]


class _RecordedBody(httpx2.SyncByteStream):
    """A response's body, counted in the ledger; it ends when the network is switched off."""

    def __init__(self, response: httpx2.Response, exchange: Exchange, access: Access) -> None:
        self._response = response
        self._exchange = exchange
        self._access = access

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._response.iter_raw():
            self._exchange.received(len(piece))
            require_online(self._access)
            yield piece

    def close(self) -> None:
        self._response.close()
        self._exchange.end()


def repository_in(path: str) -> str | None:
    """Return the repository that a path of the Hub's API or of a file names, None for none."""
    found = _REPOSITORY.search(path)
    return None if found is None else found[1] or found[2]


def _request_bytes(request: httpx2.Request) -> int:
    """Return the length of a request as HTTP/1.1 writes it; none that passes here has a body."""
    line = len(request.method) + len(request.url.raw_path) + len(" HTTP/1.1\r\n ")
    return line + sum(len(name) + len(value) + 4 for name, value in request.headers.raw) + 2


def _system_reason(error: httpx2.HTTPError) -> str:
    """Return the operating system's text for an error: unlike httpx2's it names no URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return single_line(cause.strerror)[:120]
        cause = cause.__cause__ or cause.__context__
    return "the other side closed it"
