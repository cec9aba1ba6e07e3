"""The one request that sends something of ours: traces, to the collector that the user has named.

It is apart from `client.py`, whose transport lets only GET and HEAD pass. Here only POST passes, to
one address, with no header that the caller chose; redirects are not followed.
"""

import contextlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import httpx2

from localllm.errors import HubError, Offline, UsageError
from localllm.library.files import paths
from localllm.library.files.settings import Settings, offline_switch
from localllm.library.http.certificates import ssl_context
from localllm.library.http.client import PROCESS_SWITCH, bounded_timeouts, describe_error
from localllm.library.http.connection_file import Purpose
from localllm.library.http.hosts import is_loopback
from localllm.library.http.ledger import process_ledger
from localllm.library.http.proxies import open_proxy_transport, proxy_for
from localllm.library.http.urls import (
    checked_endpoint,
    printable_url,
)
from localllm.policy.active import require_network

_TRACES_PATH = "/v1/traces"
"""OTLP over HTTP: what follows the base of a collector's address."""


@contextlib.contextmanager
def open_exporter(endpoint: str, settings: Settings) -> Iterator[Callable[[bytes], None]]:
    """Open the way to the collector at `endpoint`; what is yielded sends one batch of spans.

    Raises UsageError for an address that cannot be used, Offline while the network is switched off
    and the collector is not on this machine. Sending raises HubError.
    """
    try:
        url = httpx2.URL(checked_endpoint(endpoint, "--otel-endpoint"))
    except UsageError as error:  # the example in its message is the Hub
        raise UsageError(
            f"{str(error).partition('. ')[0]}. Give the collector's, such as http://localhost:4318."
        ) from None
    if not url.path.endswith(_TRACES_PATH):
        url = url.copy_with(path=url.path.rstrip("/") + _TRACES_PATH)
    switch = offline_switch(settings)
    if not is_loopback(url.host):
        require_network()
    if switch is not None and not is_loopback(url.host):
        raise Offline(
            f"--otel-endpoint leads to {url.host}, and the network is switched off ({switch}). "
            "Name a collector on this machine, or leave it out."
        )
    ca_file: Path | None = paths.absolute(Path(settings.ca_cert)) if settings.ca_cert else None
    context = ssl_context(ca_file)
    proxy = proxy_for(url)
    transport = (
        httpx2.HTTPTransport(verify=context)
        if proxy is None
        else open_proxy_transport(proxy, context)
    )
    headers = {
        "host": url.netloc.decode("ascii"),
        "content-type": "application/x-protobuf",
        "user-agent": f"localllm/{version('localllm')}",
    }

    def post(body: bytes) -> None:
        request = httpx2.Request("POST", url, headers=headers, content=body)
        request.extensions["timeout"] = bounded_timeouts({})
        where = printable_url(url)
        if PROCESS_SWITCH.reason is not None and not is_loopback(url.host):
            raise HubError(f"Traces were not sent to {where}: the network is switched off.")
        exchange = process_ledger().begin(url.host, Purpose.TRACES)
        try:
            response = transport.handle_request(request)
            exchange.sent(len(body))
            with contextlib.closing(response):
                status = response.status_code
            exchange.end()
        except httpx2.HTTPError as error:
            exchange.end(failed=True)
            reason = describe_error(error)
            raise HubError(f"Traces could not be sent to {where}: {reason}.") from error
        if not 200 <= status < 300:
            raise HubError(f"{where} answered {status} to traces.")

    with transport:
        yield post
