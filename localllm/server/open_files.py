"""The number of files that this process may have open: each connection is one.

A system's default can be far below what a server needs (macOS: 256). Beyond it a connection cannot
be accepted, and an engine that has crashed cannot be started again.
"""

import sys

RESERVED = 128
"""For what is no connection: pipes to engines, model files, logs, sockets of uploads."""


def allow_connections(wanted: int) -> int:
    """Raise the soft limit of open files so that `wanted` connections fit, as far as the hard one
    lets it. Returns how many fit, `wanted` at most. Windows has no such limit."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    limit = raised_limit(
        wanted + RESERVED,
        soft=None if soft == unlimited else soft,
        hard=None if hard == unlimited else hard,
    )
    if limit is None:
        return wanted
    if limit != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):  # the system has a limit above the hard one's word
            limit = soft
    return connections_within(limit, wanted)


def raised_limit(wanted: int, *, soft: int | None, hard: int | None) -> int | None:
    """Return the soft limit to set for `wanted` files; None: there is none, and none is needed.
    A limit that is high enough stays."""
    if soft is None:
        return None
    return max(soft, wanted if hard is None else min(wanted, hard))


def connections_within(limit: int, wanted: int) -> int:
    """Return how many connections a limit of open files leaves room for: one at least."""
    return max(1, min(wanted, limit - RESERVED))
