"""The proxy of a request: found in the environment or the system's settings, and named in messages.

Apart from `client.py`, because a failure behind a proxy must not be blamed on the server: a message
names the proxy, without its password, and the variable that it is set in.
"""

import ipaddress
import os
import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from localllm.core.text import single_line
from localllm.errors import UsageError
from localllm.library.http.hosts import is_loopback
from localllm.library.http.urls import (
    printable_url,
)

_LOGIN = re.compile(r"\b407\b")
_MAX_REASON = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy's address, which may hold a password, and the variable that it is set in."""

    url: str = field(repr=False)
    origin: str

    def __str__(self) -> str:
        return f"the proxy {printable_url(self.url)} ({self.origin})"


class ProxyFailed(httpx2.ProxyError):
    """A request did not get past its proxy; the message says which and why."""


def proxy_for(url: httpx2.URL, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy that the environment (or the system) sets for a URL, None for none.

    NO_PROXY may hold names, `.suffixes`, addresses, networks (`10.0.0.0/8`) and `*`. This machine
    is never reached through a proxy.
    """
    proxies = urllib.request.getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(scheme)
    # urllib's bypass knows names and suffixes; networks (10.0.0.0/8) are ours to check.
    if not proxy or is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    if any(_in_network(url.host, each.strip()) for each in proxies.get("no", "").split(",")):
        return None
    return Proxy(url=_with_scheme(proxy), origin=_origin(f"{scheme}_proxy", environment))


def _with_scheme(proxy: str) -> str:
    if "://" not in proxy:
        return f"http://{proxy}"
    # GNOME's settings write socks:// where SOCKS5 is meant.
    return f"socks5{proxy[5:]}" if proxy.lower().startswith("socks://") else proxy


def _origin(name: str, environment: Mapping[str, str]) -> str:
    """Name the variable as it is written in the environment; small letters win in urllib."""
    written = (name, *(each for each in environment if each.lower() == name))
    found = next((each for each in written if environment.get(each)), None)
    return found or "the system's settings"


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def open_proxy_transport(proxy: Proxy, context: ssl.SSLContext) -> httpx2.HTTPTransport:
    """Open the transport of a proxy. Raises UsageError for an address that cannot be used."""
    try:
        return httpx2.HTTPTransport(verify=context, proxy=proxy.url)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        how = "give an http://, https:// or socks5:// address"
        if isinstance(error, ImportError):
            how = "SOCKS needs the Python package socksio (pip install socksio)"
        raise UsageError(
            f"The proxy {printable_url(proxy.url)!r} of {proxy.origin} cannot be used: {how}, or"
            " name the host in NO_PROXY."
        ) from error


def proxy_failure(proxy: Proxy, error: httpx2.TransportError, reason: str) -> ProxyFailed | None:
    """Return the error of a request that did not get past its proxy; None for every other one.

    `reason` describes `error` without a proxy.
    """
    match error:
        case httpx2.ProxyError():
            stated = single_line(str(error))[:_MAX_REASON]
            if _LOGIN.search(stated):
                return wants_login(proxy)
            return ProxyFailed(f"{proxy} refused the connection ({stated})")
        case httpx2.ConnectTimeout() | httpx2.ConnectError():
            return ProxyFailed(f"{reason}, through {proxy}")
    return None


def wants_login(proxy: Proxy) -> ProxyFailed:
    """Return the error of a proxy that wants a name and a password (407)."""
    return ProxyFailed(f"{proxy} wants a login (407); write it as SCHEME://USER:PASSWORD@HOST:PORT")
