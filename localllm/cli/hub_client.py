"""Verbs that ask the Hub: the sentence before the first request, and the client that sends it."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from localllm.cli.library_output import warn
from localllm.cli.output import literal, stderr
from localllm.library.files import paths, settings
from localllm.library.http.client import access_from, require_online
from localllm.library.hub.hub import Hub


@contextmanager
def asked(*, offline: bool, quiet: bool = False) -> Iterator[Hub]:
    """Give the Hub as this user may ask it. Who will be asked is said on stderr before anybody is,
    and what the Hub had to say of how it was asked afterwards.

    Raises Offline, saying what switched the network off, before anything is tried or said.
    """
    allowed = access_from(settings.load(), offline=offline)
    require_online(allowed)
    if not quiet:
        hosts = " or ".join(urlsplit(each).netloc for each in allowed.endpoints)
        stderr().print(literal(f"Asking {hosts} ...", style="dim"), soft_wrap=True)
    hub = Hub(allowed, cache_dir=paths.cache_dir())
    try:
        yield hub
    finally:
        for warning in hub.warnings:
            warn(warning)
