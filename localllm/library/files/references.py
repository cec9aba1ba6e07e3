"""Read what a person writes or pastes as a model's name, with this user's mirrors among the hosts.

Apart from `core/reference.py`, which knows no environment and no settings.
"""

import contextlib
import os
from urllib.parse import urlsplit

from localllm.core import reference
from localllm.core.reference import HUB_HOSTS, Reference
from localllm.errors import LocalLLMError
from localllm.library.files import settings


def read_reference(text: str, quant: str | None = None) -> Reference:
    """Read a name as `core.reference.read_reference` does. Raises UsageError."""
    return reference.read_reference(text, quant, hosts=_hosts(text))


def is_hub_link(text: str) -> bool:
    """Tell whether `text` was pasted: a link to the Hub or to one of this user's mirrors."""
    return reference.is_hub_link(text, hosts=_hosts(text))


def names_hub(text: str) -> bool:
    """Tell whether `text` is written as a repository of the Hub, or is a link to one."""
    return reference.is_repository(text.partition(":")[0]) or is_hub_link(text)


def _hosts(text: str) -> tuple[str, ...]:
    """Return the hosts whose links count; the settings are read only for what may be a link."""
    rest = text.partition("://")[2] or text
    host, slash, _ = rest.partition("/")
    if not slash or not ("." in host or ":" in host):
        return HUB_HOSTS
    endpoints = [os.environ.get("HF_ENDPOINT", "")]
    with contextlib.suppress(LocalLLMError):  # whoever needs the settings says what is wrong
        endpoints += settings.load().endpoints
    hosts = (urlsplit(each).netloc.rpartition("@")[2].lower() for each in endpoints)
    return (*HUB_HOSTS, *filter(None, hosts))
