"""What web pages could send: pure ASGI middleware around the routes, outermost last.

A web page can make its visitor's browser send requests to this machine. Four things stop it: the
Host header must name this server (a rebound DNS name does not: CVE-2024-28224), Origin and Sec-
Fetch-Site must not name another site, no answer has a CORS header, and all paths but a few that
give nothing away (`OPEN_PATHS`) require a key (access/guard.py). Whoever starts the server can add
names of hosts, and origins whose pages may use it: those alone get CORS headers, and need a key
like everybody else. The guards raise; `ErrorMiddleware` writes the error in the envelope of the
dialect whose path was requested.
"""

import ipaddress
import logging
import re
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.server.errors import ApiError, unexpected_error

MAX_HEADER_BYTES = 32 * 1024

logger = logging.getLogger("localllm.server")

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]{0,31})://(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?/?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_name(text: str) -> str:
    """Check the name of a host that requests may give in their Host header. Raises UsageError."""
    match = _HOST.fullmatch(text)
    if match is None or match[2] is not None:
        raise UsageError(
            f"{single_line(text)[:80]!r} is not a name of a host that can be allowed. Give the "
            "name alone, without a port and without *: host.docker.internal"
        )
    name = match[1].strip("[]").lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def cors_origin(text: str) -> str:
    """Check an origin whose pages may use the server, and write it as a browser does. Raises
    UsageError, also for * and null, which stand for pages that nobody has named."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or int(match[3] or 0) > 65535:
        raise UsageError(
            f"{single_line(text)[:80]!r} is not an origin that can be allowed. Give scheme, host "
            "and port as the browser's address bar has them, without * and without a path: "
            "http://localhost:3000"
        )
    scheme, host, port = match[1], match[2], match[3]
    return f"{scheme}://{host}" + (
        f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else ""
    )


CONTAINER_HOSTS = (
    "gateway.docker.internal",
    "host.containers.internal",
    "host.docker.internal",
    "host.lima.internal",
    "host.minikube.internal",
)
"""This machine's names inside containers of Docker, Podman, Lima and minikube. Nobody can register
them (`.internal` is reserved), but who answers a laptop's DNS questions can make them lead
anywhere: they are names of a server that asks for a key, and of another one only when its owner
says so."""


def server_names(names: Iterable[str], *, has_key: bool) -> tuple[str, ...]:
    """Return the names that a Host header may have: those given, and with a key containers'."""
    return (*names, *(CONTAINER_HOSTS if has_key else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """The names that a Host header may have: `localhost`, loopback addresses, and `names`.

    `any_address` also lets every IP address through, for a server that listens on all of them:
    an address, unlike a name, cannot be rebound.
    """

    names: frozenset[str] = frozenset()
    any_address: bool = False

    @classmethod
    def bound_to(cls, address: str, names: Iterable[str] = ()) -> "HostPolicy":
        """Make the policy of a server on `address` (an IP), also known by `names`."""
        bound = ipaddress.ip_address(address.partition("%")[0])
        return cls(
            names=frozenset({str(bound), *(name.lower() for name in names if name)}),
            any_address=bound.is_unspecified,
        )

    def allows(self, host: str) -> bool:
        """Check a whole Host header; its port may be any (tunnels, containers)."""
        match = _HOST.fullmatch(host)
        if match is None or int(match[2] or 0) > 65535:
            return False
        name = match[1].strip("[]").lower().removesuffix(".")
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback or str(address) in self.names


class HostGuard:
    """Refuse what a web page of another site could send: 403 before anything else is checked.

    Pages of `origins` are let through, and their preflights, which carry no key, answered here.
    """

    def __init__(
        self, app: ASGIApp, *, policy: HostPolicy, origins: Collection[str] = frozenset()
    ) -> None:
        self._app = app
        self._policy = policy
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = self._check(scope)
        method = _values(scope, b"access-control-request-method")
        preflight = allowed and scope["method"] == "OPTIONS" and method
        await (_preflight_response(scope) if preflight else self._app)(scope, receive, send)

    def _check(self, scope: Scope) -> bool:
        """Raise ApiError for what is refused. Returns True for a page of an allowed origin."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            raise ApiError(
                f"The headers are larger than {MAX_HEADER_BYTES} bytes.",
                status=431,
                code="headers_too_large",
            )
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not self._policy.allows(hosts[0]):
            raise _forbidden(_unknown_host(hosts), "host_not_allowed")
        if _allowed_origin(scope, self._origins) is not None:
            return True
        # Our own address as a browser writes it; every other origin, "null" included, is foreign.
        own = f"{scope['scheme']}://{hosts[0]}".lower()
        origins = _values(scope, b"origin")
        if any(origin.lower() != own for origin in origins):
            raise _forbidden(_unknown_origin(origins[0]), "origin_not_allowed")
        sites = _values(scope, b"sec-fetch-site")
        if any(site not in ("same-origin", "none") for site in sites) and not _follows_link(scope):
            raise _forbidden("Web pages of other sites may not use it.", "origin_not_allowed")
        return False


def _follows_link(scope: Scope) -> bool:
    """Return True for a link to the chat page on somebody's site, opened as a page of its own: what
    is at `/` is the same for everybody, and the site cannot read it."""
    return (
        scope["path"] == "/"
        and scope["method"] == "GET"
        and _values(scope, b"sec-fetch-mode") == ["navigate"]
        and _values(scope, b"sec-fetch-dest") == ["document"]
    )


class CorsMiddleware:
    """Let pages of `origins` read every answer to them, errors included: it is the outermost."""

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = _allowed_origin(scope, self._origins) if scope["type"] == "http" else None

        async def readable(message: Message) -> None:
            if origin is not None and message["type"] == "http.response.start":
                headers = [
                    (b"access-control-allow-origin", origin.encode("ascii")),
                    (b"access-control-expose-headers", _EXPOSED_HEADERS),
                    (b"vary", b"Origin"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, send if origin is None else readable)


_EXPOSED_HEADERS = (
    b"x-localllm-ignored, x-localllm-warnings, x-request-id, request-id, retry-after, "
    b"www-authenticate"
)
_PREFLIGHT_AGE_S = 600


def _allowed_origin(scope: Scope, allowed: Collection[str]) -> str | None:
    """Return the origin of the page that sends this request, if it is one of those allowed."""
    origins = [origin.lower() for origin in _values(scope, b"origin")]
    return origins[0] if len(origins) == 1 and origins[0] in allowed else None


def _preflight_response(scope: Scope) -> Response:
    """Allow what the page asks for: which headers it sends decides nothing here."""
    headers = {
        "access-control-allow-methods": "GET, HEAD, POST, DELETE",
        "access-control-max-age": str(_PREFLIGHT_AGE_S),
    }
    if requested := _values(scope, b"access-control-request-headers"):
        headers["access-control-allow-headers"] = ", ".join(requested)
    if _values(scope, b"access-control-request-private-network") == ["true"]:
        headers["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=headers)


def _unknown_host(hosts: list[str]) -> str:
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return "The Host header does not name this server. Use localhost or 127.0.0.1."
    name = match[1]
    return (
        f"The Host header names {name}, which is not a name of this server: a web page could have "
        f"sent this. Use localhost or 127.0.0.1; or, if {name} is this machine (as "
        f"host.docker.internal is inside a container), start the server with --allowed-host {name} "
        "or add it to `allowed_hosts` in the [serve] table of settings.toml."
    )


def _unknown_origin(origin: str) -> str:
    message = "Web pages of other origins may not use it."
    try:
        own = cors_origin(origin)
    except UsageError:
        return message
    return (
        f"{message} To allow this one, start the server with --cors-origin {own} or add it to "
        "`cors_origins` in the [serve] table of settings.toml."
    )


class ErrorMiddleware:
    """The outermost layer: answer with the errors of the guards, and with 500 for any other.

    The traceback of an unexpected one goes to the log without its message and values, which may
    hold somebody's prompt. `error_response` writes an error for a path.
    """

    def __init__(
        self, app: ASGIApp, *, error_response: Callable[[ApiError, str], Response]
    ) -> None:
        self._app = app
        self._error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no lifespan, no WebSocket: uvicorn closes what is not answered
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
            return
        except ApiError as refused:
            error = refused
        except Exception as unexpected:  # noqa: BLE001 - the last middleware: nothing is behind it
            frames = "".join(traceback.format_tb(unexpected.__traceback__))
            logger.error("unexpected %s\n%s", type(unexpected).__name__, frames)
            error = unexpected_error()
        if not started:
            await self._error_response(error, scope["path"])(scope, receive, send)


def _forbidden(message: str, code: str) -> ApiError:
    return ApiError(message, status=403, code=code)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
