"""Verbs that ask the Hub: the sentence before the first request, and the client that sends it."""

from urllib.parse import urlsplit

from localllm.cli.output import outside, stderr
from localllm.library import paths, settings
from localllm.library.hub import Hub
from localllm.library.network import Access, access, require_online


def hub_access(*, offline: bool, quiet: bool = False) -> Access:
    """How the network may be used by this verb, and who will be asked, said on stderr.

    Raises Offline, saying what switched the network off, before anything is tried or said.
    """
    allowed = access(settings.load(), offline=offline)
    require_online(allowed)
    if not quiet:
        hosts = " or ".join(urlsplit(each).netloc for each in allowed.endpoints)
        stderr().print(outside(f"Asking {hosts} ...", style="dim"), soft_wrap=True)
    return allowed


def hub_of(allowed: Access) -> Hub:
    """The Hub as this user may ask it; headers are kept in the cache."""
    return Hub(allowed, cache_dir=paths.cache_dir())
