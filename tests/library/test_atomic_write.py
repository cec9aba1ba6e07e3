"""Atomic writes on file systems that refuse or repeat what is asked of them."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.library.files import atomic_write


def refusing_to_sync(number: int, kind: Callable[[int], bool]) -> Callable[[int], None]:
    really = os.fsync

    def fsync(descriptor: int) -> None:
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        really(descriptor)

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.EBADF])
def test_a_directory_that_cannot_be_synced_stops_nothing(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing_to_sync(number, stat.S_ISDIR))
    atomic_write.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_system_without_sync_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing_to_sync(errno.EINVAL, stat.S_ISREG))
    atomic_write.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_bytes_that_do_not_reach_the_disk_leave_the_old_file(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_write.write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", refusing_to_sync(number, stat.S_ISREG))
    with pytest.raises(OSError, match=os.strerror(number)):
        atomic_write.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [each.name for each in tmp_path.glob("file*")] == ["file"]


class Repeating(type(Path())):  # type: ignore[misc]  # pathlib's own class depends on the system
    """A path on a file system that repeats a rename and finds no source then."""

    def replace(self, target: str | os.PathLike[str]) -> Path:
        super().replace(target)
        return Path(super().replace(target))


def test_a_rename_that_is_repeated_by_the_file_system_counts_once(tmp_path: Path) -> None:
    source, target = Repeating(tmp_path / "a"), tmp_path / "b"
    source.write_bytes(b"new")
    atomic_write.rename(source, target, lambda: target.read_bytes() == b"new")
    assert target.read_bytes() == b"new"


def test_a_source_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    for is_done in (lambda: False, lambda: (tmp_path / "none").read_bytes() == b"new"):
        with pytest.raises(FileNotFoundError):
            atomic_write.rename(tmp_path / "a", tmp_path / "b", is_done)
    assert (tmp_path / "b").read_bytes() == b"old"
