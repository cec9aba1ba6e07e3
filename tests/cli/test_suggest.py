"""`localllm suggest`, as a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.library.store.store import Store
from tests.engine import tiny_encoder


def suggest(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localllm", "suggest", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_json_has_the_promised_keys() -> None:
    done = suggest("--ram", "16GiB", "--json")
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout)["plans"]
    assert plans
    for plan in plans:
        assert plan.keys() >= {
            "model", "quant", "file", "size_bytes", "context", "placement", "footprint",
            "decode_tps", "ttft_s", "quality", "verdict", "reasons",
        }  # fmt: skip
        assert plan["placement"].keys() >= {"gpu_layers", "devices"}
        assert plan["decode_tps"].keys() == plan["ttft_s"].keys() == {"low", "likely", "high"}
        assert plan["decode_tps"]["low"] <= plan["decode_tps"]["likely"]
        assert plan["quality"] is None or plan["quality"].keys() >= {"metric", "value", "source"}
        assert isinstance(plan["size_bytes"], int)


def test_the_installed_starter_is_among_the_candidates_of_this_machine() -> None:
    done = suggest("--json", "--limit", "100", "--goal", "speed")
    assert any(plan["installed"] for plan in json.loads(done.stdout)["plans"])


def test_an_installed_model_that_does_not_answer_is_not_suggested_to_run(
    home: Path, tmp_path: Path
) -> None:
    Store(home / "data").adopt(tiny_encoder.encoder(tmp_path / "embedder.gguf"), name="embedder")
    done = suggest("--json", "--limit", "100", "--goal", "speed")
    names = [plan["model"] for plan in json.loads(done.stdout)["plans"]]
    assert "starter" in names
    assert "embedder" not in names


def test_a_gpu_that_is_not_here_is_planned_with() -> None:
    done = suggest("--gpu", "RTX 4060", "--ram", "16GiB", "--json")
    best = json.loads(done.stdout)["plans"][0]
    assert best["placement"]["gpu_layers"] > 0
    assert len(best["placement"]["devices"]) == 2


def test_a_licence_and_a_task_narrow_the_list() -> None:
    done = suggest("--ram", "16GiB", "--license", "apache-2.0", "--task", "code", "--json")
    assert json.loads(done.stdout)["plans"]


def test_the_table_names_the_best_and_why() -> None:
    done = suggest("--ram", "16GiB")
    assert "verdict" in done.stdout
    assert "tok/s" in done.stdout
    assert "Fits with" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--ram", "lots"], "lots"),
        (["--vram", "8GiB,x"], "x"),
        (["--gpu", "Voodoo 3"], "Voodoo 3"),
        (["--license", "WTFPL-9"], "wtfpl-9"),
        (["--goal", "cheap"], "cheap"),
        (["--min-tps", "-1"], "--min-tps"),
        (["--task", "poetry"], "poetry"),
    ],
)
def test_bad_input_is_one_message_and_status_2(arguments: list[str], word: str) -> None:
    done = suggest(*arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_too_small_for_anything_is_told_so() -> None:
    done = suggest("--ram", "10MiB")
    assert done.returncode == 0
    assert "Nothing of the catalogue fits" in done.stdout


@pytest.mark.parametrize(
    "gpu",
    ["RTX A2000", "RTX A2000 Laptop", "MX450", "Arc 140V", "Radeon 780M", "Iris Xe", "M3 Max",
     "RX 6700M", "RTX 3050 Ti Laptop", "Quadro T2000", "RTX PRO 2000 Blackwell"],
)  # fmt: skip
def test_a_laptops_gpu_is_known_by_its_name(gpu: str) -> None:
    done = suggest("--gpu", gpu, "--ram", "16GiB", "--limit", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plans"]


def test_memory_set_aside_for_an_apu_is_beside_the_systems() -> None:
    def need(*arguments: str) -> int:
        wanted = ("--goal", "quality", "--min-tps", "0.1", "--limit", "1", "--json")
        done = suggest("--gpu", "Radeon 8060S", *arguments, *wanted)
        devices = json.loads(done.stdout)["plans"][0]["placement"]["devices"]
        return sum(device["total_bytes"] for device in devices)

    assert need("--ram", "24GiB", "--vram", "96GiB") > 24 * 2**30
    assert need("--ram", "24GiB") < 24 * 2**30  # shared: at most half of it
