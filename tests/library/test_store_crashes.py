"""The library after a process dies, the disk is full, or two write at once."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.errors import StoreError
from localllm.library.files import paths
from localllm.library.files.file_lock import locked
from localllm.library.store.installed import FileState, InstalledModel
from localllm.library.store.store import Store
from tests.library import tiny
from tests.library.caches import HuggingFace, Ollama, gguf
from tests.library.store_process import COMMIT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills with POSIX signals")


def store_at(data: Path) -> tuple[Store, list[str]]:
    """A library, and the warnings it gives."""
    warnings: list[str] = []
    return Store(data, find_starter=lambda: None, warn=warnings.append), warnings


def start(data: Path, verb: str, *subjects: str, how: str = "once") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.library.store_process", str(data), verb, how, *subjects],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def crash_everywhere(data: Path, verb: str, subject: str) -> Iterator[int]:
    """Run `verb` again and again, killed one system event later each time, until it ends well;
    give the number of the event after each kill."""
    with start(data, verb, subject, how="killed") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for crash_at, line in enumerate(process.stdout, 1):
            if int(line) == 0:
                process.stdin.close()
                return
            assert int(line) == -signal.SIGKILL
            assert crash_at < 200
            yield crash_at
            process.stdin.write("go on\n")
            process.stdin.flush()
        assert process.stderr is not None
        raise AssertionError(process.stderr.read())


def names(models: tuple[InstalledModel, ...]) -> set[str]:
    return {model.name for model in models}


@pytest.mark.parametrize("verb", ["adopt", "link"])
def test_a_kill_at_any_point_of_an_import_leaves_the_old_or_the_new_library(
    tmp_path: Path, verb: str
) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    store.adopt(tiny.write(tmp_path / "keeper.gguf", name="Keeper"))
    other = tiny.write(tmp_path / "other.gguf", name="Other")
    kills = 0
    for _ in crash_everywhere(data, verb, str(other)):
        kills += 1
        models = store.installed()
        assert names(models) in ({"keeper"}, {"keeper", "other"})
        assert all(model.state is FileState.OK for model in models)
    assert kills > 5
    assert warnings == []
    assert names(store.installed()) == {"keeper", "other"}


def test_a_kill_at_any_point_of_a_removal_loses_nothing_else(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    store.adopt(tiny.write(tmp_path / "keeper.gguf", name="Keeper"))
    original = tiny.write(tmp_path / "other.gguf", name="Other")
    store.adopt(original, link=True)
    for _ in crash_everywhere(data, "remove", "other"):
        assert store.named("keeper").state is FileState.OK
        assert original.exists()
        if "other" not in names(store.installed()):
            store.adopt(original, link=True)
    assert warnings == []
    assert names(store.installed()) == {"keeper"}
    assert list(paths.models_dir(data).iterdir()) == []


def test_a_kill_while_a_download_is_added_keeps_its_file_and_the_next_try_adds_it(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    store.adopt(tiny.write(tmp_path / "keeper.gguf", name="Keeper"))
    place = store.download_path("org/repo", COMMIT, "big.gguf", None)
    place.parent.mkdir(parents=True)
    tiny.write(place, name="Big")
    before = place.read_bytes()
    kills = 0
    for _ in crash_everywhere(data, "download", str(place)):
        kills += 1
        assert names(store.installed()) in ({"keeper"}, {"keeper", "big"})
        assert place.read_bytes() == before
        assert store.download_path("org/repo", COMMIT, "big.gguf", None) == place
    assert kills > 5
    assert warnings == []
    assert store.named("big").verified_at is not None
    assert strays(data) == {"hub/org/repo/big.gguf"}


def test_a_kill_while_a_download_is_removed_never_hides_what_is_left(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    store.adopt(tiny.write(tmp_path / "keeper.gguf", name="Keeper"))
    place = store.download_path("org/repo", COMMIT, "big.gguf", None)

    def bring() -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        tiny.write(place, name="Big")
        place.with_name("big.gguf.part").write_bytes(b"half")
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
        store.add_download([place], repo="org/repo", commit=COMMIT, sha256s={place: digest})

    bring()
    kills = 0
    for _ in crash_everywhere(data, "remove", "big"):
        kills += 1
        assert store.named("keeper").state is FileState.OK
        if "big" in names(store.installed()):
            if store.named("big").missing:
                store.remove("big")  # what a person does who sees it
                assert strays(data) == set()
        else:
            assert not place.exists()
        bring()
    assert kills > 5
    assert warnings == []
    assert strays(data) == set()


def test_a_kill_while_a_verification_is_recorded_leaves_the_old_or_the_new_entry(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    before = store.adopt(tiny.write(tmp_path / "keeper.gguf", name="Keeper"))
    for _ in crash_everywhere(data, "verify", "keeper"):
        (model,) = store.installed()
        assert model == before or (model.sha256 is not None and model.verified_at is not None)
    assert warnings == []
    assert store.named("keeper").verified_at is not None


def test_a_kill_at_any_point_of_a_scan_leaves_what_was_adopted_and_a_scan_goes_on(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    user = tmp_path / "user"
    Ollama(user / ".ollama" / "models").add("m", "7b", gguf(name="M"))
    HuggingFace(user / ".cache" / "huggingface" / "hub").add("x.gguf", gguf(name="X"))
    found: set[str] = set()
    for _ in crash_everywhere(data, "scan", str(user)):
        assert found <= names(store.installed())
        found = names(store.installed())
    assert names(store.installed()) == {"m-7b", "x"}
    assert warnings == []
    assert strays(data) == set()


def strays(data: Path) -> set[str]:
    """Every file of the library but its index and its lock."""
    files = (each.relative_to(data).as_posix() for each in data.rglob("*") if each.is_file())
    return set(files) - {"library.json", "library.lock"}


def test_what_a_killed_writer_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store, _ = store_at(data)
    store.adopt(tiny.write(tmp_path / "a.gguf", name="A one"))
    leftover = data / "library.json.abc.tmp"
    leftover.write_bytes(b"{half")
    store.adopt(tiny.write(tmp_path / "b.gguf", name="B two"))
    assert not leftover.exists()


def test_two_processes_at_once_lose_no_entry(tmp_path: Path) -> None:
    data = tmp_path / "data"
    files = [
        [str(tiny.write(tmp_path / f"{who}{n}.gguf", name=f"{who} {n}")) for n in range(15)]
        for who in ("left", "right")
    ]
    running = [start(data, "adopt", *each) for each in files]
    store, warnings = store_at(data)
    seen = 0
    while any(process.poll() is None for process in running):
        now = len(store.installed())  # reading needs no lock and never sees half an index
        assert now >= seen
        seen = now
    for process in running:
        with process:
            assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert len(store.installed()) == 30
    assert warnings == []


def test_a_removal_a_verification_and_imports_at_once_lose_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    remaining = [tiny.write(tmp_path / f"kept{n}.gguf", name=f"Kept {n}") for n in range(5)]
    gone = [tiny.write(tmp_path / f"gone{n}.gguf", name=f"Gone {n}") for n in range(5)]
    new = [tiny.write(tmp_path / f"new{n}.gguf", name=f"New {n}") for n in range(5)]
    for file in (*remaining, *gone):
        store.adopt(file, link=True)
    running = [
        start(data, "remove", *(f"gone-{n}" for n in range(5))),
        start(data, "verify", *(f"kept-{n}" for n in range(5))),
        start(data, "link", *map(str, new)),
    ]
    for process in running:
        with process:
            assert process.communicate()[1] == ""
        assert process.returncode == 0
    models = {model.name: model for model in store.installed()}
    assert set(models) == {f"{word}-{n}" for word in ("kept", "new") for n in range(5)}
    assert all(models[f"kept-{n}"].verified_at for n in range(5))
    assert all(model.state is FileState.OK for model in models.values())
    assert strays(data) == {f"models/{name}.gguf" for name in models}
    assert warnings == []


def test_two_processes_that_want_one_name_get_two(tmp_path: Path) -> None:
    data = tmp_path / "data"
    files = [tiny.write(tmp_path / f"{n}.gguf", name="Same", author=f"{n}") for n in range(2)]
    running = [start(data, "adopt", str(file)) for file in files]
    for process in running:
        with process:
            process.communicate()
    store, _ = store_at(data)
    assert names(store.installed()) == {"same", "same-q4_k_m"}


def test_a_lock_that_is_held_too_long_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        locked(lock),
        pytest.raises(TimeoutError, match="another process has held"),
        locked(lock, wait_s=0.0),
    ):
        raise AssertionError("two held one lock")
    with locked(lock, wait_s=0.0):
        pass


def test_a_full_disk_leaves_the_library_as_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store, warnings = store_at(data)
    store.adopt(tiny.write(tmp_path / "keeper.gguf", name="Keeper"))
    before = paths.index_file(data).read_bytes()
    file = tiny.write(tmp_path / "b.gguf", name="B two")
    # A limit on the size of files fails a write in the middle, as a full disk does.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        "from localllm.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "import", str(file)],
        env=os.environ | {"LOCALLLM_DATA_DIR": str(data), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be changed: File too large. Its index is as it was." in done.stderr
    assert "Traceback" not in done.stderr
    assert paths.index_file(data).read_bytes() == before
    assert sorted(each.name for each in data.iterdir()) == ["library.json", "library.lock"]
    assert names(store.installed()) == {"keeper"}
    assert warnings == []


@pytest.fixture
def read_only_data() -> Iterator[Path]:
    """A library of one model that this process may read and not write (root becomes nobody)."""
    with tempfile.TemporaryDirectory() as top:
        directory = Path(top)
        directory.chmod(0o755)
        data = directory / "data"
        store, _ = store_at(data)
        store.adopt(tiny.write(directory / "keeper.gguf", name="Keeper"))
        tiny.write(directory / "other.gguf", name="Other")
        data.chmod(0o555)
        paths.lock_file(data).chmod(0o444)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            yield data
        finally:
            os.seteuid(was)
            data.chmod(0o755)


def test_a_read_only_library_can_be_read(read_only_data: Path) -> None:
    store, warnings = store_at(read_only_data)
    assert store.resolve("keep").name == "keeper"
    assert warnings == []


def test_a_read_only_library_refuses_changes_with_a_reason(read_only_data: Path) -> None:
    store, _ = store_at(read_only_data)
    with pytest.raises(StoreError, match=r"cannot be changed: Permission denied"):
        store.adopt(read_only_data.parent / "other.gguf")
    with pytest.raises(StoreError, match=r"cannot be changed: Permission denied"):
        store.remove("keeper")


def test_a_damaged_index_in_a_read_only_library_is_read_as_far_as_it_goes(
    read_only_data: Path,
) -> None:
    index = paths.index_file(read_only_data)
    uid = os.geteuid()
    if uid != 0 and os.getuid() == 0:
        os.seteuid(0)
    index.chmod(0o644)
    index.write_bytes(index.read_bytes()[:-4])
    os.seteuid(uid)
    store, warnings = store_at(read_only_data)
    assert store.resolve("keeper").name == "keeper"
    assert len(warnings) == 1
    assert "is damaged and cannot be mended" in warnings[0]
    assert "1 of its models can be read" in warnings[0]
