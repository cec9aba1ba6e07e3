"""The loopback Hub as a pytest fixture; tests/conftest.py makes it known to every room."""

from collections.abc import Iterator

import pytest

from tests.hub.server import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A Hub without repositories, on two free ports of loopback."""
    with FakeHub() as running:
        yield running
