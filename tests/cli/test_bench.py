"""`localllm bench` as a user runs it, and what it loads, on a scripted engine."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest

from localllm.cli.commands.bench import (
    TerminalWatch,
    document,
    parse_parallel,
    warn_if_unsteady,
)
from localllm.core.speed.measured import Measurement
from localllm.engine.fake import Script
from localllm.errors import DoesNotFit, LoadFailed
from localllm.library.files import measurements, paths
from localllm.runtime.benchmark.measure import BenchPlan, Measured, measure
from tests.core.forge import write
from tests.core.forge_recurrent import ENCODER
from tests.library.test_measurements import DECODE
from tests.runtime.fake_machine import FakeMachine

LOCALLLM = [sys.executable, "-m", "localllm"]
SMALL = ["--prompt-tokens", "32", "--gen-tokens", "4", "--repetitions", "2"]
PLAN = BenchPlan(prompt_tokens=32, gen_tokens=8, parallel=(1, 4), repetitions=2)


def bench(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*LOCALLLM, "bench", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        check=False,
    )


def stored() -> tuple[Measurement, ...]:
    return measurements.load(paths.measurements_file(paths.data_dir()))


# --- as a process, on a real model ---


def test_json_has_the_promised_keys_and_what_it_says_is_stored() -> None:
    done = bench("starter", *SMALL, "--parallel", "1,2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.keys() >= {"model", "quant", "architecture", "size_bytes", "machine", "results"}
    assert (report["model"], report["quant"]) == ("starter", "Q4_1")
    tests = [(one["test"], one["parallel"]) for one in report["results"]]
    assert tests == [("pp32", 1), ("tg4", 1), ("tg4", 2)]
    for one in report["results"]:
        assert one.keys() >= {"test", "n_prompt", "n_gen", "parallel", "tps_mean", "tps_stdev"}
        assert one["tps_mean"] > 0 <= one["tps_stdev"]
    kept = [(one.test, one.parallel, one.tps_mean) for one in stored()]
    assert kept == [(one["test"], one["parallel"], one["tps_mean"]) for one in report["results"]]
    read = report["memory_read"]
    alone = report["results"][1]["tps_mean"]
    assert read["bytes_per_s"] == pytest.approx(read["bytes_per_token"] * alone)
    assert 80e6 < read["bytes_per_token"] < report["size_bytes"]  # no input embeddings
    assert read["share"] == pytest.approx(read["bytes_per_s"] / read["measured_bytes_per_s"])
    assert all(isinstance(sentence, str) for sentence in report["advice"])
    machine = stored()[0].machine
    assert report["machine"]["cpu"] == machine.cpu != ""
    assert machine.threads >= 1
    assert machine.engine_version is not None


def test_the_table_goes_to_stdout_and_the_talk_to_stderr(shallow_smollm2: Path) -> None:
    done = bench(str(shallow_smollm2), *SMALL, "--parallel", "1")
    assert done.returncode == 0, done.stderr
    assert b"pp32" in done.stdout
    assert b"tg4" in done.stdout
    assert b"tok/s" in done.stdout
    assert b"of the" in done.stdout  # "One conversation reads 4.1 GB/s of the 31 GB/s"
    assert b"Stored in" in done.stderr
    assert b"Stored in" not in done.stdout
    again = bench(str(shallow_smollm2), *SMALL, "--repetitions", "1", "--parallel", "1", "--quiet")
    assert b"..." not in again.stderr
    assert b"Stored" not in again.stderr
    assert len(stored()) == 2  # the second run took the place of the first


def test_ctrl_c_is_status_130_and_nothing_is_stored() -> None:
    with started("starter", *SMALL, "--gen-tokens", "4000", "--parallel", "1") as process:
        assert process.stderr is not None
        while b"tg4000" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert output == b""
    assert b"nothing is stored" in errors
    assert b"Traceback" not in errors
    assert stored() == ()


def test_damaged_measurements_are_set_aside_and_said_so(shallow_smollm2: Path) -> None:
    path = paths.measurements_file(paths.data_dir())
    path.write_bytes(b'{"schema": 1, "measurements": [{"machine"')
    done = bench(str(shallow_smollm2), *SMALL, "--parallel", "1", "--quiet")
    assert done.returncode == 0
    assert b"damaged" in done.stderr
    assert b"measurements.damaged.json" in done.stderr
    assert len(stored()) == 2


def test_results_that_cannot_be_stored_are_printed_all_the_same(shallow_smollm2: Path) -> None:
    paths.measurements_file(paths.data_dir()).with_suffix(".lock").mkdir()
    done = bench(str(shallow_smollm2), *SMALL, "--parallel", "1", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["results"]) == 2
    assert b"cannot be changed" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nonsense"], 5, ["nonsense", "starter"]),
        (["starter", "--parallel", "0"], 2, ["--parallel", "1 to 256"]),
        (["starter", "--parallel", "1,two"], 2, ["1,two"]),
        (["starter", "--parallel", ""], 2, ["--parallel"]),
        (["starter", "--prompt-tokens", "3"], 2, ["--prompt-tokens"]),
        (["starter", "--gen-tokens", "-1"], 2, ["--gen-tokens"]),
        (["starter", "--repetitions", "0"], 2, ["--repetitions"]),
        (["starter", "--ctx", "256"], 2, ["--ctx 256", "576"]),
        (["starter", "--ctx", "16000000"], 3, ["needs", "free"]),
        (["/no/such/file.gguf"], 5, ["/no/such/file.gguf"]),
    ],
)
def test_bad_input_is_one_message_and_the_right_status(
    arguments: list[str], status: int, words: list[str]
) -> None:
    done = bench(*arguments)
    message = done.stderr.decode()
    assert done.returncode == status, message
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert done.stdout == b""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*LOCALLLM, "bench", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# --- what it loads and reports, on a scripted engine ---


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """All its engines play one script."""
    script = Script(tokens=("x",) * 100)
    return FakeMachine(tmp_path, script=lambda: script)


async def measured(
    machine: FakeMachine, plan: BenchPlan = PLAN, *, force: bool = False
) -> tuple[Measurement, ...]:
    return (await everything(machine, plan, force=force)).results


async def everything(
    machine: FakeMachine, plan: BenchPlan = PLAN, *, force: bool = False
) -> Measured:
    runtime = machine.runtime()
    return await measure(
        runtime, runtime.resolve("starter"), plan, force=force, watch=TerminalWatch(quiet=True)
    )


async def test_each_number_of_conversations_is_a_load_of_its_own(machine: FakeMachine) -> None:
    results = await measured(machine)
    assert [load.settings.parallel for load in machine.script().loads] == [1, 4]
    assert [(one.test, one.parallel) for one in results] == [("pp32", 1), ("tg8", 1), ("tg8", 4)]
    assert not any(engine.alive for engine in machine.engines)


async def test_prompts_are_read_by_one_alone_even_when_it_was_not_asked_for(
    machine: FakeMachine,
) -> None:
    plan = BenchPlan(prompt_tokens=32, gen_tokens=8, parallel=(4,), repetitions=2)
    results = await measured(machine, plan)
    assert [(one.test, one.parallel) for one in results] == [("pp32", 1), ("tg8", 4)]


async def test_a_result_says_on_what_it_was_measured(machine: FakeMachine) -> None:
    prompt, answer, _ = await measured(machine)
    here = prompt.machine
    assert (here.cpu, here.threads, here.devices) == ("Made up", 4, ())
    assert (here.engine_version, here.engine_commit) == ("0.3.36", "0c1e570")
    assert (prompt.model.name, prompt.model.architecture) == ("starter", "llama")
    assert (prompt.tps_mean, answer.tps_mean) == (200.0, 40.0)  # the script's rates
    assert prompt.tps_stdev == answer.tps_stdev == 0.0
    assert answer.repetitions == 2


async def test_the_context_is_what_the_tests_need_or_what_was_asked_for(
    machine: FakeMachine,
) -> None:
    await measured(machine)
    plan = BenchPlan(prompt_tokens=32, gen_tokens=8, parallel=(1,), repetitions=1, context=1000)
    await measured(machine, plan)
    assert [load.settings.context for load in machine.script().loads] == [96, 96, 1000]


async def test_the_memory_is_measured_again_and_the_best_is_kept(machine: FakeMachine) -> None:
    slow = {"bytes_per_s": 1.0, "taken_at": time.time(), "tried_at": time.time(), "busy": False}
    paths.bandwidth_file().write_text(json.dumps({"Made up, 4 threads": slow}))
    await measured(machine)
    kept = json.loads(paths.bandwidth_file().read_text())
    assert kept["Made up, 4 threads"]["bytes_per_s"] > 1.0


async def test_a_largest_load_that_does_not_fit_is_refused_before_any_load(
    machine: FakeMachine,
) -> None:
    machine.available_bytes = 300 * 2**20
    plan = BenchPlan(prompt_tokens=512, gen_tokens=8, parallel=(1, 256), repetitions=1)
    with pytest.raises(DoesNotFit, match="256 conversations"):
        await measured(machine, plan)
    assert machine.script().loads == []
    await measured(machine, replace(plan, parallel=(1, 2)), force=True)
    assert len(machine.script().loads) == 2


def test_a_model_that_only_embeds_has_no_rates(tmp_path: Path) -> None:
    path = tmp_path / "embedder.gguf"
    write(ENCODER, path)
    done = bench(str(path), *SMALL)
    assert done.returncode == 2
    assert b"is an embedding model" in done.stderr
    assert stored() == ()


async def test_a_load_that_fails_is_said_and_measures_nothing(machine: FakeMachine) -> None:
    machine.script().load_error = LoadFailed("refused")
    with pytest.raises(LoadFailed):
        await measured(machine)


async def test_the_document_holds_unknown_as_null(machine: FakeMachine) -> None:
    plan = BenchPlan(prompt_tokens=32, gen_tokens=8, parallel=(1,), repetitions=1)
    report = document(await everything(machine, plan))
    assert isinstance(report["results"], list)
    assert [one["tps_stdev"] for one in report["results"]] == [None, None]


def test_runs_that_differ_much_are_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_unsteady((DECODE, replace(DECODE, tps_stdev=None)))
    assert capsys.readouterr().err == ""
    warn_if_unsteady((DECODE, replace(DECODE, tps_mean=40.0, tps_stdev=12.0)))
    message = capsys.readouterr().err
    assert "tg128 with 1 at a time" in message
    assert "30%" in message


def test_results_of_a_crowded_machine_are_said_to_be_too_slow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warn_if_unsteady((DECODE, replace(DECODE, crowded=True)))
    assert "too slow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "counts"), [("1", (1,)), ("8,1, 2,8", (1, 2, 8)), ("256", (256,))]
)
def test_a_list_of_conversations_is_read(text: str, counts: tuple[int, ...]) -> None:
    assert parse_parallel(text) == counts


@pytest.mark.parametrize("text", ["", ",", "1,,2", "-1", "1.5", "257", "99999999999", "٣", "²"])
def test_nonsense_is_no_list_of_conversations(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_parallel(text)
