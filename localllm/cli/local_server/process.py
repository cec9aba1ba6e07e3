"""Start an agent in the place of this process, or beside it where files have to go afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from localllm.cli.local_server.agents import Launch, placed
from localllm.errors import NotFound


def find_program(program: str, install: str | None) -> str:
    """Find a program on the PATH. Raises NotFound with how it is installed."""
    found = shutil.which(program)
    if found is None:
        hint = f" It is installed so: {install}" if install else ""
        raise NotFound(f"There is no program {program} on the PATH.{hint}")
    return found


def environment_of(launch: Launch, own: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with what the launch changes in it."""
    kept = {name: value for name, value in own.items() if name not in launch.environment}
    return kept | {name: value for name, value in launch.environment.items() if value is not None}


def run_launch(path: str, launch: Launch) -> int:
    """Run the program at `path` as the launch says and return its exit status; without files, and
    where the system can do that, in the place of this process."""
    if not launch.files and sys.platform != "win32":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(path, list(launch.command), environment_of(launch, os.environ))
    with tempfile.TemporaryDirectory(prefix="localllm-launch-") as directory:  # mode 0700
        for name, content in launch.files.items():
            descriptor = os.open(
                Path(directory) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
            )
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
        return _run_beside(path, placed(launch, directory))


def _run_beside(path: str, launch: Launch) -> int:
    """Run a program and wait for it. Ctrl+C is its own; what ends this process ends it."""
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        if process is not None:
            process.send_signal(number)

    passed = [signal.SIGTERM]
    if sys.platform != "win32":
        passed.append(signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in passed}
    # Not SIG_IGN: the program would inherit that. The terminal sends it to both.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(
            [path, *launch.command[1:]], env=environment_of(launch, os.environ)
        )
        return exit_status(process.wait())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_status(code: int) -> int:
    """Return the status of a program as a shell has it: 128 and the signal that ended it."""
    return code if code >= 0 else 128 - code
