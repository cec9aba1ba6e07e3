"""The store and the files that a download brought."""

import hashlib
from pathlib import Path

import pytest

from localllm.errors import NotFound, StoreError
from localllm.library.files import paths
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.files.file_lock import locked
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from tests.library import tiny

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Store:
    return Store(data, find_starter=lambda: None)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bring(store: Store, file: str, *, commit: str = OLD, name: str = "Big") -> Path:
    """Put a model where its download would put it."""
    place = store.download_path("org/repo", commit, file, None)
    place.parent.mkdir(parents=True, exist_ok=True)
    return tiny.write(place, name=name, author=commit)


def add(store: Store, *files: Path, commit: str = OLD, **more: Path | str) -> InstalledModel:
    mmproj = more.get("mmproj")
    own = [*files, mmproj] if isinstance(mmproj, Path) else files
    return store.add_download(
        files,
        repo="org/repo",
        commit=commit,
        sha256s={file: digest(file) for file in own},
        mmproj=mmproj if isinstance(mmproj, Path) else None,
        license="mit",
    )


def test_a_download_is_the_librarys_own_and_verified(data: Path, store: Store) -> None:
    file = bring(store, "big-Q4_K_M.gguf")
    assert file == paths.hub_dir(data) / "org" / "repo" / "big-Q4_K_M.gguf"
    model = add(store, file)
    assert (model.name, model.source) == ("big", f"hub:org/repo@{OLD}")
    assert (model.sha256, model.license, model.owned) == (digest(file), "mit", True)
    assert model.verified_at is not None
    assert store.installed() == (model,)


def test_a_download_that_came_again_renews_its_entry(store: Store) -> None:
    file = bring(store, "big-Q4_K_M.gguf")
    first = add(store, file)
    again = add(store, file, commit=NEW)
    assert again.name == first.name
    assert again.source == f"hub:org/repo@{NEW}"
    assert store.installed() == (again,)


def test_an_encoder_goes_with_its_model(store: Store) -> None:
    file = bring(store, "big-Q4_K_M.gguf")
    mmproj = tiny.write(file.with_name("mmproj-F16.gguf"), type="mmproj")
    model = add(store, file, mmproj=mmproj)
    assert model.mmproj is not None
    assert model.mmproj.path == mmproj
    assert model.mmproj.sha256 == digest(mmproj)
    assert store.installed() == (model,)


def test_a_library_with_downloads_can_be_moved(tmp_path: Path, data: Path, store: Store) -> None:
    file = bring(store, "Q4/big-Q4_K_M.gguf")
    add(store, file, mmproj=tiny.write(file.with_name("mmproj.gguf"), type="mmproj"))
    moved = data.rename(tmp_path / "moved")
    model = Store(moved, find_starter=lambda: None).resolve("big")
    assert model.path == paths.hub_dir(moved) / "org/repo/Q4/big-Q4_K_M.gguf"
    assert model.mmproj is not None
    assert model.mmproj.path == model.path.with_name("mmproj.gguf")


def test_another_commit_never_overwrites_a_file_that_an_entry_has(store: Store) -> None:
    file = bring(store, "big.gguf")
    add(store, file)
    place = store.download_path("org/repo", NEW, "big.gguf", "f" * 64)
    assert place == file.parent.parent / f"repo@{NEW[:12]}" / "big.gguf"
    assert store.download_path("org/repo", OLD, "big.gguf", None) == file
    assert store.download_path("org/repo", NEW, "big.gguf", digest(file)) == file


def test_the_parts_of_another_commit_stay_together(store: Store) -> None:
    stem = "big-0000{}-of-00002.gguf"
    folder = store.download_path("org/repo", OLD, stem.format(1), None).parent
    folder.mkdir(parents=True)
    files = tiny.write_split(folder, "big", 2, name="Big")
    add(store, *files)
    places = {
        store.download_path("org/repo", NEW, file.name, digest(file)).parent for file in files
    }
    assert places == {folder.parent / f"repo@{NEW[:12]}"}


def test_a_download_to_a_chosen_directory_is_not_the_librarys(tmp_path: Path, store: Store) -> None:
    place = store.download_path("org/repo", OLD, "Q4/big.gguf", None, tmp_path / "mine")
    assert place == tmp_path / "mine" / "big.gguf"
    place.parent.mkdir()
    assert not add(store, tiny.write(place, name="Big")).owned


def test_importing_a_download_again_forgets_nothing(store: Store) -> None:
    file = bring(store, "big.gguf")
    model = add(store, file, mmproj=tiny.write(file.with_name("mmproj.gguf"), type="mmproj"))
    assert store.adopt(file) == model


def test_downloads_are_found_again_without_the_index(data: Path, store: Store) -> None:
    model = add(store, bring(store, "big-Q4_K_M.gguf"))
    paths.index_file(data).write_bytes(b"gone")
    (found,) = store.installed()
    assert (found.path, found.owned, found.source) == (model.path, True, "hub:org/repo")


def test_a_download_that_was_found_again_is_pulled_to_where_it_is(data: Path, store: Store) -> None:
    file = bring(store, "big.gguf")
    mmproj = tiny.write(file.with_name("mmproj-F16.gguf"), type="mmproj")
    add(store, file, mmproj=mmproj)
    paths.index_file(data).write_bytes(b"gone")
    (found,) = store.installed()
    assert found.mmproj is not None
    assert found.mmproj.path == mmproj
    assert store.download_path("org/repo", NEW, "big.gguf", "f" * 64) == file
    assert store.download_path("org/repo", NEW, mmproj.name, "f" * 64) == mmproj
    assert add(store, file, mmproj=mmproj, commit=NEW).source == f"hub:org/repo@{NEW}"
    assert len(store.installed()) == 1


def test_files_that_are_not_the_parts_that_came_are_refused(store: Store) -> None:
    file = bring(store, "big.gguf")
    with pytest.raises(StoreError, match="are not the files that came"):
        add(store, file, tiny.write(file.with_name("other.gguf")))


# --- removing ---


def everything(data: Path) -> set[str]:
    """What is on the disk below the library."""
    found = (each.relative_to(data).as_posix() for each in data.rglob("*"))
    return {each for each in found if not each.startswith("library.")}


def test_removing_a_download_deletes_it_and_the_folders_that_this_empties(
    data: Path, store: Store
) -> None:
    model = add(store, bring(store, "Q4/big.gguf"))
    removed = store.remove("big")
    assert removed.freed_bytes == model.size_bytes
    assert removed.deleted == (model.path,)
    assert everything(data) == {"hub"}


def test_what_its_downloads_left_goes_too(data: Path, store: Store) -> None:
    file = bring(store, "big.gguf")
    model = add(store, file)
    for end in (".part", ".part.json", ".part.json.77.tmp"):
        file.with_name(file.name + end).write_bytes(b"x" * 100)
    file.with_name("big.gguf.part.lock").touch()
    other = file.with_name("other.gguf.part")
    other.write_bytes(b"another download")
    assert store.remove("big").freed_bytes == model.size_bytes + 300
    assert everything(data) == {"hub", "hub/org", "hub/org/repo", "hub/org/repo/other.gguf.part"}


def test_a_download_that_runs_now_is_left_alone(store: Store) -> None:
    file = bring(store, "big.gguf")
    add(store, file)
    part = file.with_name("big.gguf.part")
    part.write_bytes(b"coming")
    with locked(file.with_name("big.gguf.part.lock")):
        store.remove("big")
    assert part.read_bytes() == b"coming"


def test_an_encoder_that_another_quant_uses_stays_until_the_last(data: Path, store: Store) -> None:
    mmproj = tiny.write(bring(store, "q4.gguf").with_name("mmproj.gguf"), type="mmproj")
    first = add(store, mmproj.with_name("q4.gguf"), mmproj=mmproj)
    second = add(store, bring(store, "q8.gguf", name="Bigger"), mmproj=mmproj)
    removed = store.remove(first.name)
    assert removed.still_used == ((mmproj, second.name),)
    assert removed.freed_bytes == first.size_bytes
    assert mmproj.exists()
    both_bytes = second.size_bytes + mmproj.stat().st_size
    assert store.remove(second.name).freed_bytes == both_bytes
    assert everything(data) == {"hub"}


def test_a_file_that_an_import_refers_to_through_a_link_stays(tmp_path: Path, store: Store) -> None:
    folder = store.download_path("org/repo", OLD, "big-00001-of-00002.gguf", None).parent
    folder.mkdir(parents=True)
    files = tiny.write_split(folder, "big", 2, name="Big")
    owned = add(store, *files)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "other-00001-of-00002.gguf").write_bytes(files[0].read_bytes())
    (mine / "other-00002-of-00002.gguf").symlink_to(files[1])
    mixed = store.adopt(mine / "other-00001-of-00002.gguf")
    removed = store.remove(owned.name)
    assert removed.still_used == ((files[1], mixed.name),)
    assert store.resolve(mixed.name) == mixed


def test_removing_a_download_with_another_name_elsewhere_frees_nothing(
    tmp_path: Path, store: Store
) -> None:
    file = bring(store, "big.gguf")
    (tmp_path / "mine.gguf").hardlink_to(file)
    add(store, file)
    removed = store.remove("big")
    assert (removed.freed_bytes, removed.deleted) == (0, (file,))
    assert (tmp_path / "mine.gguf").exists()


def test_a_download_outside_the_library_is_never_deleted(tmp_path: Path, store: Store) -> None:
    place = store.download_path("org/repo", OLD, "big.gguf", None, tmp_path / "mine")
    place.parent.mkdir()
    add(store, tiny.write(place, name="Big"))
    removed = store.remove("big")
    assert (removed.freed_bytes, removed.deleted) == (0, ())
    assert place.exists()


@pytest.mark.parametrize("typed", ["org/repo", "Org/Repo", "org/repo:Q4_K_M", "org/repo:q4_k_m"])
def test_a_model_answers_to_what_it_was_pulled_as(store: Store, typed: str) -> None:
    model = add(store, bring(store, "big-Q4_K_M.gguf"))
    assert store.resolve(typed) == model


def test_a_repository_of_which_several_files_are_here_is_not_enough(store: Store) -> None:
    add(store, bring(store, "big-Q4_K_M.gguf"))
    other = add(store, bring(store, "other-Q4_K_M.gguf"))
    with pytest.raises(NotFound, match=r"installed more than once\. Name one: big, big-q4_k_m\."):
        store.resolve("org/repo")
    assert store.resolve(other.name) == other
    with pytest.raises(NotFound, match="There is no file org/repo:Q2_K"):
        store.resolve("org/repo:Q2_K")


def test_a_name_of_the_catalogue_with_a_quant_is_what_was_pulled_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = read_catalogue()[0]
    file = bring(store, "big-Q4_K_M.gguf")
    model = store.add_download(
        [file], repo=entry.repos[0], commit=OLD, sha256s={file: digest(file)}
    )
    assert store.resolve(f"{entry.name}:Q4_K_M") == model
    with pytest.raises(NotFound):
        store.resolve(f"{entry.name}:Q8_0")


def test_a_file_of_that_name_comes_first(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, bring(store, "big-Q4_K_M.gguf"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    tiny.write(tmp_path / "org" / "repo")
    assert store.resolve("org/repo").path == tmp_path / "org" / "repo"


COMMIT = "c" * 40


def test_files_whose_names_differ_in_case_alone_have_a_place_each(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", find_starter=lambda: None)
    models = []
    for n, file in enumerate(("model-Q4_0.gguf", "Model-Q4_0.gguf")):
        path = store.download_path("org/repo", COMMIT, file, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny.write(path, name=f"Model {n}")
        models.append(store.add_download([path], repo="org/repo", commit=COMMIT, sha256s={}))
    first, second = (model.path for model in models)
    assert first.name != second.name
    assert first.parent != second.parent  # also where case does not count
    assert all(model.owned and model.problem is None for model in store.installed())
    for model in models:
        store.remove(model.name)
    assert not first.exists()
    assert not second.exists()


def test_another_spelling_of_a_repository_is_the_same_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", find_starter=lambda: None)
    path = store.download_path("Qwen/Qwen3-8B-GGUF", COMMIT, "a.gguf", None)
    path.parent.mkdir(parents=True)
    path.touch()
    other = store.download_path("qwen/qwen3-8b-gguf", COMMIT, "b.gguf", None)
    assert other == path.with_name("b.gguf")
    mine = tmp_path / "mine"
    chosen = store.download_path("qwen/QWEN3-8b-gguf", COMMIT, "b.gguf", None, mine)
    assert chosen == mine / "b.gguf"
