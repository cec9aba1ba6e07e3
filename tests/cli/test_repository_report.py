"""`search`, `show`, `size` and `suggest` on repositories of the Hub: a listing and one header."""

from pathlib import Path

import pytest

from tests.cli.hub_processes import document, localllm, renamed, rows, sparse, with_vocabulary
from tests.core.forge_published import EVERY_ATTENTION
from tests.hub import BrokenJson, FakeHub, SparseFile

BIG = "big/Mixtral-GGUF"
MAX_BYTES = 16 << 20
HOSTILE = "\x1b[2J[/INST]"


@pytest.fixture
def big(hub: FakeHub, tmp_path: Path) -> FakeHub:
    """A Hub with a model of 46 GiB, whose header is as long as real ones are."""
    mixtral = next(each for each in EVERY_ATTENTION if each.name == "Mixtral-8x7B")
    file = sparse(with_vocabulary(mixtral), tmp_path)
    assert file.size > 40 << 30
    hub.add_repo(BIG, {"Mixtral-Q8_0.gguf": file, "README.md": b"# big"})
    return hub


# a large model


def test_a_model_of_46_gib_is_sized_exactly_after_a_few_megabytes(big: FakeHub) -> None:
    found = document(localllm(big, "size", BIG, "--exact", "--json", "--ctx", "8192"))
    assert 0 < big.bytes_sent < MAX_BYTES
    assert found["quant"] == "Q8_0"
    assert abs(float(str(found["error_percent"]))) < 1
    exact, estimate = found["exact"], found["footprint"]
    assert isinstance(exact, dict)
    assert isinstance(estimate, dict)
    assert exact["kv_bytes"] == estimate["kv_bytes"]
    assert estimate["weights_bytes"] > 40 << 30


def test_a_header_is_read_once_for_every_verb(big: FakeHub) -> None:
    first = localllm(big, "size", f"{BIG}:Q8_0")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("Asking 127.0.0.1")
    read = len(big.cdn_requests)
    for arguments in (["suggest", "--repo", BIG], ["show", BIG], ["size", BIG, "--ctx", "512"]):
        done = localllm(big, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("Asking 127.0.0.1")
    assert len(big.cdn_requests) == read


def test_suggest_plans_for_a_machine_that_is_described(big: FakeHub) -> None:
    preferences = ["--ram", "64GiB", "--vram", "80GiB", "--gpu", "H100", "--json"]
    (plan,) = rows(document(localllm(big, "suggest", "--repo", BIG, *preferences)), "plans")
    assert (plan["model"], plan["quant"], plan["verdict"]) == (BIG, "Q8_0", "good")
    small = localllm(big, "suggest", "--repo", BIG, "--ram", "8GiB")
    assert f"Nothing of {BIG} fits" in small.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["size", f"{BIG}:Q2_K"], 5, ["has no Q2_K", "Q8_0"]),
        (["size", "big/None"], 5, ["big/None"]),
        (["size", f"{BIG}:"], 2, ["no quant"]),
        (["size", BIG, "--revision", "gone"], 5, ["gone"]),
        (["suggest", "--repo", "nonsense"], 2, ["ORG/REPO"]),
        (["suggest", "--repo", BIG, "--task", "chat"], 2, ["--task"]),
        (["suggest", "--repo", BIG, "--license", "MIT"], 2, ["--license"]),
        (["suggest", "--repo", BIG, "--offline"], 1, ["--offline"]),
        (["show", "big/None"], 5, ["big/None"]),
        (["show", f"{BIG}:Q8_0"], 2, ["every quant"]),
        (["search"], 2, ["TEXT"]),
        (["search", " "], 2, ["1 to 200"]),
        (["search", "x", "--limit", "0"], 2, ["--limit"]),
        (["search", "x", "--offline"], 1, ["--offline"]),
    ],
)
def test_bad_input_ends_with_its_status_and_no_traceback(
    big: FakeHub, arguments: list[str], status: int, words: list[str]
) -> None:
    done = localllm(big, *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_the_header_of_a_quant_that_was_not_read_is_worked_out_and_said_so(
    hub: FakeHub, smollm2: Path
) -> None:
    raw = renamed(smollm2)
    larger = SparseFile(head=raw[: 4 << 20], size=int(len(raw) * 1.25))
    hub.add_repo("acme/Two", {"T-Q4_1.gguf": raw, "T-UD-Q5_K_XL.gguf": larger})
    shown = rows(document(localllm(hub, "show", "acme/Two", "--json")), "offers")
    assert [row["quant"] for row in shown] == ["UD-Q5_K_XL", "Q4_1"]
    assert "no llama.cpp mix" in str(shown[0]["note"])
    assert shown[1]["note"] is None
    found = document(localllm(hub, "size", "acme/Two:Q4_1", "--json", "--exact"))
    assert abs(float(str(found["error_percent"]))) < 2


def test_the_exact_size_is_that_of_the_file_on_disk(hub: FakeHub, smollm2: Path) -> None:
    hub.add_repo("acme/One", {"T-Q4_1.gguf": renamed(smollm2)})
    options = ["--exact", "--json", "--ctx", "2048", "--parallel", "2"]
    there, here = (
        document(localllm(hub, "size", model, *options)) for model in ("acme/One", smollm2)
    )
    assert there["exact"] == here["exact"]
    assert there["footprint"] == here["footprint"]


def test_what_is_here_by_that_name_is_not_asked_of_the_hub(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme" / "One").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    done = localllm(hub, "size", "acme/One")
    assert done.returncode == 5
    assert hub.requests == ()


# search


def test_search_lists_the_most_downloaded_first(hub: FakeHub) -> None:
    for name, downloads in (("acme/Qwen-a-GGUF", 5), ("acme/Qwen-b-GGUF", 5_000_000)):
        hub.add_repo(name, {"a.gguf": b"x"}, downloads=downloads, gated=downloads == 5)
    hub.add_repo("acme/Other-GGUF", {"a.gguf": b"x"})
    found = rows(document(localllm(hub, "search", "qwen", "--json")), "repositories")
    assert [each["name"] for each in found] == ["acme/Qwen-b-GGUF", "acme/Qwen-a-GGUF"]
    done = localllm(hub, "search", "QWEN", "gguf")
    assert done.stderr.startswith("Asking 127.0.0.1")
    assert "5,000,000" in done.stdout
    assert "gated" in done.stdout
    assert len(rows(document(localllm(hub, "search", "q", "--limit", "1", "--json")),
                    "repositories")) == 1  # fmt: skip
    nothing = localllm(hub, "search", "zzz", "--quiet")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "zzz" in nothing.stderr


def test_an_answer_that_is_no_json_is_an_error_of_the_hub(hub: FakeHub) -> None:
    hub.faults.add(BrokenJson())
    done = localllm(hub, "search", "qwen")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_what_the_hub_writes_reaches_no_terminal_as_it_is(hub: FakeHub) -> None:
    hub.add_repo("acme/Odd-GGUF", {"a.gguf": b"x"}, license=HOSTILE, tags=(HOSTILE,))
    done = localllm(hub, "show", "acme/Odd-GGUF")
    assert "\x1b" not in done.stdout + done.stderr
    assert "[/INST]" in done.stdout
