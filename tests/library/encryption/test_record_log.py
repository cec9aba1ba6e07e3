"""A log of encrypted records: whatever happens to its bytes, only what was written is read."""

from pathlib import Path

import pytest

from localllm.errors import DamagedData, EncryptionError, NotFound
from localllm.library.encryption import record_log
from localllm.library.encryption.cipher import Cipher, new_key
from localllm.library.encryption.record_log import append, is_at, new_log, read_log

RECORDS = (b"first record", b"", b"third", b"the last record of all")


@pytest.fixture
def cipher() -> Cipher:
    return Cipher(new_key())


def test_records_come_back_also_those_that_were_appended(tmp_path: Path, cipher: Cipher) -> None:
    path = tmp_path / "deep" / "log"
    with pytest.raises(NotFound):
        read_log(path, cipher, b"at")
    state = new_log(path, RECORDS[:2], cipher, b"at")
    state = append(path, RECORDS[2:], cipher, b"at", state)
    content = read_log(path, cipher, b"at")
    assert content.records == RECORDS
    assert (content.state, content.lost, content.is_torn) == (state, 0, False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"record" not in path.read_bytes()
    for other in ((Cipher(new_key()), b"at"), (cipher, b"elsewhere")):
        with pytest.raises(DamagedData):
            read_log(path, *other)


def test_a_change_by_another_process_is_seen(tmp_path: Path, cipher: Cipher) -> None:
    path = tmp_path / "log"
    one = new_log(path, RECORDS, cipher, b"at")
    assert is_at(path, one)
    two = append(path, [b"more"], cipher, b"at", one)
    assert is_at(path, two)
    assert not is_at(path, one)
    new_log(path, (*RECORDS, b"more"), cipher, b"at")
    assert not is_at(path, two)
    path.unlink()
    assert not is_at(path, two)


def test_a_log_that_is_cut_anywhere_goes_on_where_it_can_be_read(
    tmp_path: Path, cipher: Cipher
) -> None:
    path = tmp_path / "log"
    new_log(path, RECORDS, cipher, b"at")
    whole = path.read_bytes()
    for length in range(32, len(whole)):
        for zeros in (0, 600):  # a power cut may leave blocks that were never written
            path.write_bytes(whole[:length] + bytes(zeros))
            content = read_log(path, cipher, b"at")
            count = len(content.records)
            assert content.records == RECORDS[:count]
            assert content.lost == 0
            append(path, [b"new"], cipher, b"at", content.state)
            again = read_log(path, cipher, b"at")
            assert again.records == (*RECORDS[:count], b"new")
            assert not again.is_torn


def test_a_flipped_bit_anywhere_costs_one_record_and_is_told(
    tmp_path: Path, cipher: Cipher
) -> None:
    path = tmp_path / "log"
    new_log(path, RECORDS, cipher, b"at")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        if at < 32:
            with pytest.raises(DamagedData):
                read_log(path, cipher, b"at")
            continue
        content = read_log(path, cipher, b"at")
        assert len(content.records) == len(RECORDS) - 1
        assert set(content.records) < set(RECORDS)
        assert content.lost == 1 or content.is_torn
        append(path, [b"new"], cipher, b"at", content.state)
        assert read_log(path, cipher, b"at").records == (*content.records, b"new")


def test_records_in_another_order_or_of_another_log_are_not_taken(
    tmp_path: Path, cipher: Cipher
) -> None:
    path, other = tmp_path / "log", tmp_path / "other"
    new_log(path, [b"aaaa", b"bbbb", b"cccc"], cipher, b"at")
    new_log(other, [b"xxxx", b"yyyy", b"zzzz"], cipher, b"at")
    data, size = path.read_bytes(), 16 + 4 + 28
    pieces = [data[32 + n * size : 32 + (n + 1) * size] for n in range(3)]
    path.write_bytes(data[:32] + pieces[1] + pieces[0] + pieces[2] + pieces[1])
    assert read_log(path, cipher, b"at").records == (b"bbbb", b"cccc")
    path.write_bytes(data[:32] + pieces[0] + pieces[2])
    content = read_log(path, cipher, b"at")
    assert (content.records, content.lost) == ((b"aaaa", b"cccc"), 1)
    path.write_bytes(data[:32] + other.read_bytes()[32:])
    with pytest.raises(DamagedData):
        read_log(path, cipher, b"at")


def test_a_full_disk_costs_nothing_that_was_written(
    tmp_path: Path, cipher: Cipher, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    state = new_log(path, RECORDS, cipher, b"at")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(record_log, "sync", fail)
        with pytest.raises(EncryptionError, match="No space left"):
            append(path, [b"half"], cipher, b"at", state)
    append(path, [b"after"], cipher, b"at", state)
    assert read_log(path, cipher, b"at").records == (*RECORDS, b"after")
