"""Links to the Hub as people paste them, in every verb that takes a model."""

from pathlib import Path

import pytest

from tests.cli.hub_processes import document, localllm, renamed, rows
from tests.hub import FakeHub
from tests.hub.content import content

REPO = "acme/Testllm-GGUF"
FILE = "Testllm-135M-Q4_1.gguf"
LINKS = [
    f"https://huggingface.co/{REPO}",
    f"https://huggingface.co/{REPO}/tree/main/?x=1",
    f"https://huggingface.co/{REPO}/blob/main/{FILE}",
    f"https://huggingface.co/{REPO}/resolve/main/{FILE}?download=true",
    f"hf.co/{REPO}:Q4_1",
]


@pytest.fixture
def stocked(hub: FakeHub, smollm2: Path) -> FakeHub:
    hub.add_repo(REPO, {FILE: renamed(smollm2), "README.md": b"# a model"})
    return hub


@pytest.mark.parametrize("link", LINKS)
def test_a_link_is_the_repository_for_what_asks_the_hub(stocked: FakeHub, link: str) -> None:
    pulled = document(localllm(stocked, "pull", link, "--dry-run", "--json"))
    assert (pulled["repo"], pulled["quant"]) == (REPO, "Q4_1")
    sized = document(localllm(stocked, "size", link, "--json"))
    assert (sized["name"], sized["quant"]) == (REPO, "Q4_1")
    shown = document(localllm(stocked, "show", link, "--json"))
    assert shown["repository"] == REPO
    (plan,) = rows(document(localllm(stocked, "suggest", "--repo", link, "--json")), "plans")
    assert (plan["model"], plan["quant"]) == (REPO, "Q4_1")


@pytest.mark.parametrize(
    ("verb", "more"), [("run", ["Hello"]), ("serve", []), ("bench", []), ("verify", [])]
)
def test_a_link_to_what_is_not_here_says_how_to_fetch_it(
    stocked: FakeHub, verb: str, more: list[str]
) -> None:
    done = localllm(stocked, verb, LINKS[2], *more)
    assert done.returncode == 5, done.stderr
    assert f"localllm pull {LINKS[2]}" in done.stderr
    assert stocked.requests == ()


def test_what_was_pulled_by_a_link_answers_by_every_link(stocked: FakeHub) -> None:
    assert localllm(stocked, "pull", LINKS[3], "--quiet").returncode == 0
    for link in LINKS:
        answer = localllm(stocked, "run", link, "Hello", "--max-tokens", "2", "--json")
        assert document(answer)["text"]
    before = len(stocked.requests)
    assert localllm(stocked, "verify", LINKS[0]).returncode == 0
    assert len(stocked.requests) == before


def test_a_link_to_a_revision_gives_its_files(stocked: FakeHub, smollm2: Path) -> None:
    old = stocked.repos[REPO].head
    stocked.repos[REPO].commit({"Other-Q4_1.gguf": content(renamed(smollm2))})
    link = f"https://huggingface.co/{REPO}/tree/{old}"
    found = document(localllm(stocked, "pull", link, "--dry-run", "--json"))
    assert found["commit"] == old
    assert rows(found, "files")[0]["name"] == FILE
    again = localllm(stocked, "pull", link, "--revision", "main", "--dry-run")
    assert again.returncode == 2
    assert "--revision" in again.stderr


@pytest.mark.parametrize(
    ("link", "status", "words"),
    [
        ("https://huggingface.co/acme/None", 5, "acme/None"),
        (f"https://huggingface.co/{REPO}/blob/main/gone.gguf", 5, "has no gone.gguf"),
        ("https://huggingface.co/acme", 2, "no repository"),
        ("https://example.com/acme/x", 2, "no link of the Hub"),
    ],
)
def test_a_link_that_leads_nowhere_says_so(
    stocked: FakeHub, link: str, status: int, words: str
) -> None:
    for verb in ("pull", "size"):
        done = localllm(stocked, verb, link)
        if verb == "pull" or status == 5:
            assert done.returncode == status, done.stderr
            assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_link_to_a_mirror_of_ones_own_is_read(stocked: FakeHub) -> None:
    found = document(localllm(stocked, "pull", f"{stocked.endpoint}/{REPO}", "--dry-run", "--json"))
    assert found["repo"] == REPO
