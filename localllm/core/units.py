"""Bytes, rates and durations as people write and read them.

Everywhere else a size is an int of bytes, a rate a float of tokens/s, a duration a float of
seconds; they become text, and sizes are parsed, only here. Memory is shown in binary units (GiB);
bandwidth in decimal ones (GB/s), as every data sheet prints it.
"""

import re
from decimal import Decimal

from localllm.errors import UsageError

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_PREFIXES = "kmgtpe"

MAX_BYTES = 2**63 - 1
"""The largest size that is accepted: what a signed 64-bit offset can hold."""

_MAX_DIGITS = 64  # of one number; keeps nonsense input from costing anything

_SIZE = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?:([{_PREFIXES}])(i?b)?|b)?", re.IGNORECASE)


def format_bytes(size_bytes: int) -> str:
    """Write a size in the largest binary unit that fits: "512 B", "6.4 GiB", "144 MiB"."""
    if size_bytes < 0:
        return f"-{format_bytes(-size_bytes)}"
    if size_bytes < 1024:
        return f"{size_bytes} B"
    return _scaled(size_bytes, 1024, _BINARY_UNITS)


def format_bandwidth(bytes_per_s: float) -> str:
    """Write a memory bandwidth as data sheets do, in decimal units: "936 GB/s"."""
    return f"{_scaled(bytes_per_s, 1000, _DECIMAL_UNITS)}/s"


def format_rate(tokens_per_s: float) -> str:
    """Write a rate: "0.42 tok/s", "12.3 tok/s", "1450 tok/s"."""
    digits = 2 if tokens_per_s < 1 else 1 if tokens_per_s < 100 else 0
    return f"{tokens_per_s:.{digits}f} tok/s"


def format_duration(seconds: float) -> str:
    """Write a duration in at most two units: "12 ms", "1.2 s", "1m 15s", "2h 3m", "3d 4h"."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return _two_units(round(seconds), 60, "m", "s")
    if seconds < 86_370:
        return _two_units(round(seconds / 60), 60, "h", "m")
    return _two_units(round(seconds / 3600), 24, "d", "h")


def parse_bytes(text: str) -> int:
    """Read a size: "16GiB", "16 GB", "1.5M", "4096".

    GB is 10**9 and GiB 2**30 bytes; a bare letter is binary, as everywhere memory is bought.
    A fraction of a byte is dropped. Raises UsageError.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(match[1]) > _MAX_DIGITS:
        raise _unreadable(text, "a size", "16GiB, 512MiB or 8GB")
    prefix, suffix = (match[2] or "").lower(), (match[3] or "").lower()
    base = 1000 if suffix == "b" else 1024
    exponent = _PREFIXES.index(prefix) + 1 if prefix else 0
    size = int(Decimal(match[1]) * base**exponent)
    if size > MAX_BYTES:
        raise UsageError(
            f"{_quoted(text)} is more than a computer can address ({format_bytes(MAX_BYTES)}). "
            "Give a size such as 16GiB."
        )
    return size


def parse_swap_bytes(text: str) -> int | None:
    """Read a size, or "auto": None. Raises UsageError."""
    return None if text.strip().lower() == "auto" else parse_bytes(text)


def parse_keep_alive(text: str) -> float:
    """Read how long a model stays in memory: "5m", "1h30m", "300" (seconds), "0"; a negative one is
    for ever (infinity), as Ollama reads it. Raises UsageError."""
    text = text.strip()
    body = text.removeprefix("-")
    try:
        seconds = float(body) if _NUMBER.fullmatch(body) else None
    except OverflowError:
        seconds = None
    if seconds is None and _DURATION.fullmatch(body):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(body))
    if seconds is None:
        raise _unreadable(text, "a time to keep a model", "10m, 1h30m, 300 (seconds), 0 or -1")
    return float("inf") if text.startswith("-") and seconds else seconds


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+", re.ASCII)
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    """Write `value` in the unit that keeps the rounded number below `base`."""
    for unit in units[:-1]:
        if value < 99.95:
            return f"{value:.1f} {unit}"
        if value < base - 0.5:
            return f"{value:.0f} {unit}"
        value /= base
    return f"{value:.1f} {units[-1]}"


def _two_units(count: int, per: int, large: str, small: str) -> str:
    whole, rest = divmod(count, per)
    return f"{whole}{large} {rest}{small}" if rest else f"{whole}{large}"


def _quoted(text: str) -> str:
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return repr(shown)


def _unreadable(text: str, what: str, examples: str) -> UsageError:
    return UsageError(f"Cannot read {_quoted(text)} as {what}. Write it like {examples}.")
