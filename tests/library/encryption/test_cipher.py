"""Encrypted texts: what was changed, moved or cut does not decrypt."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import DamagedData, EncryptionError, NotFound
from localllm.library.encryption import encrypted_file
from localllm.library.encryption.cipher import OVERHEAD_BYTES, Cipher, new_key, place
from localllm.library.encryption.encrypted_file import read_encrypted, write_encrypted
from localllm.library.encryption.locked_memory import LockedKey

PARTS = st.lists(
    st.text(max_size=4) | st.binary(max_size=4) | st.integers(0, 2**64 - 1), max_size=4
)


def test_a_text_comes_back_and_is_not_seen_encrypted() -> None:
    cipher = Cipher(new_key())
    encrypted = cipher.encrypt(b"the secret", place("chat", 3))
    assert cipher.decrypt(encrypted, place("chat", 3)) == b"the secret"
    assert b"secret" not in encrypted
    assert len(encrypted) == len(b"the secret") + OVERHEAD_BYTES


def test_equal_texts_are_encrypted_with_different_nonces() -> None:
    cipher = Cipher(new_key())
    nonces = {cipher.encrypt(b"x", b"")[:12] for _ in range(1000)}
    assert len(nonces) == 1000


def test_every_flipped_bit_every_cut_another_place_and_another_key_are_found() -> None:
    cipher = Cipher(new_key())
    encrypted = cipher.encrypt(b"text", b"here")
    for bit in range(len(encrypted) * 8):
        changed = bytearray(encrypted)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedData):
            cipher.decrypt(bytes(changed), b"here")
    for length in range(len(encrypted)):
        with pytest.raises(DamagedData):
            cipher.decrypt(encrypted[:length], b"here")
    with pytest.raises(DamagedData):
        cipher.decrypt(encrypted, b"there")
    with pytest.raises(DamagedData):
        Cipher(new_key()).decrypt(encrypted, b"here")


@given(PARTS, PARTS)
def test_different_places_have_different_bytes(
    one: list[str | bytes | int], other: list[str | bytes | int]
) -> None:
    def typed(parts: list[str | bytes | int]) -> list[tuple[type, str | bytes | int]]:
        return [(type(part), part) for part in parts]

    assert (place(*one) == place(*other)) == (typed(one) == typed(other))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(EncryptionError, match="32 bytes"):
        Cipher(b"short")


def test_a_key_in_locked_memory_is_the_key_and_is_wiped() -> None:
    key = new_key()
    locked = LockedKey(key)
    with locked.bytes() as view:
        assert Cipher(bytes(view)).decrypt(Cipher(key).encrypt(b"a", b""), b"") == b"a"
    locked.wipe()
    locked.wipe()
    with pytest.raises(ValueError, match="closed"):
        locked.bytes()


def test_a_file_comes_back_in_chunks_and_every_change_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_file, "_CHUNK_BYTES", 16)
    cipher, path = Cipher(new_key()), tmp_path / "deep" / "file"
    with pytest.raises(NotFound):
        read_encrypted(path, cipher, b"at")
    for text in (b"", b"x" * 16, b"a secret text of three chunks in all"):
        write_encrypted(path, text, cipher, b"at")
        assert read_encrypted(path, cipher, b"at") == text
    data = path.read_bytes()
    assert b"secret" not in data
    assert path.stat().st_mode & 0o777 == 0o600
    step = 16 + OVERHEAD_BYTES
    swapped = data[:32] + data[32 + step : 32 + 2 * step] + data[32 : 32 + step]
    broken = [data[:length] for length in range(len(data))]
    broken += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for each in (*broken, swapped + data[32 + 2 * step :], data + b"x"):
        path.write_bytes(each)
        with pytest.raises(DamagedData, match="damaged"):
            read_encrypted(path, cipher, b"at")
