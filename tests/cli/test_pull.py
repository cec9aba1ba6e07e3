"""`localllm pull` as processes in front of the loopback Hub, with a model that really answers."""

import json
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from localllm.core.catalogue.catalogue import Entry
from localllm.core.catalogue.requantize import Requantizer
from localllm.core.gguf.writer import header_bytes
from localllm.library.files.catalogue_file import read_catalogue
from tests.cli.hub_processes import document, localllm, renamed, rows, split_model, start
from tests.core import forge
from tests.core.forge import Forged
from tests.hub import FakeHub, Flip, Portal, Refuse, SparseFile, Stall

REPO = "acme/Testllm-GGUF"
FILE = "Testllm-135M-Q4_1.gguf"
FAR = 48 << 20
"""What a server has sent by then no buffers can hold: most of it was read by the client."""


@pytest.fixture
def stocked(hub: FakeHub, smollm2: Path) -> FakeHub:
    """A Hub with one real model, which is not the installed one."""
    hub.add_repo(REPO, {FILE: renamed(smollm2), "README.md": b"# a model"})
    return hub


@pytest.fixture
def data(home: Path) -> Path:
    return home / "data"


def stalled(hub: FakeHub, after: int = FAR) -> Stall:
    """Let the next transfer of a model stop in the middle; its header is read before that."""
    assert localllm(hub, "pull", REPO, "--dry-run").returncode == 0
    stall = Stall(after, threading.Event())
    hub.faults.add(stall, times=1)
    return stall


def number(found: dict[str, object], key: str) -> int:
    value = found[key]
    assert isinstance(value, int)
    return value


# what it does when all goes well


def test_what_was_pulled_answers(stocked: FakeHub, data: Path) -> None:
    found = document(localllm(stocked, "pull", REPO, "--json"))
    path = data / "hub" / REPO / FILE
    assert found.keys() >= {"file", "bytes", "sha256", "commit", "resumed_from"}
    assert (found["file"], found["bytes"]) == (str(path), path.stat().st_size)
    assert found["commit"] == stocked.repos[REPO].head
    assert found["resumed_from"] == 0
    assert found["transferred_bytes"] == found["bytes"]
    answer = localllm(stocked, "run", str(found["name"]), "Hello", "--max-tokens", "4", "--json")
    assert document(answer)["text"]
    listed = document(localllm(stocked, "ls", "--json"))
    pulled = next(model for model in rows(listed, "models") if model["name"] == found["name"])
    assert pulled["source"] == f"hub:{REPO}@{found['commit']}"
    assert pulled["sha256"] == found["sha256"]
    assert pulled["verified_at"]


def test_it_says_whom_it_asks_and_why_this_quant(stocked: FakeHub) -> None:
    done = localllm(stocked, "pull", REPO)
    host = stocked.endpoint.removeprefix("http://")
    assert done.stderr.startswith(f"Asking {host} ...\n")
    assert f"{REPO}:Q4_1" in done.stderr
    assert "tok/s" in done.stderr
    assert "%)" in done.stderr  # plain lines of progress: this is no terminal
    assert "testllm" in done.stdout


def test_quiet_says_nothing(stocked: FakeHub) -> None:
    done = localllm(stocked, "pull", REPO, "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_second_pull_fetches_nothing_and_says_so(stocked: FakeHub) -> None:
    assert localllm(stocked, "pull", REPO).returncode == 0
    before = len(stocked.cdn_requests)
    again = localllm(stocked, "pull", REPO)
    assert again.returncode == 0
    assert "installed already" in again.stderr
    assert len(stocked.cdn_requests) == before
    found = document(localllm(stocked, "pull", REPO, "--json"))
    assert (found["already_installed"], found["transferred_bytes"]) == (True, 0)


def test_a_dry_run_fetches_no_byte_of_the_file(stocked: FakeHub, data: Path) -> None:
    found = document(localllm(stocked, "pull", REPO, "--dry-run", "--json"))
    file = rows(found, "files")[0]
    assert file["path"] == str(data / "hub" / REPO / FILE)
    assert found["missing_bytes"] == found["bytes"] == file["size_bytes"]
    assert found["has_room"] is True
    assert not (data / "hub").exists()
    assert stocked.bytes_sent < 4 << 20  # the header
    message = localllm(stocked, "pull", REPO, "--dry-run").stdout
    assert FILE in message
    assert "there is room" in message


def test_a_directory_of_ones_own_gets_the_file_and_keeps_it(
    stocked: FakeHub, tmp_path: Path
) -> None:
    dest = tmp_path / "my models"
    found = document(localllm(stocked, "pull", REPO, "--dest", dest, "--name", "mine", "--json"))
    assert (found["file"], found["name"]) == (str(dest / FILE), "mine")
    assert localllm(stocked, "rm", "mine", "--yes").returncode == 0
    assert (dest / FILE).exists()


def test_a_catalogue_name_takes_the_first_repository_that_is_there(hub: FakeHub) -> None:
    entry = catalogue_entry("smollm2-135m")
    publish(hub, entry, entry.repos[1], ("Q8_0", "Q4_K_M"))
    found = document(localllm(hub, "pull", f"{entry.name}:Q8_0", "--dry-run", "--json"))
    assert (found["repo"], found["quant"]) == (entry.repos[1], "Q8_0")


def test_the_parts_of_a_model_and_its_encoder_come_together(hub: FakeHub, data: Path) -> None:
    parts = split_model("Tiny-Q4_K_M", 3)
    hub.add_repo("acme/Tiny-GGUF", {**parts, "mmproj-F16.gguf": b"eyes", "mmproj-F32.gguf": b"no"})
    done = localllm(hub, "pull", "acme/Tiny-GGUF:Q4_K_M", "--json", "--connections", "2")
    found = document(done)
    folder = data / "hub/acme/Tiny-GGUF"
    files = {each.name for each in folder.iterdir() if not each.name.endswith(".lock")}
    assert files == {*parts, "mmproj-F16.gguf"}
    assert found["mmproj"] == str(folder / "mmproj-F16.gguf")
    assert len(rows(found, "files")) == 4
    assert "not known" in done.stderr  # such a model is fetched all the same when it is named
    assert found["bytes"] == sum(len(each) for each in parts.values())


# what it chooses


def catalogue_entry(name: str) -> Entry:
    return next(each for each in read_catalogue() if each.name == name)


def publish(hub: FakeHub, entry: Entry, repo: str, quants: tuple[str, ...]) -> None:
    """A repository of sparse files with the lengths and headers that the quants really have."""
    files = {
        f"M-{quant}.gguf": SparseFile(
            head=header_bytes(entry.spec(quant)), size=entry.file_bytes(quant)
        )
        for quant in quants
    }
    hub.add_repo(repo, files)


@pytest.mark.parametrize(
    "options", [[], ["--goal", "quality"], ["--goal", "speed", "--ctx", "512"]]
)
def test_it_takes_what_suggest_takes(hub: FakeHub, options: list[str]) -> None:
    publish(hub, catalogue_entry("smollm2-135m"), "acme/M", ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K"))
    pulled = document(localllm(hub, "pull", "acme/M", "--dry-run", "--json", *options))
    suggested = document(localllm(hub, "suggest", "--repo", "acme/M", "--json", *options))
    (plan,) = rows(suggested, "plans")
    assert pulled["quant"] == plan["quant"]
    shown = rows(document(localllm(hub, "show", "acme/M", "--json")), "offers")
    assert [row["quant"] for row in shown] == ["Q8_0", "Q6_K", "Q4_K_M", "Q2_K"]
    assert sum(row["pick"] is True for row in shown) == 1


def test_when_nothing_fits_nothing_is_fetched_unless_a_quant_is_named(
    hub: FakeHub, home: Path
) -> None:
    publish(hub, catalogue_entry("qwen3-0.6b"), "acme/M", ("Q8_0", "Q4_K_M"))
    (home / "config" / "settings.toml").write_text(f"reserve_bytes = {2**50}\n")
    done = localllm(hub, "pull", "acme/M")
    assert done.returncode == 3
    assert "0 B is free" in done.stderr
    assert "acme/M:Q4_K_M" in done.stderr
    named = localllm(hub, "pull", "acme/M:Q4_K_M", "--dry-run")
    assert named.returncode == 0
    assert "Warning: acme/M Q4_K_M" in named.stderr


# what it says when it cannot


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["no-such-model"], 5, ["no-such-model", "localllm search"]),
        (["qwen3-0.6bb"], 5, ["qwen3-0.6b"]),
        (["acme/Nothing"], 5, ["acme/Nothing"]),
        ([f"{REPO}:Q8_0"], 5, ["has no Q8_0", "Q4_1"]),
        ([f"{REPO}:Q4_1", "--quant", "Q8_0"], 2, ["another"]),
        (["../../etc"], 2, ["ORG/REPO"]),
        (["https://example.com/a/b"], 2, ["ORG/REPO"]),
        ([REPO, "--revision", "no-such-branch"], 5, ["no-such-branch"]),
        ([REPO, "--revision", "../x"], 2, ["revision"]),
        ([REPO, "--connections", "9"], 2, ["--connections"]),
        ([REPO, "--name", "Not a Name"], 2, ["not-a-name"]),
        ([REPO, "--name", "starter"], 2, ["starter is taken"]),
        ([], 2, ["MODEL"]),
    ],
)
def test_bad_input_ends_with_its_status_and_no_traceback(
    stocked: FakeHub, arguments: list[str], status: int, words: list[str], data: Path
) -> None:
    done = localllm(stocked, "pull", *arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (data / "hub").exists()


@pytest.mark.parametrize("verb", ["pull", "show", "size"])
@pytest.mark.parametrize("switch", ["--offline", "LOCALLLM_OFFLINE", "offline in settings"])
def test_offline_is_said_at_once_with_the_switch(
    stocked: FakeHub, verb: str, switch: str, home: Path
) -> None:
    more = {switch: "1"} if switch.isupper() else {}
    if switch == "offline in settings":
        (home / "config" / "settings.toml").write_text("offline = true\n")
    option = [switch] if switch.startswith("--") else []
    done = localllm(stocked, verb, REPO, *option, **more)
    assert done.returncode == 1
    assert switch in done.stderr
    assert "Asking" not in done.stderr
    assert stocked.requests == ()


def test_a_gated_repository_says_where_to_ask_and_comes_with_a_token(
    hub: FakeHub, smollm2: Path
) -> None:
    hub.add_repo(REPO, {FILE: renamed(smollm2)}, gated="manual")
    refused = localllm(hub, "pull", REPO)
    assert refused.returncode == 1
    assert f"/{REPO}" in refused.stderr
    seen = document(localllm(hub, "show", REPO, "--json"))
    assert (seen["gated"], rows(seen, "offers")[0]["verdict"]) == (True, None)
    done = localllm(hub, "pull", REPO, HF_TOKEN="hf_member")
    assert done.returncode == 0, done.stderr
    assert "hf_member" not in refused.stderr + done.stderr + done.stdout
    assert not any(each.token for each in hub.cdn_requests)


def test_a_captive_portal_is_no_hub(stocked: FakeHub, data: Path) -> None:
    stocked.faults.add(Portal())
    done = localllm(stocked, "pull", REPO)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert not (data / "hub").exists()


def test_a_file_that_is_no_model_is_refused_before_it_is_fetched(hub: FakeHub, data: Path) -> None:
    hub.add_repo(REPO, {FILE: b"<!doctype html>" * 1000})
    done = localllm(hub, "pull", REPO)
    assert done.returncode == 1
    assert "web page" in done.stderr
    assert not (data / "hub").exists()


def test_a_flipped_byte_is_mended_and_one_that_stays_is_never_installed(
    stocked: FakeHub, data: Path
) -> None:
    assert localllm(stocked, "pull", REPO, "--dry-run").returncode == 0
    stocked.faults.add(Flip(50 << 20))
    done = localllm(stocked, "pull", REPO)
    assert done.returncode == 1
    assert not (data / "hub" / REPO / FILE).exists()
    stocked.faults.clear()
    mended = document(localllm(stocked, "pull", REPO, "--json"))
    assert mended["sha256"] == published_sha256(stocked)


def published_sha256(hub: FakeHub) -> str:
    return hub.repos[REPO].commits[hub.repos[REPO].head][FILE].sha256


# what happens when it is interrupted


def test_after_a_kill_the_same_command_goes_on(stocked: FakeHub) -> None:
    stall = stalled(stocked)
    process = start(stocked, "pull", REPO)
    assert stall.reached.wait(60)
    process.kill()
    process.communicate(timeout=60)
    stall.until.set()
    planned = document(localllm(stocked, "pull", REPO, "--dry-run", "--json"))
    assert number(planned, "missing_bytes") < number(planned, "bytes")
    done = localllm(stocked, "pull", REPO, "--json")
    found = document(done)
    resumed, came = number(found, "resumed_from"), number(found, "transferred_bytes")
    assert resumed > 16 << 20
    assert resumed + came == number(found, "bytes")


def test_ctrl_c_is_one_message_and_keeps_what_came(stocked: FakeHub) -> None:
    stall = stalled(stocked)
    process = start(stocked, "pull", REPO)
    assert stall.reached.wait(60)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    stall.until.set()
    assert process.returncode == 130
    assert message.count("Stopped") == 1
    assert "Traceback" not in message
    found = document(localllm(stocked, "pull", REPO, "--json"))
    assert number(found, "resumed_from") > 0


def test_two_at_once_fetch_the_file_once(stocked: FakeHub) -> None:
    stall = stalled(stocked)
    sent = stocked.bytes_sent
    first = start(stocked, "pull", REPO, "--json")
    assert stall.reached.wait(60)
    second = start(stocked, "pull", REPO, "--json")
    assert second.stderr is not None
    until_line(second, "waiting")
    stall.until.set()
    for process in (first, second):
        out, message = process.communicate(timeout=60)
        assert process.returncode == 0, message
        assert json.loads(out)["bytes"]
    published = stocked.file(REPO, stocked.repos[REPO].head, FILE)
    assert published is not None
    assert stocked.bytes_sent - sent < 1.1 * published.size


def until_line(process: subprocess.Popen[str], word: str) -> None:
    """Read what a process says until a line holds a word."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(word, line):
            return
    raise AssertionError(f"it ended without saying {word}")


def test_a_busy_hub_is_asked_again(stocked: FakeHub) -> None:
    stocked.faults.add(Refuse(503, retry_after="0"), times=2)
    assert localllm(stocked, "pull", REPO, "--quiet").returncode == 0


# repositories as they are


def forged(name: str, architecture: str = "llama", *, layers: int = 12) -> Forged:
    """A small decoder (of 12 layers 40 MiB in Q8_0) that llama.cpp knows the architecture of."""
    width, feed_forward, vocabulary = 512, 1536, 320
    shapes = {
        "attn_norm.weight": (width,), "attn_q.weight": (width, width),
        "attn_k.weight": (width, width), "attn_v.weight": (width, width),
        "attn_output.weight": (width, width), "ffn_norm.weight": (width,),
        "ffn_gate.weight": (width, feed_forward), "ffn_up.weight": (width, feed_forward),
        "ffn_down.weight": (feed_forward, width),
    }  # fmt: skip
    inside = [(f"blk.{n}.{key}", shape) for n in range(layers) for key, shape in shapes.items()]
    ends = {"token_embd.weight": (width, vocabulary), "output_norm.weight": (width,)}
    return Forged(
        name=name,
        architecture=architecture,
        keys={
            "block_count": layers, "context_length": 2048, "embedding_length": width,
            "feed_forward_length": feed_forward, "attention.head_count": 8,
            "attention.head_count_kv": 8, "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.dimension_count": 64,
        },
        vocabulary=vocabulary,
        tensors=(*ends.items(), *inside),
        general={"general.file_type": 7},
    )  # fmt: skip


def with_quants(path: Path) -> dict[str, bytes | SparseFile]:
    """A model in Q8_0, whose file is written to `path`, and F16."""
    forge.write(forged("Gemma"), path)
    own = Requantizer(forge.spec(forged("Gemma")))
    f16 = own.spec(own.match(("F16",), 0), file_bytes=0)
    head = header_bytes(f16)
    length = len(head) + f16.tensors[-1].offset + f16.tensors[-1].size_bytes + 32
    return {
        "gemma-4-E2B-it-Q8_0.gguf": path.read_bytes(),
        "gemma-4-E2B-it-F16.gguf": SparseFile(head=head, size=length),
    }


def test_a_model_that_llama_cpp_does_not_know_is_named_before_it_is_fetched(
    hub: FakeHub, tmp_path: Path
) -> None:
    for architecture in ("superllm9", "flux"):
        forge.write(forged(architecture, architecture, layers=1), tmp_path / "m.gguf")
        files = {f"{architecture}-Q8_0.gguf": (tmp_path / "m.gguf").read_bytes()}
        hub.add_repo(f"acme/{architecture}", files)
    new = localllm(hub, "pull", "acme/superllm9:Q8_0", "--dry-run")
    assert new.returncode == 0, new.stderr
    assert "does not know the architecture 'superllm9'" in new.stderr
    image = localllm(hub, "pull", "acme/flux:Q8_0")
    assert image.returncode == 1
    assert "holds no language model (flux)" in image.stderr


@pytest.mark.parametrize(
    ("drafter", "architecture"),
    [
        ("MTP/gemma-4-E2B-it-Q8_0-MTP.gguf", "gemma4-assistant"),
        ("mtp-gemma-4-E2B-it.gguf", "gemma4-assistant"),
        ("gemma-4-E2B-it-EAGLE3-Q8_0.gguf", "eagle3"),
        ("tiny-Q4_K_M.gguf", "dflash"),  # only its header tells
    ],
)
@pytest.mark.parametrize("asked", ["acme/Gemma-GGUF", "acme/Gemma-GGUF:Q8_0"])
def test_a_drafter_is_not_pulled_in_the_models_place(
    hub: FakeHub, tmp_path: Path, drafter: str, architecture: str, asked: str
) -> None:
    forge.write(forged("draft", architecture, layers=1), tmp_path / "draft.gguf")
    files = with_quants(tmp_path / "model.gguf")
    hub.add_repo("acme/Gemma-GGUF", {drafter: (tmp_path / "draft.gguf").read_bytes(), **files})
    done = localllm(hub, "pull", asked, "--dry-run", "--json")
    assert rows(document(done), "files")[0]["name"] in files
    shown = document(localllm(hub, "show", "acme/Gemma-GGUF", "--json"))
    assert len(rows(shown, "offers")) == 2
    assert [left["name"] for left in rows(shown, "left_out")] == [drafter]


def test_a_drafter_that_is_named_is_fetched_with_a_warning_and_no_praise(
    hub: FakeHub, tmp_path: Path
) -> None:
    forge.write(forged("draft", "eagle3", layers=1), tmp_path / "draft.gguf")
    files = with_quants(tmp_path / "model.gguf")
    drafter = {"mtp-gemma.gguf": (tmp_path / "draft.gguf").read_bytes()}
    hub.add_repo("acme/Gemma-GGUF", {**drafter, **files})
    done = localllm(hub, "pull", "acme/Gemma-GGUF:mtp-gemma.gguf", "--dry-run")
    assert done.returncode == 0
    assert "mtp-gemma.gguf (" in done.stdout
    assert "is a drafter" in done.stderr
    for word in ("tok/s", "Fits", "Left out"):
        assert word not in done.stderr


def test_a_repository_of_drafters_says_that_it_is_one(hub: FakeHub, tmp_path: Path) -> None:
    forge.write(forged("draft", "eagle3", layers=1), tmp_path / "draft.gguf")
    hub.add_repo("acme/EAGLE-GGUF", {"m-EAGLE3-Q8_0.gguf": (tmp_path / "draft.gguf").read_bytes()})
    done = localllm(hub, "pull", "acme/EAGLE-GGUF")
    assert done.returncode == 5
    assert "drafter" in done.stderr


def test_one_file_that_cannot_be_read_hides_no_other(hub: FakeHub, tmp_path: Path) -> None:
    files = with_quants(tmp_path / "model.gguf")
    # The id of the first tensor's type, after its name and two dimensions.
    raw = bytearray((tmp_path / "model.gguf").read_bytes())
    name = b"token_embd.weight"
    raw[raw.index(name) + len(name) + 20] = 144
    bad = {"gemma-4-E2B-it-Q4_K_M.gguf": bytes(raw), "gemma-4-E2B-it-smol-IQ4_KSS.gguf": b"GGUF"}
    hub.add_repo("acme/Gemma-GGUF", {**bad, **files})
    done = localllm(hub, "pull", "acme/Gemma-GGUF", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert any(name in done.stdout for name in files)
    for word in ("Left out: gemma-4-E2B-it-Q4_K_M.gguf", "IQ4_KS", "ik_llama.cpp", "IQ4_KSS is"):
        assert word in done.stderr
    named = localllm(hub, "pull", "acme/Gemma-GGUF:Q4_K_M")
    assert named.returncode == 1
    assert "another quant" in named.stderr


def test_a_file_of_another_kind_says_what_it_is(hub: FakeHub, smollm2: Path) -> None:
    hub.add_repo(REPO, {FILE: renamed(smollm2), "mmproj-F16.gguf": b"eyes"})
    done = localllm(hub, "pull", f"{REPO}:mmproj-F16.gguf")
    assert done.returncode == 2
    assert "encoder" in done.stderr
