"""Open the Hub for a verb: say on stderr whom it asks, before anybody is asked.

The HTTP client takes a moment to import, so that waits until the Hub is opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from localllm.cli.output import info, warn
from localllm.library.files import paths, settings

if TYPE_CHECKING:
    from localllm.library.hub.hub import Hub


@contextmanager
def open_hub(*, offline: bool, quiet: bool = False) -> Iterator["Hub"]:
    """Open the Hub as this user may ask it, and print its warnings afterwards.

    Raises Offline, saying what switched the network off, before anything is printed or tried.
    """
    from localllm.library.http.client import access_from, require_online
    from localllm.library.hub.hub import Hub

    allowed = access_from(settings.load(), offline=offline)
    require_online(allowed)
    if not quiet:
        hosts = " or ".join(urlsplit(each).netloc for each in allowed.endpoints)
        info(f"Asking {hosts} ...", dim=True)
    hub = Hub(allowed, cache_dir=paths.cache_dir())
    try:
        yield hub
    finally:
        for warning in hub.warnings:
            warn(warning)
