"""W3C trace context: `traceparent` and `tracestate` of a request, checked, and passed on.

https://www.w3.org/TR/trace-context/ (level 1, 23 November 2021). What is not valid is as if it were
not there: a client's header may not cost it the answer.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(rf"{_KEY}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MAX_STATE_CHARS = 512
_MAX_MEMBERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """The trace that a request belongs to; `span_id` is the caller's span."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @property
    def sampled(self) -> bool:
        return bool(self.flags & 1)

    def traceparent(self, span_id: str | None = None) -> str:
        """Write the header, for the span `span_id` of ours or the caller's own."""
        return f"00-{self.trace_id}-{span_id or self.span_id}-{self.flags & 1:02x}"


def parse_traceparent(parents: Sequence[str], states: Sequence[str] = ()) -> TraceContext | None:
    """Read the headers of a request; None without a valid traceparent, of which there is one."""
    match = _TRACEPARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Later versions may have more behind the flags; version ff is forbidden, as are zeros.
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16):
        return None
    if not int(span_id, 16):
        return None
    return TraceContext(
        trace_id=trace_id, span_id=span_id, flags=int(flags, 16), state=_state(states)
    )


def _state(headers: Sequence[str]) -> str:
    """Join the tracestate headers; nothing of them when a member is not valid or they are long."""
    members = [each.strip(" \t") for header in headers for each in header.split(",")]
    members = [each for each in members if each]
    keys = [each.partition("=")[0] for each in members]
    text = ",".join(members)
    valid = (
        len(members) <= _MAX_MEMBERS
        and len(text) <= _MAX_STATE_CHARS
        and len(set(keys)) == len(keys)
        and all(_MEMBER.fullmatch(each) for each in members)
    )
    return text if valid else ""


def new_span_id() -> str:
    """Make the id of a span; never zero."""
    while not int(text := secrets.token_hex(8), 16):
        pass
    return text
