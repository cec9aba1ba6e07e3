"""What the second tier of the KV cache may take of the host's memory: what nobody else needs.

It holds states of conversations that have lost their slot (engine/worker/kv_cache/host_cache.py).
It is refused to no load: it is what shrinks first.
"""

from localllm.core.sizing.load import LoadSettings

MAX_BYTES = 8 * 2**30
"""What it takes by itself, at most: some hundred long conversations of a model of 4B."""

_MAX_RESERVE_BYTES = 2 * 2**30
_RESERVED_PART = 10


def reserve_bytes(total_bytes: int) -> int:
    """Return what stays free of a memory of this size: a tenth of it, 2 GiB at most."""
    return min(_MAX_RESERVE_BYTES, total_bytes // _RESERVED_PART)


def pressure_limit(total_bytes: int, available_bytes: int, held_bytes: int) -> int:
    """Return the bytes that states may go on taking, of which they take `held_bytes`: all that is
    free but for the reserve."""
    return max(0, available_bytes + held_bytes - reserve_bytes(total_bytes))


def planned_limit(settings: LoadSettings, total_bytes: int, left_bytes: int) -> int:
    """Estimate the bytes that states may grow to beside a load that leaves `left_bytes` free of a
    memory of `total_bytes`."""
    if settings.embeddings:
        return 0
    return store_limit(total_bytes, max(0, left_bytes), cache_ram=settings.cache_ram)


def store_limit(
    total_bytes: int, available_bytes: int, held_bytes: int = 0, *, cache_ram: int | None = None
) -> int:
    """Return the bytes that states may grow to: half of what is free but for the reserve, or up to
    `cache_ram` bytes of it where a number is given."""
    free = pressure_limit(total_bytes, available_bytes, held_bytes)
    return min(MAX_BYTES, free // 2) if cache_ram is None else min(cache_ram, free)
