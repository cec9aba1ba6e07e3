"""`localllm size` as a user runs it: two real models, the catalogue, and nonsense."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.core.gguf.writer import header_bytes
from localllm.library.files.catalogue_file import read_catalogue
from tests.core.forge import write
from tests.core.forge_recurrent import ENCODER
from tests.engine import fake_vision, tiny, tiny_encoder

LOCALLLM = [sys.executable, "-m", "localllm"]
PARTS = {
    "weights_bytes", "kv_bytes", "recurrent_bytes", "compute_bytes", "output_bytes",
    "overhead_bytes", "adapter_bytes", "encoder_bytes", "total_bytes",
}  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LOCALLLM, "size", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def sized(*arguments: str) -> dict[str, dict[str, int]]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def test_json_has_the_promised_keys() -> None:
    document = sized("starter")
    assert document["model"].keys() == {
        "architecture", "parameters", "active_parameters", "layers", "context_train",
    }  # fmt: skip
    assert document["footprint"].keys() >= PARTS
    assert document["limits"].keys() >= {"context", "parallel"}
    for device in document["devices"]:
        assert device.keys() >= {  # type: ignore[attr-defined]  # a list, not a table
            "name", "weights_bytes", "kv_bytes", "compute_bytes", "total_bytes", "fits",
        }  # fmt: skip
    assert "exact" not in document
    assert "finetune" not in document


def test_the_parts_sum_to_the_total() -> None:
    footprint = sized("starter")["footprint"]
    assert sum(footprint[name] for name in PARTS - {"total_bytes"}) == footprint["total_bytes"]


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_the_estimate_is_within_two_percent_of_llama_cpp(
    model: str, request: pytest.FixtureRequest
) -> None:
    path = str(request.getfixturevalue(model))
    document = sized(path, "--exact", "--ctx", "2048", "--parallel", "2")
    assert document["exact"].keys() == PARTS
    exact, estimate = document["exact"], document["footprint"]
    error = (estimate["total_bytes"] / exact["total_bytes"] - 1) * 100
    assert document["error_percent"] == pytest.approx(error)
    assert abs(error) < 2
    # Weights and overhead are the same on both sides: what llama.cpp was asked must agree alone.
    asked = PARTS - {"weights_bytes", "overhead_bytes", "total_bytes"}
    assert sum(estimate[n] for n in asked) == pytest.approx(sum(exact[n] for n in asked), rel=0.02)


def test_a_model_of_the_catalogue_is_asked_of_llama_cpp_without_a_file() -> None:
    document = sized("qwen3-0.6b", "--exact")
    assert document["exact"]["kv_bytes"] == document["footprint"]["kv_bytes"]
    assert document["error_percent"] == pytest.approx(0, abs=2)


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gemma-3-1b", "lfm2-350m", "qwen3-vl-2b"])
def test_a_written_header_is_one_that_llama_cpp_takes(name: str) -> None:
    entry = next((entry for entry in read_catalogue() if entry.name == name), None)
    assert entry is not None, "the catalogue has it no longer: take another of its kind"
    assert header_bytes(entry.spec(entry.quants[0])).startswith(b"GGUF")
    assert "llama.cpp" in run(name, "--exact", "--ctx", "512").stdout


def test_a_model_that_is_published_in_one_quant_is_sized_in_it() -> None:
    assert str(sized("gpt-oss-20b")["quant"]) == "MXFP4"
    assert str(sized("qwen3-0.6b")["quant"]) == "Q4_K_M"
    assert str(sized("qwen3-0.6b:Q8_0")["quant"]) == "Q8_0"
    assert str(sized("qwen3-0.6b", "--quant", "q8_0")["quant"]) == "Q8_0"


@pytest.mark.parametrize(
    ("options", "part", "grows"),
    [
        (["--ctx", "8192"], "kv_bytes", True),
        (["--parallel", "4"], "kv_bytes", True),
        (["--parallel", "4"], "output_bytes", True),
        (["--kv-type", "q8_0"], "kv_bytes", False),
        (["--kv-type", "f32"], "kv_bytes", True),
        (["--ubatch", "64"], "compute_bytes", False),
        (["--batch", "64"], "compute_bytes", False),
        (["--flash-attn", "off"], "compute_bytes", True),
    ],
)
def test_every_option_changes_its_part(options: list[str], part: str, grows: bool) -> None:
    plain = sized("starter")["footprint"][part]
    changed = sized("starter", *options)["footprint"][part]
    assert changed > plain if grows else changed < plain


def test_a_full_window_is_larger_than_a_sliding_one(gemma3: Path) -> None:
    short, full = (sized(str(gemma3), "--ctx", "8192", *o) for o in ([], ["--swa-full"]))
    assert full["footprint"]["kv_bytes"] > 2 * short["footprint"]["kv_bytes"]


def test_options_of_a_gpu_do_nothing_to_a_machine_without_one_and_are_taken() -> None:
    plain = sized("starter", "--gpu-layers", "0")
    for options in (["--gpu-layers", "auto"], ["--cpu-moe", "3"], ["--no-kv-offload"]):
        document = sized("starter", *options)
        assert document["footprint"] == plain["footprint"]


def test_limits_are_shown_and_fit() -> None:
    limits = sized("starter")["limits"]
    assert limits["context"] == 8192  # what it was trained for; the machine has room
    assert limits["parallel"] >= 1
    out = run("starter").stdout
    assert "Largest context here: 8192 tokens" in out
    # Another run: what other programs hold has changed a little.
    (found,) = re.findall(r"Conversations of 4096 tokens at once: (\d+)", out)
    assert int(found) == pytest.approx(limits["parallel"], rel=0.25)


def test_what_a_smaller_cache_costs_is_shown_with_its_source() -> None:
    assert not sized("starter")["cache_quality"]
    (row,) = sized("starter", "--kv-type", "q8_0")["cache_quality"]  # a list, not a table
    assert row["model"] == "Llama-3-8B"  # type: ignore[index]
    shown = run("starter", "--kv-type", "q8_0").stdout
    assert "mean KL divergence 0.00098 (Llama-3-8B)" in shown
    assert "source: llama.cpp pull request 7412" in shown
    assert "can change answers" not in run("starter").stdout
    assert "nobody has published" in run("starter", "--kv-type", "q4_1").stdout


def test_rules_of_thumb_stand_beside_our_numbers() -> None:
    document = sized("starter")
    rules = document["rules_of_thumb"]
    assert isinstance(rules, list)
    assert rules[0]["bytes"] == pytest.approx(
        document["footprint"]["weights_bytes"] * 1.2, rel=1e-3
    )
    assert rules[0]["ours_bytes"] == document["footprint"]["total_bytes"]
    assert rules[1]["bytes"] == 2 * document["model"]["parameters"]
    assert all(rule.keys() == {"rule", "bytes", "ours", "ours_bytes"} for rule in rules)
    assert "Rules of thumb:" in run("starter").stdout


def test_fine_tuning_is_added_when_it_is_asked_for() -> None:
    full, lora, qlora = (
        sized("starter", "--finetune", method)["finetune"] for method in ("full", "lora", "qlora")
    )
    assert full["total_bytes"] > lora["total_bytes"] > qlora["total_bytes"] > 0
    parameters = sized("starter")["model"]["parameters"]
    assert full["trained_parameters"] == parameters
    details = ["--rank", "32", "--train-batch", "4", "--seq", "512"]
    more = sized("starter", "--finetune", "lora", *details)["finetune"]
    assert (more["rank"], more["batch"], more["sequence"]) == (32, 4, 512)
    assert more["trained_parameters"] == 2 * lora["trained_parameters"]
    assert "Fine-tuning (lora, rank 16" in run("starter", "--finetune", "lora").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["no-such-model"], 5, ["no-such-model"]),
        (["/no/such/file.gguf"], 5, ["/no/such/file.gguf"]),
        ([], 2, ["MODEL"]),
        (["starter", "--ctx", "0"], 2, ["--ctx"]),
        (["starter", "--ctx", "many"], 2, ["--ctx"]),
        (["starter", "--parallel", "257"], 2, ["--parallel"]),
        (["starter", "--kv-type", "q9"], 2, ["--kv-type"]),
        (["starter", "--gpu-layers", "-3"], 2, ["-3", "auto"]),
        (["starter", "--cpu-moe", "-1"], 2, ["--cpu-moe"]),
        (["starter", "--quant", "Q8_0"], 2, ["Q4_1", "--quant"]),
        (["starter", "--kv-type", "q8_0", "--flash-attn", "off"], 2, ["flash attention"]),
        (["qwen3-0.6b:NONSENSE"], 2, ["NONSENSE", "Q4_K_M"]),
        (["qwen3-0.6b:Q8_0", "--quant", "Q6_K"], 2, ["Q6_K"]),
        (["starter", "--rank", "8"], 2, ["--rank", "--finetune"]),
        (["starter", "--finetune", "half"], 2, ["--finetune"]),
        (["starter", "--finetune", "lora", "--rank", "0"], 2, ["--rank"]),
        (["starter", "--finetune", "full", "--seq", "0"], 2, ["--seq"]),
    ],
)
def test_bad_input_ends_with_its_status_and_no_traceback(
    arguments: list[str], status: int, words: list[str]
) -> None:
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("cut", [0, 10, 5000])
def test_a_damaged_file_is_refused(tmp_path: Path, smollm2: Path, cut: int) -> None:
    damaged = tmp_path / "damaged.gguf"
    with smollm2.open("rb") as file:
        damaged.write_bytes(file.read(cut))
    for options in ([], ["--exact"]):
        done = run(str(damaged), *options)
        assert done.returncode == 1, done.stderr
        assert "damaged.gguf" in done.stderr
        assert "Traceback" not in done.stderr


def test_what_does_not_fit_is_sized_all_the_same() -> None:
    document = sized("starter", "--ctx", "16000000")
    assert str(document["fits"]) == "False"
    assert "--ctx" in str(document["advice"])
    assert "does not fit" in run("starter", "--ctx", "16000000").stdout


def test_an_embedding_model_is_sized_as_it_is_served(tmp_path: Path) -> None:
    path = tiny_encoder.encoder(tmp_path / "bert.gguf")
    document = sized(str(path), "--ctx", "4096", "--exact")
    limits, exact, footprint = document["limits"], document["exact"], document["footprint"]
    assert limits["context"] == tiny_encoder.CONTEXT
    assert footprint["compute_bytes"] == pytest.approx(exact["compute_bytes"], abs=2**14)


def test_a_draft_model_is_counted_beside_the_model() -> None:
    alone = sized("starter")
    both = sized("starter", "--draft", "starter")
    assert "draft" not in alone
    assert both["draft"].keys() >= PARTS
    assert both["draft"]["weights_bytes"] == alone["footprint"]["weights_bytes"]
    assert both["footprint"] == alone["footprint"]
    assert "draft" not in sized("starter", "--draft", "starter", "--speculate", "off")
    assert "The draft model needs 2" in run("starter", "--draft", "starter").stdout


def test_a_draft_model_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    unknown = run("starter", "--draft", "nonsense")
    assert unknown.returncode == 5
    assert "nonsense" in unknown.stderr
    write(ENCODER, tmp_path / "encoder.gguf")
    mmproj = run("starter", "--draft", str(tmp_path / "encoder.gguf"))
    assert mmproj.returncode == 2
    assert "needs a model that answers" in mmproj.stderr


def test_a_load_for_embeddings_reserves_rows_for_every_token() -> None:
    answers, embeds = sized("starter"), sized("starter", "--embeddings")
    for part in ("output_bytes", "compute_bytes"):
        assert embeds["footprint"][part] > answers["footprint"][part]


def test_an_encoder_beside_the_model_is_counted_as_it_is_loaded(tmp_path: Path) -> None:
    path = tiny.plain(tmp_path / "model.gguf")
    blind = sized(str(path))
    fake_vision.llava(tmp_path / "mmproj-model-f16.gguf", embedding=tiny.WIDTH)
    seeing = sized(str(path))
    encoder = seeing["footprint"]["encoder_bytes"]
    assert encoder > 0
    assert blind["footprint"]["encoder_bytes"] == 0
    assert seeing["footprint"]["total_bytes"] == blind["footprint"]["total_bytes"] + encoder
    assert "image encoder" in run(str(path)).stdout


def test_an_encoder_of_another_model_is_a_note_and_counts_nothing(tmp_path: Path) -> None:
    path = tiny.plain(tmp_path / "model.gguf")
    fake_vision.llava(tmp_path / "mmproj-model-f16.gguf", embedding=576)
    document = sized(str(path))
    assert document["footprint"]["encoder_bytes"] == 0
    assert "made for another model" in str(document["note"])


def test_suggest_and_size_say_the_same_of_models_that_embed_and_see() -> None:
    done = subprocess.run(
        [*LOCALLLM, "suggest", "--task", "embed", "--json", "--limit", "3"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    for plan in json.loads(done.stdout)["plans"]:
        alone = sized(f"{plan['model']}:{plan['quant']}")
        assert alone["footprint"]["total_bytes"] == plan["footprint"]["total_bytes"]
    assert sized("gemma-3-4b")["footprint"]["encoder_bytes"] > 900 * 2**20


@pytest.mark.parametrize("extra", [(), ("--rope-scaling", "yarn"), ("--rope-scale", "2")])
def test_what_is_said_of_contexts_agrees_with_itself(extra: tuple[str, ...]) -> None:
    for context in (4096, 8192, 8193, 100_000):
        document = sized("starter", "--ctx", str(context), *extra)
        limits = document["limits"]
        assert document["context"] == context  # type: ignore[comparison-overlap]
        assert (limits["parallel"] >= 1) == (limits["context"] >= context)
        stretched = 16384 if "--rope-scale" in extra else 100_000 if extra else 8192
        assert bool(document["warnings"]) == (context > stretched)


def test_a_context_beyond_training_is_said_on_stderr() -> None:
    done = run("starter", "--ctx", "100000")
    assert done.returncode == 0
    assert "was trained for 8192 tokens of context and gets 100000" in done.stderr
    assert "Largest context here" in done.stdout
    assert "(it was trained for 8192)" in done.stdout
