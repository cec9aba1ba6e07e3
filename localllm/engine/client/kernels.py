"""Time the kernels of an engine in a process of its own (`engine/worker/kernels.py`)."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from localllm.core.model.quants import GgmlType
from localllm.core.speed.kernels import CpuKernel, CpuKernels
from localllm.engine.builds.candidates import VARIABLE, Candidate
from localllm.engine.client.child_process import worker_environment

PROGRAM = (sys.executable, "-P", "-m", "localllm.engine.worker.kernels")
TIMEOUT_S = 30.0
"""It takes half a second; on a machine that is busy, several times that."""


class _Line(msgspec.Struct):
    type: str
    decode_s: float
    buffer: str | None


async def measure_kernels(
    candidate: Candidate, program: Sequence[str] = PROGRAM, timeout_s: float = TIMEOUT_S
) -> CpuKernels:
    """Measure a build that has passed its examination. What was measured before the process ended,
    or did not end in time, counts; nothing raises."""
    environment = {**worker_environment(os.environ), VARIABLE: str(candidate.directory)}
    try:
        child = await asyncio.create_subprocess_exec(
            *program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            start_new_session=sys.platform != "win32",
        )
    except OSError:
        return CpuKernels()
    lines: list[bytes] = []
    try:
        assert child.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                async for line in child.stdout:
                    lines.append(line)  # noqa: PERF401  # what came before the time is up counts
                await child.wait()
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    return kernels_of(lines)


def kernels_of(lines: Sequence[bytes]) -> CpuKernels:
    """Read the lines of the process; what is none, or no time, is passed over."""
    measured = {}
    for line in lines:
        with suppress(msgspec.DecodeError, KeyError):
            read = msgspec.json.decode(line, type=_Line)
            if 0 < read.decode_s < 1:
                kernel = CpuKernel(decode_s=read.decode_s, buffer=read.buffer)
                measured[GgmlType[read.type]] = kernel
    return CpuKernels(measured=measured)
