"""Files that are not ours, not whole, or of something else, and disks that are full."""

import os
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as check
from hypothesis import strategies as st

from localllm.core.sizing.load import KvType
from localllm.engine.worker.kv_cache.state_file import ModelFiles
from localllm.errors import StateFailed
from tests.engine import tiny
from tests.engine.state_files import OTHER_KEY, STORY, SavingScheduler
from tests.engine.state_files import directory as directory
from tests.engine.state_files import plain as plain
from tests.engine.state_files import reader as reader
from tests.engine.state_files import saved as saved
from tests.engine.stepped_scheduler import settings


def test_a_file_that_is_not_there_is_said_to_be_missing(
    reader: SavingScheduler, directory: Path
) -> None:
    with pytest.raises(StateFailed, match="no file"):
        reader.restore(directory / "none")
    with pytest.raises(StateFailed, match="cannot be read"):
        reader.restore(directory)
    with pytest.raises(StateFailed, match="cannot be read"):
        reader.restore(Path("a\0b"))


def test_a_file_of_another_key_is_refused(
    reader: SavingScheduler, saved: bytes, directory: Path
) -> None:
    (directory / "cells").write_bytes(saved)
    with pytest.raises(StateFailed, match="another key"):
        reader.restore(directory / "cells", key=OTHER_KEY)
    assert reader.restore(directory / "cells") > len(STORY)


@check(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_file_is_refused_before_llama_cpp_sees_it(
    reader: SavingScheduler, saved: bytes, directory: Path, data: st.DataObject
) -> None:
    at = st.integers(0, len(saved) - 1) | st.integers(max(0, len(saved) - 700), len(saved) - 1)
    mutated = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 4))):
        spot = data.draw(at)
        match data.draw(st.sampled_from(["flip", "cut", "insert", "zero", "swap"])):
            case "flip":
                mutated[spot % max(1, len(mutated))] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del mutated[spot:]
            case "insert":
                mutated[spot:spot] = data.draw(st.binary(min_size=1, max_size=9))
            case "zero":
                mutated[spot : spot + 64] = bytes(len(mutated[spot : spot + 64]))
            case "swap":
                mutated = mutated[spot:] + mutated[:spot]
        mutated = mutated or bytearray(b"\0")
    if bytes(mutated) == saved:
        return
    (directory / "cells").write_bytes(mutated)
    with pytest.raises(StateFailed):
        reader.restore(directory / "cells")


@check(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=400))
def test_garbage_is_refused(reader: SavingScheduler, directory: Path, garbage: bytes) -> None:
    (directory / "cells").write_bytes(garbage)
    with pytest.raises(StateFailed):
        reader.restore(directory / "cells")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kv_type_k": KvType.F16, "kv_type_v": KvType.F16}, "kv type k"),
        ({"swa_full": True}, "swa full"),
        ({"kv_unified": True}, "streams"),
    ],
)
def test_cells_of_other_settings_are_refused(
    plain: Path, saved: bytes, directory: Path, changed: dict[str, object], said: str
) -> None:
    (directory / "cells").write_bytes(saved)
    load = replace(settings(), **changed)  # type: ignore[arg-type]  # by name
    with (
        closing(SavingScheduler(plain, load)) as engine,
        pytest.raises(StateFailed, match=f"another {said}"),
    ):
        engine.restore(directory / "cells")


def test_cells_of_another_template_are_refused(plain: Path, saved: bytes, directory: Path) -> None:
    (directory / "cells").write_bytes(saved)
    with (
        closing(SavingScheduler(plain, settings(), chat_template="ab")) as engine,
        pytest.raises(StateFailed, match="another chat template"),
    ):
        engine.restore(directory / "cells")


def test_cells_of_another_model_of_the_same_shape_are_refused(
    plain: Path, saved: bytes, directory: Path
) -> None:
    (directory / "cells").write_bytes(saved)
    other, content = directory / "other.gguf", bytearray(plain.read_bytes())
    content[-8:-4] = b"\0\0\0\x3f"  # one weight
    other.write_bytes(content)
    times = plain.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    with (
        closing(SavingScheduler(other, settings())) as engine,
        pytest.raises(StateFailed, match="another sample"),
    ):
        engine.restore(directory / "cells")
    os.utime(other)
    with (
        closing(SavingScheduler(other, settings())) as engine,
        pytest.raises(StateFailed, match="files"),
    ):
        engine.restore(directory / "cells")


def test_a_model_whose_file_was_replaced_keeps_and_restores_nothing(
    saved: bytes, directory: Path
) -> None:
    model = tiny.plain(directory / "model.gguf")
    (directory / "cells").write_bytes(saved)
    with closing(SavingScheduler(model, settings())) as engine:
        engine.ask(STORY)
        model.unlink()
        tiny.plain(model)
        with pytest.raises(StateFailed, match="has changed since"):
            engine.save(STORY, directory / "new")
        with pytest.raises(StateFailed, match="has changed since"):
            engine.restore(directory / "cells")


def test_more_tokens_than_the_context_holds_are_refused(
    plain: Path, saved: bytes, directory: Path
) -> None:
    (directory / "cells").write_bytes(saved)
    with (
        closing(SavingScheduler(plain, settings(context=100))) as engine,
        pytest.raises(StateFailed, match=r"\d+ tokens; the context holds 100"),
    ):
        engine.restore(directory / "cells")


def test_every_part_of_a_split_model_counts(directory: Path) -> None:
    parts = [directory / f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for i, part in enumerate(parts):
        part.write_bytes(bytes([i]) * 3_000_000)
    files = ModelFiles(str(parts[0]))
    assert len(files.stats) == 3
    before = files.sample
    content = bytearray(parts[2].read_bytes())
    content[-1] = 9
    parts[2].write_bytes(content)
    assert ModelFiles(str(parts[0])).sample != before
    with pytest.raises(StateFailed, match="has changed"):
        assert files.stats


# --- a disk that is full ---


def test_too_little_room_is_said_with_both_numbers(plain: Path, directory: Path) -> None:
    with closing(SavingScheduler(plain, settings(), free_bytes=2048)) as engine:
        engine.ask(STORY)
        with pytest.raises(StateFailed, match=r"take .*, and 2\.0 KiB are free"):
            engine.save(STORY, directory / "cells")
        with pytest.raises(StateFailed, match=r"at most 1\.0 KiB are kept"):
            engine.save(STORY, directory / "cells", max_bytes=1024)
    assert not list(directory.iterdir())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a disk that is full after so many bytes of a file (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("missing", [1, 20, 500, 100_000])
def test_a_disk_that_fills_up_meanwhile_leaves_the_old_file_and_no_other(
    plain: Path, saved: bytes, directory: Path, missing: int
) -> None:
    path = directory / "cells"
    path.write_bytes(b"the old one")
    with closing(SavingScheduler(plain, settings())) as engine:
        answer = engine.ask(STORY)
        with files_of_at_most(len(saved) - missing), pytest.raises(StateFailed, match="writ"):
            engine.save(STORY + answer, path)
        assert path.read_bytes() == b"the old one"
        assert list(directory.iterdir()) == [path]
        assert engine.save(STORY + answer, path)[1] == len(saved)
        assert engine.restore(path) > len(STORY)


def test_a_directory_that_is_not_there_is_an_error(plain: Path, directory: Path) -> None:
    with closing(SavingScheduler(plain, settings())) as engine:
        engine.ask(STORY)
        with pytest.raises(StateFailed, match="cannot be written"):
            engine.save(STORY, directory / "none" / "cells")


def test_what_a_killed_writer_left_is_replaced(plain: Path, directory: Path) -> None:
    (directory / "cells.tmp").write_bytes(b"half")
    with closing(SavingScheduler(plain, settings())) as engine:
        engine.ask(STORY)
        engine.save(STORY, directory / "cells")
    assert [file.name for file in directory.iterdir()] == ["cells"]
