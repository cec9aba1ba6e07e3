from pathlib import Path

import pytest

from tests.offline.watched import Guard


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path / "guard.jsonl")
