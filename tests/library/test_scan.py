"""Models that other programs have: found, adopted without a copy, and never trusted."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.errors import StoreError
from localllm.library.files import paths
from localllm.library.scan.places import Place, places
from localllm.library.scan.sweep import ScanResult, ScanStatus, sweep
from localllm.library.store.installed import InstalledModel
from localllm.library.store.store import Store
from localllm.library.store.verify import verify
from tests.library import caches, tiny
from tests.library.caches import COMMIT, OLDER, HuggingFace, Ollama, gguf, sha256

MMPROJ = gguf(type="mmproj")


@pytest.fixture
def user(tmp_path: Path) -> Path:
    directory = tmp_path / "user"
    directory.mkdir()
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", find_starter=lambda: None)


@pytest.fixture
def scan(user: Path, store: Store) -> Callable[..., list[ScanResult]]:
    def run(*, link: bool = False, dry_run: bool = False) -> list[ScanResult]:
        found = places({}, user, system=user / "no-system", platform="linux")
        return list(sweep(store, found, link=link, dry_run=dry_run))

    return run


Scan = Callable[..., list[ScanResult]]


def hub_cache(user: Path) -> Path:
    return user / ".cache" / "huggingface" / "hub"


def adopted(outcomes: list[ScanResult]) -> dict[str, InstalledModel]:
    return {
        each.model.name: each.model
        for each in outcomes
        if each.status is ScanStatus.ADOPTED and each.model
    }


def skipped(outcomes: list[ScanResult]) -> dict[str, str]:
    return {
        each.path.name: str(each.reason) for each in outcomes if each.status is ScanStatus.SKIPPED
    }


def fates(outcomes: list[ScanResult]) -> set[ScanStatus]:
    return {each.status for each in outcomes}


def test_nothing_there_is_nothing_found(scan: Scan, store: Store) -> None:
    assert scan() == []
    assert store.installed() == ()


def test_all_four_programs_at_once_and_twice_adopts_nothing_new(
    user: Path, scan: Scan, store: Store
) -> None:
    HuggingFace(hub_cache(user)).add("tiny-Q4_K_M.gguf", gguf(name="From Hub"))
    studio = user / ".lmstudio" / "models" / "org" / "repo"
    studio.mkdir(parents=True)
    tiny.write(studio / "studio-Q4_K_M.gguf", name="From Studio")
    Ollama(user / ".ollama" / "models").add("llama3.2", "1b", gguf(name="From Ollama"))
    caches.llama_cpp(user / ".cache" / "llama.cpp", "org/repo", "x.gguf", gguf(name="From Cpp"))
    before = {file: file.stat() for file in user.rglob("*") if file.is_file()}
    first = scan()
    assert {name: model.source for name, model in adopted(first).items()} == {
        "from-hub": f"hub:org/Tiny-GGUF@{COMMIT}",
        "from-studio": "lm-studio:org/repo",
        "llama3.2-1b": "ollama:llama3.2:1b",
        "from-cpp": "llama.cpp:org/repo",
    }
    models = store.installed()
    assert all(model.verified_at is None and not model.owned for model in models)
    assert fates(scan()) == {ScanStatus.KNOWN}
    assert store.installed() == models
    after = {file: file.stat() for file in user.rglob("*") if file.is_file()}
    assert {f: (s.st_ino, s.st_nlink) for f, s in before.items()} == {
        f: (s.st_ino, s.st_nlink) for f, s in after.items()
    }


def test_a_dry_run_says_the_same_and_changes_nothing(
    tmp_path: Path, user: Path, scan: Scan, store: Store
) -> None:
    hub = HuggingFace(hub_cache(user))
    hub.add("a-Q4_K_M.gguf", gguf(name="Same", author="a"))
    hub.add("b-Q4_K_M.gguf", gguf(name="Same", author="b"))
    would = scan(dry_run=True)
    assert not (tmp_path / "data").exists()
    assert adopted(would) == adopted(scan())
    assert set(adopted(would)) == {"same", "same-q4_k_m"}


def test_hard_links_outlive_the_other_program(user: Path, scan: Scan, store: Store) -> None:
    Ollama(user / ".ollama" / "models").add("m", "7b", gguf(name="M"), projector=MMPROJ)
    (model,) = adopted(scan(link=True)).values()
    assert model.owned
    assert fates(scan(link=True)) == {ScanStatus.KNOWN}
    for file in (user / ".ollama").rglob("*"):
        if file.is_file():
            file.unlink()
    resolved = store.resolve("m-7b")
    assert resolved.mmproj is not None
    assert resolved.mmproj.path.read_bytes() == MMPROJ
    assert store.remove("m-7b").freed_bytes == model.size_bytes + len(MMPROJ)


def test_a_model_whose_encoder_cannot_be_linked_leaves_no_link(
    tmp_path: Path, user: Path, scan: Scan, store: Store
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=elsewhere) as other:
        mmproj = tiny.write(Path(other) / "mmproj.gguf", type="mmproj")
        models = user / ".lmstudio" / "models" / "org" / "repo"
        models.mkdir(parents=True)
        tiny.write(models / "x.gguf", name="X")
        (models / "mmproj.gguf").symlink_to(mmproj)
        (reason,) = skipped(scan(link=True)).values()
    assert "different file systems" in reason
    assert store.installed() == ()
    assert list(paths.models_dir(tmp_path / "data").iterdir()) == []


def test_a_linked_encoder_is_found_again_without_the_index(
    tmp_path: Path, user: Path, scan: Scan, store: Store
) -> None:
    Ollama(user / ".ollama" / "models").add("m", "7b", gguf(name="M"), projector=MMPROJ)
    (model,) = adopted(scan(link=True)).values()
    paths.index_file(tmp_path / "data").write_bytes(b"gone")
    (found,) = store.installed()
    assert found.name == "m-7b"
    assert found.mmproj is not None
    assert model.mmproj is not None
    assert found.mmproj.path == model.mmproj.path


# --- Hugging Face ---


def test_the_digest_of_a_hub_blob_is_recorded_and_can_be_verified(
    user: Path, scan: Scan, store: Store
) -> None:
    data = gguf(name="X")
    link = HuggingFace(hub_cache(user)).add("x.gguf", data)
    (model,) = adopted(scan()).values()
    assert (model.path, model.sha256, model.verified_at) == (link, sha256(data), None)
    assert verify(model, store).ok is True
    model.path.resolve().write_bytes(data[:-1] + b"\1")
    assert verify(store.named("x"), store).ok is False


def test_a_blob_that_no_sha256_names_has_no_digest(user: Path, scan: Scan) -> None:
    HuggingFace(hub_cache(user)).add("x.gguf", gguf(name="X"), blob="a" * 40)
    (model,) = adopted(scan()).values()
    assert model.sha256 is None


def test_a_file_of_two_commits_is_one_model_of_the_newer(user: Path, scan: Scan) -> None:
    hub = HuggingFace(hub_cache(user))
    hub.add("x.gguf", gguf(name="X"), commit=OLDER)
    hub.add("x.gguf", gguf(name="X"))
    hub.add("old.gguf", gguf(name="Old"), commit=OLDER)
    outcomes = scan()
    assert {name: model.source for name, model in adopted(outcomes).items()} == {
        "x": f"hub:org/Tiny-GGUF@{COMMIT}",
        "old": f"hub:org/Tiny-GGUF@{OLDER}",
    }
    assert len(outcomes) == 2


def test_a_split_model_and_its_encoder_come_together(
    user: Path, tmp_path: Path, scan: Scan
) -> None:
    hub = HuggingFace(hub_cache(user), "org/Vision-GGUF")
    for file in tiny.write_split(tmp_path, "v-Q4_K_M", 3, name="Vision"):
        hub.add(f"Q4/{file.name}", file.read_bytes())
    hub.add("mmproj-F32.gguf", gguf(type="mmproj", name="wide"))
    hub.add("mmproj-F16.gguf", MMPROJ)
    outcomes = scan()
    (model,) = adopted(outcomes).values()
    assert len(outcomes) == 1
    assert [part.sha256 for part in model.files] == [
        sha256(part.path.read_bytes()) for part in model.files
    ]
    assert model.mmproj is not None
    assert (model.mmproj.path.name, model.mmproj.sha256) == ("mmproj-F16.gguf", sha256(MMPROJ))


def test_what_is_broken_in_the_hub_cache_is_told(user: Path, tmp_path: Path, scan: Scan) -> None:
    hub = HuggingFace(hub_cache(user))
    hub.add("gone.gguf", b"x").resolve().unlink()
    hub.add("text.gguf", b"<html>not a model</html>" * 9)
    hub.add("lora.gguf", gguf(type="adapter"))
    hub.add("part-00001-of-00002.gguf", gguf(name="P"))
    outside = tiny.write(tmp_path / "outside.gguf", name="Outside")
    (hub.folder / "snapshots" / COMMIT / "out.gguf").symlink_to(outside)
    loop = hub.folder / "snapshots" / COMMIT / "loop.gguf"
    loop.symlink_to(loop)
    (hub_cache(user) / "models--..--..--etc").mkdir()
    outcomes = scan()
    assert fates(outcomes) == {ScanStatus.SKIPPED}
    reasons = skipped(outcomes)
    assert "ended early" in reasons["gone.gguf"]
    assert "ended early" in reasons["loop.gguf"]
    assert "is not usable" in reasons["text.gguf"]
    assert "a LoRA adapter" in reasons["lora.gguf"]
    assert "part-00002-of-00002.gguf" in reasons["part-00001-of-00002.gguf"]
    assert "outside its repository" in reasons["out.gguf"]
    assert "not that of a repository" in reasons["models--..--..--etc"]


# --- LM Studio ---


def test_the_folder_that_lm_studios_settings_name_is_scanned(user: Path, scan: Scan) -> None:
    chosen = user / "elsewhere"
    (chosen / "org" / "repo").mkdir(parents=True)
    tiny.write(chosen / "org" / "repo" / "x.gguf", name="X")
    tiny.write(chosen / "loose.gguf", name="Loose")
    settings = user / ".lmstudio" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"downloadsFolder": str(chosen)}))
    assert {model.source for model in adopted(scan()).values()} == {
        "lm-studio:org/repo",
        "lm-studio:loose.gguf",
    }


@pytest.mark.parametrize(
    "settings",
    [b"", b"[]", b'{"downloadsFolder": 7}', b'{"downloadsFolder": "a\\u0000b"}', b"{" * 9999],
)
def test_settings_that_say_nothing_usable_are_ignored(
    user: Path, scan: Scan, settings: bytes
) -> None:
    (user / ".lmstudio" / "models").mkdir(parents=True)
    (user / ".lmstudio" / "settings.json").write_bytes(settings)
    assert scan() == []


def test_an_encoder_without_a_model_and_a_broken_one_are_told(user: Path, scan: Scan) -> None:
    models = user / ".lmstudio" / "models"
    (models / "a" / "alone").mkdir(parents=True)
    (models / "b" / "broken").mkdir(parents=True)
    tiny.write(models / "a" / "alone" / "mmproj-x.gguf", type="mmproj")
    tiny.write(models / "b" / "broken" / "x.gguf", name="X")
    (models / "b" / "broken" / "mmproj-x.gguf").write_bytes(b"GGUF?")
    outcomes = scan()
    assert "without its model" in skipped(outcomes)["mmproj-x.gguf"]
    (adopted_one,) = (each for each in outcomes if each.status is ScanStatus.ADOPTED)
    assert adopted_one.model is not None
    assert adopted_one.model.mmproj is None
    assert "adopted without its encoder" in str(adopted_one.reason)


def test_links_in_a_circle_end(user: Path, scan: Scan) -> None:
    models = user / ".lmstudio" / "models" / "org"
    (models / "repo").mkdir(parents=True)
    tiny.write(models / "repo" / "x.gguf", name="X")
    (models / "repo" / "again").symlink_to(models)
    (models / "self").symlink_to(models / "self")
    assert set(adopted(scan())) == {"x"}


def test_a_file_that_was_replaced_since_is_told_and_left(
    user: Path, scan: Scan, store: Store
) -> None:
    models = user / ".lmstudio" / "models"
    models.mkdir(parents=True)
    file = tiny.write(models / "x.gguf", name="X")
    before = adopted(scan())
    tiny.write(file, name="X", author="another")
    assert "was replaced" in skipped(scan())["x.gguf"]
    assert {model.name: model for model in store.installed()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_nothing_waits_for_a_pipe(user: Path, scan: Scan) -> None:
    studio = user / ".lmstudio"
    (studio / "models").mkdir(parents=True)
    hub = HuggingFace(hub_cache(user))
    (hub.folder / "refs" / "main").unlink()
    cpp = user / ".cache" / "llama.cpp"
    cpp.mkdir()
    manifests = Ollama(user / ".ollama" / "models").manifest({}, "m", "1b")
    manifests.unlink()
    pipes = [
        studio / "settings.json",
        user / ".lmstudio-home-pointer",
        studio / "models" / "x.gguf",
        hub.folder / "refs" / "main",
        cpp / "manifest=org=repo=latest.json",
        manifests,
    ]
    for pipe in pipes:
        os.mkfifo(pipe)
    assert skipped(scan()) == {
        "x.gguf": f"{studio / 'models' / 'x.gguf'} is a pipe, not a file. Name a GGUF file"
    }


def test_a_pointer_names_lm_studios_home(user: Path, scan: Scan) -> None:
    (user / "far" / "models").mkdir(parents=True)
    tiny.write(user / "far" / "models" / "x.gguf", name="X")
    (user / ".lmstudio-home-pointer").write_text(f"{user / 'far'}\n")
    assert set(adopted(scan())) == {"x"}


# --- Ollama ---


@pytest.mark.parametrize(
    ("host", "namespace", "name", "tag", "source", "expected"),
    [
        ("registry.ollama.ai", "library", "qwen3", "latest", "qwen3:latest", "qwen3"),
        ("registry.ollama.ai", "me", "mine", "7b", "me/mine:7b", "mine-7b"),
        ("hf.co", "org", "X-GGUF", "Q4_K_M", "hf.co/org/X-GGUF:Q4_K_M", "x-gguf-q4_k_m"),
    ],
)
def test_an_ollama_model_is_called_as_there(
    user: Path,
    scan: Scan,
    host: str,
    namespace: str,
    name: str,
    tag: str,
    source: str,
    expected: str,
) -> None:
    ollama = Ollama(user / ".ollama" / "models")
    ollama.add(name, tag, gguf(name="X"), host=host, namespace=namespace)
    (model,) = adopted(scan()).values()
    assert (model.source, model.name) == (f"ollama:{source}", expected)


def test_two_tags_of_one_blob_are_one_model(user: Path, scan: Scan) -> None:
    ollama = Ollama(user / ".ollama" / "models")
    ollama.add("m", "7b", gguf(name="M"), projector=MMPROJ)
    ollama.add("m", "latest", gguf(name="M"))
    outcomes = scan()
    assert [each.status for each in outcomes] == [ScanStatus.ADOPTED, ScanStatus.KNOWN]
    (model,) = adopted(outcomes).values()
    assert model.sha256 == sha256(gguf(name="M"))
    assert model.mmproj is not None
    assert model.mmproj.sha256 == sha256(MMPROJ)


def test_the_same_bytes_of_two_programs_are_one_model(user: Path, scan: Scan) -> None:
    HuggingFace(hub_cache(user)).add("x.gguf", gguf(name="X"))
    Ollama(user / ".ollama" / "models").add("x", "1b", gguf(name="X"))
    assert [each.status for each in scan()] == [ScanStatus.ADOPTED, ScanStatus.KNOWN]


HOSTILE_MANIFESTS: list[object] = [
    [],
    {},
    {"layers": "all"},
    {"layers": [None, 7, []]},
    {"layers": [{}] * 2000},
    {"layers": [{"mediaType": "application/vnd.ollama.image.model"}]},
]


@pytest.mark.parametrize("document", HOSTILE_MANIFESTS)
def test_a_manifest_that_is_none_is_told(user: Path, scan: Scan, document: object) -> None:
    Ollama(user / ".ollama" / "models").manifest(document, "m", "1b")
    (outcome,) = scan()
    assert outcome.status is ScanStatus.SKIPPED


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        "sha256-" + "../" * 30 + "x.gguf",
        "/etc/passwd",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63,
        "\x1b]0;x\x07" * 10_000,
        7,
        None,
    ],
)
def test_a_digest_that_is_none_never_becomes_a_path(
    user: Path, tmp_path: Path, scan: Scan, digest: object
) -> None:
    tiny.write(tmp_path / "x.gguf", name="Outside")
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
    Ollama(user / ".ollama" / "models").manifest({"layers": [layer]}, "m", "1b")
    (reason,) = skipped(scan()).values()
    assert "is no digest" in reason
    assert len(reason) < 300
    assert reason.isprintable()


def test_what_ollama_has_only_in_part_or_elsewhere_is_told(user: Path, scan: Scan) -> None:
    ollama = Ollama(user / ".ollama" / "models")
    data = gguf(name="M")
    layer = ollama.layer("application/vnd.ollama.image.model", data)
    ollama.manifest({"layers": [layer | {"size": len(data) + 1}]}, "short", "1b")
    ollama.manifest({"layers": [layer | {"digest": "sha256:" + "0" * 64}]}, "gone", "1b")
    ollama.manifest({"layers": [layer, layer]}, "two", "1b")
    lora = ollama.layer("application/vnd.ollama.image.adapter", b"lora")
    ollama.manifest({"layers": [layer, lora]}, "tuned", "1b")
    ollama.manifest({"config": {}, "layers": []}, "cloud", "1b")
    big = ollama.manifest({}, "huge", "1b")
    with big.open("wb") as out:
        out.truncate(2**33)  # sparse: nobody reads 8 GiB to see that it is none
    broken = ollama.manifest({}, "torn", "1b")
    broken.write_bytes(b'{"layers": [')
    reasons = [str(each.reason) for each in scan()]
    for fact in (
        "should have",
        "is not there",
        "2 files with weights",
        "LoRA adapter",
        "no model in GGUF here",
        "is larger than",
        "is no JSON",
    ):
        assert len([reason for reason in reasons if fact in reason]) == 1, fact
    assert len(reasons) == 7


# --- llama.cpp ---


def test_the_digest_of_llama_cpps_manifest_is_recorded_and_its_etag_is_not(
    user: Path, scan: Scan
) -> None:
    cache = user / ".cache" / "llama.cpp"
    data = gguf(name="Linked")
    caches.llama_cpp(cache, "org/repo_a", "sub/x-Q4_K_M.gguf", data)
    (cache / "other_repo_plain.gguf").write_bytes(gguf(name="Plain"))
    (cache / "other_repo_plain.gguf.json").write_text('{"etag": "' + "a" * 64 + '"}')
    (cache / "other_repo_half.gguf.downloadInProgress").write_bytes(b"GG")
    outcomes = scan()
    models = adopted(outcomes)
    assert (models["linked"].source, models["linked"].sha256) == (
        "llama.cpp:org/repo_a",
        sha256(data),
    )
    assert models["plain"].source == "llama.cpp:other_repo_plain.gguf"
    assert models["plain"].sha256 is None
    assert "ended early" in skipped(outcomes)["other_repo_half.gguf.downloadInProgress"]


def test_an_encoder_goes_only_with_its_own_repository(user: Path, scan: Scan) -> None:
    cache = user / ".cache" / "llama.cpp"
    caches.llama_cpp(cache, "org/seeing", "x.gguf", gguf(name="Seeing"))
    caches.llama_cpp(cache, "org/blind", "y.gguf", gguf(name="Blind"))
    (cache / "org_seeing_mmproj.gguf").write_bytes(MMPROJ)
    (cache / "zed_seeing-too_z.gguf").write_bytes(gguf(name="Too"))
    (cache / "zed_seeing-too_mmproj-F16.gguf").write_bytes(MMPROJ)
    models = adopted(scan())
    assert models["blind"].mmproj is None
    too = models["too"].mmproj
    assert too is not None
    assert too.path == cache / "zed_seeing-too_mmproj-F16.gguf"


# --- where ---


def test_each_programs_own_variables_are_heard(tmp_path: Path, user: Path) -> None:
    names = ("hub", "hf-home/hub", "ollama", "cpp", "xdg/llama.cpp", "xdg/huggingface/hub")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/usr/share/ollama/.ollama/models").mkdir(parents=True)
    environment = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HOME": str(tmp_path / "hf-home"),
        "OLLAMA_MODELS": str(tmp_path / "ollama"),
        "LLAMA_CACHE": str(tmp_path / "cpp"),
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
    }
    found = places(environment, user, system=tmp_path / "root", platform="linux")
    assert [(each.runner, each.path.relative_to(tmp_path).as_posix()) for each in found] == [
        ("Hugging Face", "hub"),
        ("Hugging Face", "hf-home/hub"),
        ("Hugging Face", "xdg/huggingface/hub"),
        ("Ollama", "ollama"),
        ("Ollama", "root/usr/share/ollama/.ollama/models"),
        ("llama.cpp", "cpp"),
        ("llama.cpp", "xdg/llama.cpp"),
    ]


def test_macos_keeps_llama_cpps_cache_elsewhere(user: Path) -> None:
    cache = user / "Library" / "Caches" / "llama.cpp"
    cache.mkdir(parents=True)
    (place,) = places({}, user, system=user, platform="darwin")
    assert place.path == cache


def test_a_folder_with_two_names_is_looked_at_once(user: Path) -> None:
    (user / "real").mkdir()
    (user / ".ollama").mkdir()
    (user / ".ollama" / "models").symlink_to(user / "real")
    found = places({"OLLAMA_MODELS": str(user / "real")}, user, system=user, platform="linux")
    assert [place.path for place in found] == [user / "real"]


def test_a_library_that_cannot_be_changed_is_said_once(tmp_path: Path, user: Path) -> None:
    HuggingFace(hub_cache(user)).add("x.gguf", gguf(name="X"))
    (tmp_path / "data").write_bytes(b"")
    store = Store(tmp_path / "data", find_starter=lambda: None)
    found: tuple[Place, ...] = places({}, user, system=user, platform="linux")
    with pytest.raises(StoreError, match="cannot be changed"):
        list(sweep(store, found))


def test_the_starter_by_hard_link_is_adopted_as_a_real_model(
    user: Path, smollm2: Path, scan: Scan, store: Store
) -> None:
    studio = user / ".lmstudio" / "models" / "org" / "repo"
    studio.mkdir(parents=True)
    target = studio / smollm2.name
    try:
        os.link(smollm2, target)
    except OSError:
        pytest.skip("the test's directory is on another file system than the package")
    (model,) = adopted(scan()).values()
    assert (model.quant, model.size_bytes) == ("Q4_1", smollm2.stat().st_size)
    assert paths.models_dir(user.parent / "data").exists() is False
