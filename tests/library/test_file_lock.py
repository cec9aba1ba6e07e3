"""Locks: the system's, and the file that stands in for it where a file system has none or lies."""

import errno
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from localllm.library.files.file_lock import HELD_SUFFIX, LockFile, LockHeld, locked

Refusal = Callable[[int], bool]
HOLDER = """
import errno, sys
from pathlib import Path
from localllm.library.files.file_lock import locked
def refuse(_):
    raise OSError(errno.ENOLCK, "No locks available")
with locked(Path(sys.argv[1]), try_lock=refuse):
    print("held", flush=True)
    sys.stdin.read()
"""


def refusing(number: int) -> Refusal:
    def try_lock(_descriptor: int) -> bool:
        raise OSError(number, os.strerror(number))

    return try_lock


def lying(_descriptor: int) -> bool:
    return True


def held_file(path: Path) -> Path:
    return path.with_name(f"{path.name}{HELD_SUFFIX}")


NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]
WITHOUT = [lying, *map(refusing, NO_LOCKS)]


@pytest.mark.parametrize("try_lock", WITHOUT)
def test_without_locks_a_file_keeps_others_out(tmp_path: Path, try_lock: Refusal) -> None:
    lock = tmp_path / "lock"
    with locked(lock, try_lock=try_lock):
        assert held_file(lock).exists()
        with pytest.raises(LockHeld, match="has held"), locked(lock, wait_s=0, try_lock=try_lock):
            raise AssertionError("two held one lock")
    assert not held_file(lock).exists()
    with locked(lock, wait_s=0, try_lock=try_lock):
        pass


def test_where_there_are_locks_no_other_file_is_made(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        assert [each.name for each in tmp_path.glob("lock*")] == ["lock"]


def test_an_error_of_the_disk_is_not_taken_for_a_missing_lock(tmp_path: Path) -> None:
    broken = refusing(errno.EIO)
    with (
        pytest.raises(OSError, match="Input/output error"),
        locked(tmp_path / "lock", try_lock=broken),
    ):
        raise AssertionError("it was held")


@pytest.mark.parametrize("try_lock", WITHOUT[:2])
def test_threads_take_turns(tmp_path: Path, try_lock: Refusal) -> None:
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(20):
            with locked(lock, wait_s=60, try_lock=try_lock):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "80"


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockHeld) as caught, locked(lock, wait_s=0, try_lock=lying):
            raise AssertionError("two held one lock")
        assert f"{process.pid} on {platform.node()}" in str(caught.value)
        process.kill()
        process.wait()
        assert held_file(lock).exists()
        with locked(lock, wait_s=0, try_lock=lying):
            assert json.loads(held_file(lock).read_bytes())[1] == os.getpid()


def test_many_that_take_over_one_lock_leave_one_holder(tmp_path: Path) -> None:
    gone = json.dumps([platform.node(), os.getpid(), 1.0]).encode()  # this id, another process
    file = LockFile(tmp_path / "lock.held")
    for _ in range(50):
        file.path.write_bytes(gone)
        barrier, got = threading.Barrier(4), list[bool]()

        def take(barrier: threading.Barrier = barrier, got: list[bool] = got) -> None:
            barrier.wait()
            got.append(file.acquire())

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(got) == 1
        assert [each.name for each in tmp_path.glob("lock*")] == ["lock.held"]
        file.release()


def test_a_lock_of_another_machine_is_left_and_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    held_file(lock).write_text(json.dumps(["other-laptop", 1, 1.0]))
    with pytest.raises(LockHeld) as caught, locked(lock, wait_s=0, try_lock=lying):
        raise AssertionError("it was taken over")
    assert f"1 on other-laptop; if it is gone, delete {held_file(lock)}" in str(caught.value)
    assert held_file(lock).exists()


def test_the_lock_of_a_process_that_lives_is_left(tmp_path: Path) -> None:
    parent = psutil.Process(os.getppid())
    file = LockFile(tmp_path / "lock.held")
    file.path.write_text(json.dumps([platform.node(), parent.pid, parent.create_time()]))
    assert not file.acquire()


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[1]", b'["host", "pid", 0]', b"\xff\xfe"])
def test_a_lock_that_says_nothing_counts_while_it_is_young(tmp_path: Path, text: bytes) -> None:
    file = LockFile(tmp_path / "lock.held")
    file.path.write_bytes(text)
    assert not file.acquire()
    assert file.holder() is None
    os.utime(file.path, (0, 0))
    assert file.acquire()
