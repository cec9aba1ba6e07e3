"""Time a suggestion for the whole catalogue: `plans()` alone, and `localllm suggest` as a process.

    python benchmarks/suggest.py [--repeat N] [--ram SIZE]

Printed is CPU time (user and system), not time on the clock: other programs on the machine lengthen
the second far more than the first. Nothing that ranks GGUF files can be asked the same question in
the same run, so there is no peer to compare with; instead the floors are measured beside it, in
turn: Python that does nothing, and this program's command line that only tells its version. The
rest is what a suggestion costs. Every run reads the catalogue anew, for what was worked out is
kept; bytecode is compiled before the first run, as an installation does.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from time import process_time

from localllm.core.catalogue.catalogue import Task
from localllm.core.hardware import Backend
from localllm.core.recommend import Candidate, Goal, Machine, Preferences, plans
from localllm.core.sizing.placement import Budget, GpuBudget
from localllm.core.speed import DeviceSpeed
from localllm.core.speed.gpus import Generation
from localllm.core.units import parse_bytes
from localllm.library.files.catalogue_file import read_catalogue
from localllm.runtime.suggest import candidates

GIB = 1 << 30
SHOWN = 8
CPU = DeviceSpeed(bandwidth_bytes_per_s=60e9, cores=8)
CARD = DeviceSpeed(
    bandwidth_bytes_per_s=1008e9, backend=Backend.CUDA, generation=Generation.NVIDIA_ADA
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--ram", default="16GiB", help="memory that `suggest` is told of")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat must be at least 1")
    parse_bytes(arguments.ram)
    _print_plans(arguments.repeat)
    _print_processes(arguments.repeat, arguments.ram)
    return 0


def machines() -> dict[str, Machine]:
    """Machines that are made up, so that every computer is asked the same."""
    card = GpuBudget(name="card", backend=Backend.CUDA, free_bytes=8 * GIB)
    pair = (card, GpuBudget(name="other", backend=Backend.CUDA, free_bytes=8 * GIB))
    return {
        "16 GiB": Machine(budget=Budget(host_bytes=16 * GIB), host=CPU),
        "32 GiB + 8 GiB card": Machine(
            budget=Budget(host_bytes=32 * GIB, gpus=(card,)), host=CPU, gpus=(CARD,)
        ),
        "64 GiB + two of 8 GiB": Machine(
            budget=Budget(host_bytes=64 * GIB, gpus=pair), host=CPU, gpus=(CARD, CARD)
        ),
    }


def _print_plans(repeat: int) -> None:
    """A table of `plans()`, and what comes before it."""
    before: list[tuple[float, float]] = []
    times: dict[tuple[str, Goal], list[float]] = {}
    files = 0
    for _ in range(repeat):
        for name, machine in machines().items():
            for goal in Goal:
                known, read_s, weigh_s = _catalogue()
                before.append((read_s, weigh_s))
                files = len(known)
                start = process_time()
                plans(known, Preferences(goal=goal), machine, limit=SHOWN)
                times.setdefault((name, goal), []).append(process_time() - start)
    print(f"{files} files of the catalogue's chat models, {SHOWN} shown; medians of {repeat} runs.")
    print(f"  read and check models.toml  {_ms(read for read, _ in before)}")
    print(f"  weigh every file            {_ms(fit_on for _, fit_on in before)}")
    for (name, goal), each in times.items():
        print(f"  plans(), {name}, {goal}: {_ms(each)}")


def _catalogue() -> tuple[tuple[Candidate, ...], float, float]:
    start = process_time()
    entries = tuple(entry for entry in read_catalogue() if Task.CHAT in entry.tasks)
    read = process_time()
    known = tuple(candidates(entries))
    return known, read - start, process_time() - read


def _print_processes(repeat: int, ram: str) -> None:
    commands = {
        "python -c pass": ["-c", "pass"],
        "localllm --version": ["-m", "localllm", "--version"],
        f"localllm suggest --ram {ram}": ["-m", "localllm", "suggest", "--ram", ram],
        f"localllm suggest --ram {ram} --json": [
            *("-m", "localllm", "suggest", "--ram", ram, "--json")
        ],
        "localllm suggest (this machine)": ["-m", "localllm", "suggest"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for command in commands.values():
            _cpu_s(command, environment)
        for _ in range(repeat):
            for name, command in commands.items():
                times[name].append(_cpu_s(command, environment))
    floor = median(times["localllm --version"])
    print(f"Processes, CPU time with exit and start, medians of {repeat} runs in turn:")
    for name, each in times.items():
        print(f"  {name}: {_ms(each)}, {median(each) / floor:.1f} times --version")


def _cpu_s(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """CPU seconds of a Python process, its own children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], env=dict(environment), capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _ms(seconds: Sequence[float] | Iterator[float]) -> str:
    times = list(seconds)
    return f"{median(times) * 1e3:.0f} ms (least {min(times) * 1e3:.0f})"


if __name__ == "__main__":
    sys.exit(main())
