"""A child process that speaks in lines. Knows no LLM.

The child's stderr goes to a log file, not a pipe: it costs no task, cannot block the child, and
is still there after a crash.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

LOG_TAIL_LINES = 20
_LINE_LIMIT_BYTES = 64 * 2**20
_LOG_TAIL_BYTES = 16 * 2**10


class ChildProcess:
    """Start it with `start`; read `lines` until they end; then `exit_reason` says why."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self._process = process
        self.log_path = log_path

    @classmethod
    async def start(
        cls, arguments: Sequence[str], *, log_path: Path, environment: dict[str, str]
    ) -> "ChildProcess":
        """Run a program in a session of its own, so that a Ctrl+C meant for us spares it."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
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

    async def send(self, line: bytes) -> None:
        """Write one line. A child that is gone is not an error here: its lines end instead."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(line)
            await self._process.stdin.drain()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Every whole line the child writes, until it closes its output.

        What a killed child had half written is left out. Raises ValueError for a line of more
        than _LINE_LIMIT_BYTES.
        """
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            yield line

    async def exit_reason(self, *, grace_s: float | None = None) -> str:
        """Wait for the end: "exit status 3", or the name of the signal that ended it.

        A child that has not left after `grace_s` is killed.
        """
        try:
            status = await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
            status = await self._process.wait()
        if status >= 0:
            return f"exit status {status}"
        with suppress(ValueError):
            return signal.Signals(-status).name
        return f"signal {-status}"

    def log_tail(self) -> tuple[str, ...]:
        """The last lines of the child's log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, 2)
                log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ()
        return tuple(text.splitlines()[-LOG_TAIL_LINES:])

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def close(self, *, grace_s: float, farewell: bytes = b"") -> None:
        """Send a last line, close its input, wait `grace_s` for it to leave, then kill it.

        It is dead afterwards even when this is cancelled.
        """
        assert self._process.stdin is not None
        try:
            if self.running and farewell:
                self._process.stdin.write(farewell)
            self._process.stdin.close()
            await self.exit_reason(grace_s=grace_s)
        finally:
            if self.running:
                self.kill()
