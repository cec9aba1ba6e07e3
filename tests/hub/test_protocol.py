"""The loopback Hub against the client whose protocol it speaks."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub import set_client_factory as use_client
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.hub import FakeHub, SparseFile

MODEL = bytes(range(256)) * 4000
FILES = {
    "model.gguf": MODEL,
    "README.md": b"# A model\n",
    "parts/m-00001-of-00002.gguf": b"one",
    "parts/m-00002-of-00002.gguf": b"two",
}


@pytest.fixture(autouse=True)
def plain_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library's own behaviour, without what it would send elsewhere."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    use_client(lambda: httpx2.Client(follow_redirects=True, trust_env=False, timeout=10))
    yield
    use_client(lambda: httpx2.Client(trust_env=False))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_search_filters_sorts_and_stops_at_its_limit(hub: FakeHub) -> None:
    for number in range(7):
        hub.add_repo(f"org/qwen-{number}", {}, tags=("chat",), downloads=number)
    hub.add_repo("org/other", {}, tags=("chat",))
    hub.add_repo("org/qwen-plain", {})
    api = HfApi(endpoint=hub.endpoint, token=False)
    found = list(api.list_models(search="QWEN", filter=["gguf", "chat"], sort="downloads", limit=3))
    assert [each.id for each in found] == ["org/qwen-6", "org/qwen-5", "org/qwen-4"]
    assert [each.downloads for each in found] == [6, 5, 4]


def test_the_client_goes_through_all_pages_of_a_search(hub: FakeHub) -> None:
    hub.page = 3
    for number in range(8):
        hub.add_repo(f"org/m{number}", {})
    found = list(HfApi(endpoint=hub.endpoint, token=False).list_models())
    assert len({each.id for each in found}) == 8
    assert len(hub.requests) == 3


def test_an_expanded_search_says_what_was_asked_for(hub: FakeHub) -> None:
    hub.add_repo("org/m", {}, gated="manual", likes=3)
    api = HfApi(endpoint=hub.endpoint, token=False)
    (found,) = api.list_models(expand=["gated", "likes", "lastModified"])
    assert (found.gated, found.likes, found.downloads) == ("manual", 3, None)
    assert found.last_modified is not None
    assert found.last_modified.year == 2026


def test_model_info_has_sizes_and_hashes(hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", FILES, gated="auto", license="mit")
    info = HfApi(endpoint=hub.endpoint, token=False).model_info("org/m", files_metadata=True)
    assert (info.sha, info.gated, info.private) == (commit, "auto", False)
    assert info.card_data is not None
    assert info.card_data.license == "mit"
    listed = {each.rfilename: each for each in info.siblings or []}
    assert listed.keys() == FILES.keys()
    lfs = listed["model.gguf"].lfs
    assert lfs is not None
    assert (lfs.size, lfs.sha256) == (len(MODEL), sha256(MODEL))
    assert listed["README.md"].lfs is None
    assert listed["README.md"].size == 10


def test_a_revision_is_a_branch_or_a_commit(hub: FakeHub) -> None:
    old = hub.add_repo("org/m", {"model.gguf": b"old"})
    new = hub.change("org/m", {"model.gguf": b"new"})
    api = HfApi(endpoint=hub.endpoint, token=False)
    assert api.model_info("org/m").sha == api.model_info("org/m", revision="main").sha == new
    assert api.model_info("org/m", revision=old).sha == old
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/m", revision="no-such-branch")


def test_a_tree_is_listed_by_level_and_by_page(hub: FakeHub) -> None:
    hub.add_repo("org/m", FILES)
    hub.page = 2
    api = HfApi(endpoint=hub.endpoint, token=False)
    flat = list(api.list_repo_tree("org/m"))
    assert {each.path for each in flat if isinstance(each, RepoFolder)} == {"parts"}
    assert {each.path for each in flat if isinstance(each, RepoFile)} == {"model.gguf", "README.md"}
    deep = [
        each for each in api.list_repo_tree("org/m", recursive=True) if isinstance(each, RepoFile)
    ]
    assert {each.path: each.size for each in deep} == {
        name: len(data) for name, data in FILES.items()
    }
    hashes = {each.path: each.lfs.sha256 for each in deep if each.lfs}
    assert hashes["model.gguf"] == sha256(MODEL)
    below = list(api.list_repo_tree("org/m", "parts"))
    assert {each.path for each in below} == {name for name in FILES if name.startswith("parts/")}


def test_a_missing_repository_is_401_without_a_token_and_404_with_one(hub: FakeHub) -> None:
    with pytest.raises(HfHubHTTPError) as unknown:
        HfApi(endpoint=hub.endpoint, token=False).model_info("org/none")
    assert unknown.value.response.status_code == 401
    with pytest.raises(RepositoryNotFoundError) as known:
        HfApi(endpoint=hub.endpoint, token="hf_good").model_info("org/none")
    assert known.value.response.status_code == 404


def test_a_private_repository_is_there_for_a_token_only(hub: FakeHub) -> None:
    hub.add_repo("org/mine", {}, private=True)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.endpoint, token=False).model_info("org/mine")
    assert list(HfApi(endpoint=hub.endpoint, token=False).list_models()) == []
    assert HfApi(endpoint=hub.endpoint, token="hf_good").model_info("org/mine").private is True


def test_a_token_that_is_not_known_is_401_even_for_a_public_repository(hub: FakeHub) -> None:
    hub.add_repo("org/m", {})
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header"):
        HfApi(endpoint=hub.endpoint, token="hf_bad").model_info("org/m")


def test_metadata_of_a_large_file_is_on_the_redirect(hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", FILES)
    url = hf_hub_url("org/m", "model.gguf", endpoint=hub.endpoint)
    found = get_hf_file_metadata(url, token=False)
    assert (found.commit_hash, found.etag, found.size) == (commit, sha256(MODEL), len(MODEL))
    assert found.location.startswith(hub.cdn)
    assert hub.cdn_requests == ()


def test_metadata_of_a_small_file_follows_the_relative_redirect(hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", FILES)
    url = hf_hub_url("org/m", "README.md", endpoint=hub.endpoint)
    found = get_hf_file_metadata(url, token=False)
    assert (found.commit_hash, found.size) == (commit, 10)
    assert [each.status for each in hub.requests] == [307, 200]


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_client_downloads_every_file_whole(hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.add_repo("org/m", FILES)
    path = hf_hub_download(
        "org/m", name, endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False
    )
    assert Path(path).read_bytes() == FILES[name]


def test_gated_files_are_listed_for_all_and_given_to_members(hub: FakeHub, tmp_path: Path) -> None:
    hub.add_repo("org/m", FILES, gated="manual")
    assert HfApi(endpoint=hub.endpoint, token=False).model_info("org/m").gated == "manual"
    url = hf_hub_url("org/m", "model.gguf", endpoint=hub.endpoint)
    for token, status in ((False, 401), ("hf_good", 403)):
        with pytest.raises(GatedRepoError) as refused:
            get_hf_file_metadata(url, token=token)
        assert refused.value.response.status_code == status
    assert get_hf_file_metadata(url, token="hf_member").size == len(MODEL)


def test_a_missing_file_is_told_from_a_missing_repository(hub: FakeHub) -> None:
    hub.add_repo("org/m", FILES)
    with pytest.raises(RemoteEntryNotFoundError):
        get_hf_file_metadata(hf_hub_url("org/m", "no.gguf", endpoint=hub.endpoint), token=False)


def test_the_cdn_gives_ranges_by_its_own_etag(hub: FakeHub) -> None:
    commit = hub.add_repo("org/m", FILES)
    link, etag = (
        hub.link("org/m", commit, "model.gguf"),
        hub.cdn_etag("org/m", commit, "model.gguf"),
    )
    assert sha256(MODEL) not in etag
    with httpx2.Client(trust_env=False) as client:
        part = client.get(link, headers={"Range": "bytes=10-19", "If-Range": etag})
        assert (part.status_code, part.content) == (206, MODEL[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(MODEL)}"
        assert client.get(link, headers={"Range": "bytes=-5"}).content == MODEL[-5:]
        assert client.get(link, headers={"Range": "bytes=1023990-"}).content == MODEL[1023990:]
        beyond = client.get(link, headers={"Range": f"bytes={len(MODEL)}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (
            416,
            f"bytes */{len(MODEL)}",
        )
        other = {"Range": "bytes=10-19", "If-Range": f'"{sha256(MODEL)}"'}
        assert client.get(link, headers=other).status_code == 200
        hub.restamp("org/m", "model.gguf")
        assert client.get(link, headers={"Range": "bytes=1-", "If-Range": etag}).status_code == 200
        assert client.get(link, headers={"Authorization": "Bearer hf_good"}).status_code == 400
        hub.expire_links()
        assert client.get(link).status_code == 403
        assert client.get(hub.link("org/m", commit, "model.gguf")).status_code == 200


def test_a_hole_of_40_gb_is_served_without_being_held(hub: FakeHub) -> None:
    size = 40 * 10**9
    commit = hub.add_repo("org/m", {"big.gguf": SparseFile(b"GGUF", size)})
    info = HfApi(endpoint=hub.endpoint, token=False).model_info("org/m", files_metadata=True)
    assert info.siblings is not None
    assert info.siblings[0].size == size
    with httpx2.Client(trust_env=False) as client:
        link = hub.link("org/m", commit, "big.gguf")
        assert client.get(link, headers={"Range": "bytes=0-5"}).content == b"GGUF\0\0"
        last = client.get(link, headers={"Range": f"bytes={size - 2}-"})
        assert (last.status_code, last.content) == (206, b"\0\0")
