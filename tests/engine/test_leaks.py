"""Two thousand requests of every kind leave nothing behind. (Of the starter model:
benchmarks/leaks.py, the same requests.)"""

from pathlib import Path

from benchmarks.leaks import MOST_GROWTH, readings
from tests.engine import tiny


async def test_two_thousand_requests_leave_nothing_behind(tmp_path: Path) -> None:
    first, last = await readings(tiny.plain(tmp_path / "plain.gguf"), 2000)
    assert last.growth_since(first) < MOST_GROWTH
    assert not last.others_since(first), (first, last)
