"""The ground the other tests stand on."""

import hashlib
from pathlib import Path

import pytest


def test_the_starter_model_is_the_published_file(smollm2: Path) -> None:
    assert smollm2.stat().st_size == 98_362_432


def test_gemma_is_assembled_to_the_published_file(gemma3: Path) -> None:
    digest = hashlib.sha256(gemma3.read_bytes()).hexdigest()
    assert digest == "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def test_the_guard_stops_a_connection_that_leaves_the_machine() -> None:
    import socket

    with socket.socket() as outside, pytest.raises(AssertionError, match="leave the machine"):
        outside.connect(("192.0.2.1", 80))
