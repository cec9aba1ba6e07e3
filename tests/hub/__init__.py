"""A Hub on loopback: a real HTTP server that speaks the protocol, with a second port as CDN.

What it answers was written down from huggingface_hub 2.4's own code and is checked against that
client in test_protocol.py. Faults are switched on per test, also while a transfer runs.
"""

from tests.hub.content import SparseFile
from tests.hub.faults import (
    BrokenJson,
    Drop,
    Faults,
    Flip,
    Gzip,
    NoRanges,
    Portal,
    Redirect,
    Refuse,
    Stall,
    Throttle,
    Truncate,
    WrongLength,
)
from tests.hub.record import Request
from tests.hub.server import FakeHub

__all__ = [
    "BrokenJson",
    "Drop",
    "FakeHub",
    "Faults",
    "Flip",
    "Gzip",
    "NoRanges",
    "Portal",
    "Redirect",
    "Refuse",
    "Request",
    "SparseFile",
    "Stall",
    "Throttle",
    "Truncate",
    "WrongLength",
]
