"""A cached value comes back as it was, or not at all."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.library.files.file_cache import get, put


def test_an_answer_comes_back_for_what_it_was_made_from_alone(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    assert get(path, "a") is None
    put(path, "a", b"answer\nof two lines")
    assert get(path, "a") == b"answer\nof two lines"
    assert get(path, "b") is None
    put(path, "b", b"")
    assert (get(path, "a"), get(path, "b")) == (None, b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_byte_more_less_or_other_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "kept"
    put(path, "made from", b"a long enough answer")
    stored = path.read_bytes()
    at = data.draw(st.integers(0, len(stored) - 1))
    other = data.draw(st.binary(max_size=3).filter(lambda each: each != stored[at : at + 1]))
    path.write_bytes(stored[:at] + other + stored[at + 1 :])
    assert get(path, "made from") is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    put(tmp_path / "file" / "answer", "a", b"answer")
    assert get(tmp_path / "file" / "answer", "a") is None
    assert get(tmp_path, "a") is None  # a directory
