"""How the engine's process is started, and where what it writes is kept."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from localllm.engine.process import ChildProcess
from localllm.errors import EngineUnavailable

_KEPT_LOGS = 20
_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # keeps gdb out of the log (design notes, ENGINE.md)
    "PYTHONUTF8": "1",
}
_SPIN = {"GOMP_SPINCOUNT": "2000"}
"""How often GNU's OpenMP looks again before a thread that waits sleeps. Its default of 300,000
keeps every core busy between two batches, when the server needs one to pass tokens on: with 1,000
to 5,000 eight clients on two cores got 4 % more tokens; with 100 one client got 16 % fewer."""


# -P: a llama_cpp.py in the current directory must not be imported.
WORKER = (sys.executable, "-P", "-m", "localllm.engine.worker")


async def launch(log_dir: Path | None, program: Sequence[str] = WORKER) -> ChildProcess:
    """Start the worker. Raises EngineUnavailable.

    What llama.cpp writes goes to a new file in `log_dir` (None: a temporary file); where no file
    can be written, it is lost and the engine works without.
    """
    try:
        return await ChildProcess.start(
            program, log_path=_log_path(log_dir), environment=_environment(os.environ)
        )
    except OSError as error:  # no more processes, no memory for one
        raise EngineUnavailable(f"The engine's process does not start: {error}") from error


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    spin = {} if "OMP_WAIT_POLICY" in given else _SPIN
    return {**spin, **given, **_ENVIRONMENT}


def _log_path(directory: Path | None) -> Path | None:
    """A new log file, None where there can be none; of the older ones in `directory` the last few
    are kept."""
    try:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            logs = sorted(directory.glob("engine-*.log"), key=_written)
            for old in logs[: -_KEPT_LOGS + 1]:
                old.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="engine-", suffix=".log", dir=directory)
    except OSError:  # a full disk, a directory that is a file or belongs to somebody else
        return None
    os.close(descriptor)
    return Path(name)


def _written(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:  # another engine has just removed it
        return 0.0
