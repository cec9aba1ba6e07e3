"""An index that is damaged, of a later version, or no file."""

from pathlib import Path

import pytest

from localllm.errors import StoreError
from localllm.library.files import paths
from localllm.library.store.store import Store
from tests.library import tiny


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(data: Path, warnings: list[str]) -> Store:
    return Store(data, find_starter=lambda: None, warn=warnings.append)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"schema": "one"}'])
def test_a_damaged_index_is_kept_aside_and_said(
    tmp_path: Path, data: Path, store: Store, warnings: list[str], damage: bytes
) -> None:
    store.adopt(tiny.write(tmp_path / "x.gguf", name="X"))
    paths.index_file(data).write_bytes(damage)
    assert store.installed() == ()
    assert len(warnings) == 1
    assert "was damaged" in warnings[0]
    assert (data / "library.damaged.json").read_bytes() == damage
    assert store.installed() == ()
    assert len(warnings) == 1


def test_every_damaged_index_is_kept(data: Path, store: Store, warnings: list[str]) -> None:
    data.mkdir()
    for damage in (b"one", b"two"):
        paths.index_file(data).write_bytes(damage)
        store.installed()
    assert (data / "library.damaged.json").read_bytes() == b"one"
    assert (data / "library.damaged-2.json").read_bytes() == b"two"
    assert len(warnings) == 2


def test_what_can_be_read_of_a_torn_index_is_read_back(
    tmp_path: Path, data: Path, store: Store, warnings: list[str]
) -> None:
    models = [store.adopt(tiny.write(tmp_path / f"{n}.gguf", name=f"M {n}")) for n in "abc"]
    index = paths.index_file(data)
    index.write_bytes(index.read_bytes()[:-40])
    assert store.installed() == tuple(models[:2])
    assert "2 of its models were read back" in warnings[0]


def test_hard_links_are_found_again_without_the_index(
    tmp_path: Path, data: Path, store: Store
) -> None:
    linked = store.adopt(tiny.write(tmp_path / "x.gguf", name="X"), link=True)
    split = tiny.write_split(tmp_path, "big", 2, name="Big")
    both = (store.adopt(split[0], link=True), linked)
    (paths.models_dir(data) / "junk.gguf").write_bytes(b"junk")
    paths.index_file(data).write_bytes(b"gone")
    assert store.installed() == both


def test_an_index_of_a_later_version_is_left_alone(
    tmp_path: Path, data: Path, store: Store
) -> None:
    data.mkdir()
    later = b'{"schema": 99, "models": {"new": "shape"}}'
    paths.index_file(data).write_bytes(later)
    with pytest.raises(StoreError, match=r"later localllm.*schema 99.*Update localllm"):
        store.installed()
    with pytest.raises(StoreError, match="later localllm"):
        store.adopt(tiny.write(tmp_path / "x.gguf"))
    assert paths.index_file(data).read_bytes() == later


def test_an_index_that_is_a_directory_is_an_error(data: Path, store: Store) -> None:
    paths.index_file(data).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read: Is a directory"):
        store.installed()


def test_a_data_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    store = Store(tmp_path / "data", find_starter=lambda: None)
    with pytest.raises(StoreError, match="cannot be changed"):
        store.adopt(tiny.write(tmp_path / "x.gguf"))
    with pytest.raises(StoreError, match="cannot be read: Not a directory"):
        store.installed()
