"""The API key's file: made once, whole, for this user alone."""

import os
import stat
import threading
from pathlib import Path

import pytest

from localllm.errors import StoreError, UsageError
from localllm.server.key import ApiKey, from_environment, from_file, read_or_create


def test_the_key_is_created_at_the_first_use_and_read_later(tmp_path: Path) -> None:
    path = tmp_path / "config" / "api-key"
    first = read_or_create(path)
    assert len(first.text) >= 43
    assert first.warning is None
    assert first.file == path
    assert read_or_create(path) == first
    assert read_or_create(tmp_path / "other").text != first.text
    assert [file.name for file in path.parent.iterdir()] == ["api-key"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_no_other_user_can_read_the_key_even_with_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        read_or_create(tmp_path / "config" / "api-key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "config" / "api-key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o700


def test_servers_that_start_at_once_have_the_same_key(tmp_path: Path) -> None:
    path, keys, barrier = tmp_path / "api-key", list[str](), threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        keys.append(read_or_create(path).text)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("abcdef\n")
    path.chmod(0o644)
    key = from_file(path)
    assert key.text == "abcdef"
    assert key.warning is not None
    assert "chmod 600" in key.warning


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"two\nlines", b"\xff\xfe", b"a\x00b", b"x" * 2000]
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="key"):
        from_file(path)
    with pytest.raises(UsageError, match="key"):
        read_or_create(path)
    assert path.read_bytes() == content


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        from_file(tmp_path / "missing")
    with pytest.raises(UsageError, match="cannot be read"):
        from_file(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="cannot be read"):
        read_or_create(tmp_path / "dangling")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_does_not_hang_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError):
        from_file(tmp_path / "pipe")


def test_an_error_of_the_directory_names_the_alternatives(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="LOCALLLM_API_KEY"):
        read_or_create(tmp_path / "file" / "api-key")


def test_the_key_of_the_environment_must_fit_a_header() -> None:
    assert from_environment("abc-DEF_1").text == "abc-DEF_1"
    for bad in ("a b", "é", "a\n", " a"):
        with pytest.raises(UsageError, match="LOCALLLM_API_KEY"):
            from_environment(bad)


def test_a_key_does_not_show_itself() -> None:
    assert "secret" not in repr(ApiKey(text="secret"))
