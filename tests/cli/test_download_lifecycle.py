"""A download's whole life: pulled, damaged, found out, fetched again, removed."""

from pathlib import Path

import pytest

from localllm.errors import ExitCode
from tests.cli.hub_processes import document, localllm, rows, split_model
from tests.hub import FakeHub
from tests.library import tiny

REPO = "acme/Tiny-GGUF"
PARTS = split_model("tiny-Q4_K_M", 2)
FILES = {**PARTS, "mmproj-F16.gguf": b"eyes"}


@pytest.fixture
def stocked(hub: FakeHub) -> FakeHub:
    hub.add_repo(REPO, FILES)
    return hub


@pytest.fixture
def folder(stocked: FakeHub, home: Path) -> Path:
    """Where the model is after a pull."""
    document(localllm(stocked, "pull", f"{REPO}:Q4_K_M", "--json"))
    return home / "data" / "hub" / "acme" / "Tiny-GGUF"


def tiny_row(hub: FakeHub) -> dict[str, object]:
    listed = rows(document(localllm(hub, "ls", "--json")), "models")
    return next(row for row in listed if row["name"] == "tiny")


def test_what_the_hub_published_is_what_verify_compares_with(
    stocked: FakeHub, folder: Path
) -> None:
    requests_before = len(stocked.requests)
    (row,) = rows(document(localllm(stocked, "verify", "tiny", "--json")), "models")
    assert (row["ok"], row["detail"]) == (True, "matches the recorded SHA-256")
    assert len(stocked.requests) == requests_before  # nothing was asked of the network


@pytest.mark.parametrize("name", list(FILES))
def test_a_damaged_file_is_found_out_and_a_pull_brings_it_back(
    stocked: FakeHub, folder: Path, name: str
) -> None:
    tiny.spoil(folder / name)
    checked = localllm(stocked, "verify", "tiny", "--quiet")
    assert checked.returncode == ExitCode.FAILED
    assert name in checked.stderr
    assert f"localllm pull {REPO}:Q4_K_M" in checked.stderr
    assert tiny_row(stocked)["verified_at"] is None
    document(localllm(stocked, "pull", f"{REPO}:Q4_K_M", "--json"))
    assert (folder / name).read_bytes() == FILES[name]
    assert tiny_row(stocked)["state"] == "ok"
    assert tiny_row(stocked)["verified_at"] is not None


def test_rm_frees_all_of_it(stocked: FakeHub, folder: Path, home: Path) -> None:
    removed = document(localllm(stocked, "rm", "tiny", "--yes", "--json"))
    assert removed["freed_bytes"] == sum(map(len, FILES.values()))
    assert removed["deleted"] == [str(folder / name) for name in FILES]
    assert list((home / "data" / "hub").iterdir()) == []
