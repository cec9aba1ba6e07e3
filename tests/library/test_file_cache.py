"""What is kept in the cache comes back as it was, or not at all."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.library.files.file_cache import keep, recall


def test_an_answer_comes_back_for_what_it_was_made_from_alone(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    assert recall(path, "a") is None
    keep(path, "a", b"answer\nof two lines")
    assert recall(path, "a") == b"answer\nof two lines"
    assert recall(path, "b") is None
    keep(path, "b", b"")
    assert (recall(path, "a"), recall(path, "b")) == (None, b"")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_byte_more_less_or_other_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "kept"
    keep(path, "made from", b"a long enough answer")
    kept = path.read_bytes()
    at = data.draw(st.integers(0, len(kept) - 1))
    other = data.draw(st.binary(max_size=3).filter(lambda each: each != kept[at : at + 1]))
    path.write_bytes(kept[:at] + other + kept[at + 1 :])
    assert recall(path, "made from") is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    keep(tmp_path / "file" / "answer", "a", b"answer")
    assert recall(tmp_path / "file" / "answer", "a") is None
    assert recall(tmp_path, "a") is None  # a directory
