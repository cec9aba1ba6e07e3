from pathlib import Path

import pytest

from localllm.errors import GgufError, NotFound, StoreError
from localllm.library.files import paths
from localllm.library.store.inspect import inspect_model
from localllm.library.store.installed import FileState
from localllm.library.store.store import Store
from tests.library import tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", find_starter=lambda: None)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_adopting_any_part_adopts_all(tmp_path: Path, store: Store, which: int) -> None:
    files = tiny.write_split(tmp_path, "big-Q4_K_M", 3, name="Big")
    model = store.adopt(files[which])
    assert model.path == files[0]
    assert [part.path for part in model.files] == files
    assert model.size_bytes == sum(file.stat().st_size for file in files)
    assert (model.name, model.quant, model.sha256) == ("big", "Q4_K_M", None)
    assert store.installed() == (model,)


def test_the_header_of_a_split_model_has_the_tensors_of_all_parts(tmp_path: Path) -> None:
    files = tiny.write_split(tmp_path, "big", 3)
    spec = inspect_model(files[1]).spec
    assert len(spec.tensors) == 3
    assert spec.file_bytes == sum(file.stat().st_size for file in files)


def test_missing_parts_are_named(tmp_path: Path, store: Store) -> None:
    files = tiny.write_split(tmp_path, "big", 5)
    files[1].unlink()
    files[4].unlink()
    with pytest.raises(
        NotFound, match=r"2 of them.*big-00002-of-00005\.gguf, big-00005-of-00005\.gguf\."
    ):
        store.adopt(files[0])
    with pytest.raises(NotFound, match=r"big-00002-of-00005\.gguf"):
        store.resolve(str(files[0]))


def test_a_part_lost_later_makes_the_model_missing(tmp_path: Path, store: Store) -> None:
    files = tiny.write_split(tmp_path, "big", 2, name="Big")
    store.adopt(files[0])
    files[1].unlink()
    assert store.named("big").state is FileState.MISSING
    with pytest.raises(NotFound, match="big-00002-of-00002"):
        store.resolve("big")


def test_parts_are_linked_under_the_names_that_llama_cpp_expects(
    tmp_path: Path, store: Store
) -> None:
    files = tiny.write_split(tmp_path, "big", 2, name="Big Model")
    model = store.adopt(files[0], link=True)
    directory = paths.models_dir(tmp_path / "data")
    assert [part.path for part in model.files] == [
        directory / "big-model-00001-of-00002.gguf",
        directory / "big-model-00002-of-00002.gguf",
    ]
    for file in files:
        file.unlink()
    size_bytes = model.size_bytes
    assert store.resolve("big-model").state is FileState.OK
    assert store.remove("big-model").freed_bytes == size_bytes
    assert list(directory.iterdir()) == []


def test_links_of_a_model_with_the_longest_name_stay_the_librarys(
    tmp_path: Path, store: Store
) -> None:
    files = tiny.write_split(tmp_path, "big", 2, name="Big")
    name = "x" * 80
    assert store.adopt(files[0], name=name, link=True).owned
    again = store.adopt(files[0])
    assert (again.name, again.owned) == (name, True)
    assert store.installed() == (again,)


def test_parts_in_the_wrong_order_are_refused(tmp_path: Path, store: Store) -> None:
    files = tiny.write_split(tmp_path, "big", 2)
    one, two = (file.read_bytes() for file in files)
    files[0].write_bytes(two)
    files[1].write_bytes(one)
    with pytest.raises(GgufError, match="part 2 of 2 by its header and 1 of 2 by its name"):
        store.adopt(files[0])


def test_a_part_renamed_to_look_whole_is_refused(tmp_path: Path, store: Store) -> None:
    files = tiny.write_split(tmp_path, "big", 2)
    alone = files[0].rename(tmp_path / "big.gguf")
    with pytest.raises(GgufError, match="part 1 of 2 by its header and 1 of 1 by its name"):
        store.adopt(alone)


@pytest.mark.parametrize("name", ["x-00000-of-00002.gguf", "x-00003-of-00002.gguf"])
def test_an_impossible_part_number_is_refused(tmp_path: Path, store: Store, name: str) -> None:
    file = tiny.write(tmp_path / name)
    with pytest.raises(StoreError, match="Rename it"):
        store.adopt(file)
