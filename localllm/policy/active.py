"""The policy of this process: read once, when the first door asks for it.

A process reads the files once, so that a load and the request after it are judged by the same
rules; a changed file holds from the next start.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from localllm.core.policy.policy import Policy, Refusal
from localllm.errors import OfflineByPolicy, PolicyRefused
from localllm.policy.policy_file import read_policy

_lock = threading.Lock()
_active: Policy | None = None


def active_policy() -> Policy:
    """Return the policy that holds in this process. Raises PolicyUnusable, each time anew."""
    global _active  # noqa: PLW0603  # one policy for the process
    with _lock:
        if _active is None:
            _active = read_policy()
        return _active


@contextmanager
def policy_in_use(policy: Policy) -> Iterator[None]:
    """Let another policy hold in this process for a while: for tests."""
    global _active  # noqa: PLW0603
    before, _active = _active, policy
    try:
        yield
    finally:
        _active = before


def require(refusal: Refusal | None) -> None:
    """Raise PolicyRefused, with its key, for a decision that is a refusal."""
    if refusal is not None:
        raise PolicyRefused(refusal.message, key=refusal.key)


def require_network() -> None:
    """Raise OfflineByPolicy when the policy switches the network off."""
    if (refusal := active_policy().allows_network()) is not None:
        raise OfflineByPolicy(refusal.message, key=refusal.key)
