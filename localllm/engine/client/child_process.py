"""A child process that reads and writes lines, and the launch of the worker as one.

Nothing here knows of models or messages. The child's stderr goes to a log file, not a pipe: it
costs no task, cannot block the child, and is still there after a crash. Nothing here waits for a
child that does not read, nor for ever for one that cannot be killed (a disk or a driver that hangs
inside the kernel).
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from localllm.engine.builds.candidates import VARIABLE
from localllm.engine.client.exit_reason import exit_reason
from localllm.errors import EngineUnavailable

LOG_TAIL_LINES = 20
_LINE_LIMIT_BYTES = 64 * 2**20
_LOG_TAIL_BYTES = 16 * 2**10
_LOG_LIMIT_BYTES = 4 * 2**20
_TRIMMED_LOG_BYTES = 2**20
_KILL_S = 5.0
_CANNOT_BE_ENDED = "it cannot be ended"


class ChildProcess:
    """`start` it, read `lines` until they end, then ask for the `exit_reason`."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path | None) -> None:
        self._process = process
        self.log_path = log_path

    @classmethod
    async def start(
        cls, arguments: Sequence[str], *, log_path: Path | None, environment: dict[str, str]
    ) -> "ChildProcess":
        """Run a program in a session of its own, so that a Ctrl+C meant for us spares it.

        `log_path` None: its stderr is discarded.
        """
        with _log(log_path) as log:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
                limit=_LINE_LIMIT_BYTES,
                start_new_session=sys.platform != "win32",
            )
        return cls(process, log_path)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def send(self, line: bytes) -> None:
        """Send one line, now or when the child reads again; never waits.

        A child that is gone is not an error here: its lines end instead.
        """
        if not self._stdin.is_closing():
            self._stdin.write(line)

    @property
    def unread_bytes(self) -> int:
        """Bytes that were sent and are not in the pipe yet, because the child does not read."""
        return self._stdin.transport.get_write_buffer_size()

    @property
    def _stdin(self) -> asyncio.StreamWriter:
        assert self._process.stdin is not None
        return self._process.stdin

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield every whole line that the child writes, until it closes its output.

        The half line of a killed child is left out. Raises ValueError for a line of more than
        _LINE_LIMIT_BYTES.
        """
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            yield line

    async def exit_reason(self, *, grace_s: float | None = None) -> str:
        """Wait for the end. Returns its reason as `exit_reason.exit_reason` writes it.

        A child that still runs after `grace_s` is killed.
        """
        try:
            status = await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
            try:
                status = await asyncio.wait_for(self._process.wait(), _KILL_S)
            except TimeoutError:
                return _CANNOT_BE_ENDED
        return exit_reason(status)

    def log_tail(self) -> tuple[str, ...]:
        """Return the last lines of the child's log."""
        text = self._log_end(_LOG_TAIL_BYTES).decode("utf-8", "replace")
        return tuple(text.splitlines()[-LOG_TAIL_LINES:])

    def trim_log(self) -> None:
        """Drop the beginning of a log that has grown too long. The child opened it to append: its
        next lines go behind the rest."""
        with suppress(OSError):
            if self.log_path is None or self.log_path.stat().st_size <= _LOG_LIMIT_BYTES:
                return
            end = self._log_end(_TRIMMED_LOG_BYTES)
            os.truncate(self.log_path, 0)
            with self.log_path.open("ab") as log:
                log.write(end)

    def _log_end(self, size_bytes: int) -> bytes:
        if self.log_path is None:
            return b""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, 2)
                log.seek(max(0, log.tell() - size_bytes))
                return log.read(size_bytes)
        except OSError:
            return b""

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def close(self, *, grace_s: float, last_line: bytes = b"") -> None:
        """Send a last line, close its input, wait `grace_s` for its end, then kill it.

        It is dead afterwards even when this is cancelled.
        """
        try:
            self.send(last_line)
            self._stdin.close()
            await self.exit_reason(grace_s=grace_s)
        finally:
            if self.running:
                self.kill()


def _log(path: Path | None) -> BinaryIO:
    return Path(path or os.devnull).open("ab")  # "a": see `trim_log`


_MAX_LOGS = 20
_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # a failed assertion of ggml would start gdb, which fills the log
    "PYTHONUTF8": "1",
}
_SPIN = {"GOMP_SPINCOUNT": "2000"}
"""Iterations after which a waiting thread of GNU's OpenMP sleeps. Its default of 300,000 keeps
every core busy between two batches, when the server needs one to pass tokens on: with 1,000 to
5,000 eight clients on two cores got 4 % more tokens; with 100 one client got 16 % fewer."""

# -P: a module in the current directory must not be imported.
WORKER = (sys.executable, "-P", "-m", "localllm.engine.worker")


async def launch(
    log_dir: Path | None, program: Sequence[str] = WORKER, *, engine: Path | None = None
) -> ChildProcess:
    """Start the worker, with the build of llama.cpp in the directory `engine` (None: the worker
    chooses). Raises EngineUnavailable.

    llama.cpp's log goes to a new file in `log_dir` (None: a temporary file); where no file can be
    written, it is discarded and the engine works without.
    """
    environment = worker_environment(os.environ)
    if engine is not None:
        environment[VARIABLE] = str(engine)
    try:
        return await ChildProcess.start(
            program, log_path=_log_path(log_dir), environment=environment
        )
    except OSError as error:  # no more processes, no memory for one
        raise EngineUnavailable(f"The engine's process does not start: {error}") from error


def worker_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that loads llama.cpp."""
    spin = {} if "OMP_WAIT_POLICY" in given else _SPIN
    return {**spin, **given, **_ENVIRONMENT}


def _log_path(directory: Path | None) -> Path | None:
    """Make a new log file, and delete all but the last few in `directory`. None where no file can
    be made."""
    try:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            logs = sorted(directory.glob("engine-*.log"), key=_modified_at)
            for old in logs[: -_MAX_LOGS + 1]:
                old.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="engine-", suffix=".log", dir=directory)
    except OSError:  # a full disk, a directory that is a file or belongs to somebody else
        return None
    os.close(descriptor)
    return Path(name)


def _modified_at(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:  # another engine has just removed it
        return 0.0
