"""The builds of llama.cpp that could be the engine, their verdicts, and the choice of one."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

from localllm.engine.builds.candidates import (
    AUTO,
    NONE_INSTALLED,
    SETTING,
    VARIABLE,
    Candidate,
    RequestedEngine,
    find_candidate,
    installed_candidates,
    requested_engine,
)
from localllm.engine.builds.choice import ExaminedEngine
from localllm.engine.client.examination import (
    chosen_of,
    proved_engine,
    require_allowed,
    verdict_on,
)
from localllm.errors import EngineUnavailable
from localllm.library.files import edit_settings, paths, settings


def requested() -> RequestedEngine | None:
    """Return the engine that a person has chosen: LOCALLLM_ENGINE, or else the setting. None:
    nobody has. Raises UsageError for settings that cannot be read."""
    return requested_engine(settings.load().engine)


async def find_engine() -> ExaminedEngine:
    """Return the build that runs models. Raises EngineUnavailable when there is none, UsageError
    for settings that cannot be read."""
    return await proved_engine(paths.engine_verdicts_file(), requested=requested())


def examined_engines() -> tuple[ExaminedEngine, ...]:
    """Return the installed builds and the chosen one, examined where they were not.

    Raises EngineUnavailable for a choice that is none.
    """
    choice, found = requested(), list(installed_candidates())
    candidate = None if choice is None else choice.find()
    if candidate is not None and candidate not in found:
        found.append(candidate)
    if not found:
        asyncio.run(find_engine())  # raises
    examined = asyncio.run(chosen_of(found, paths.engine_verdicts_file(), again=True))
    if choice is None or candidate is None:
        return examined
    return requested_among(examined, candidate, choice.origin)


def requested_among(
    examined: Sequence[ExaminedEngine], candidate: Candidate, origin: str
) -> tuple[ExaminedEngine, ...]:
    """Mark the build that a person has chosen, at `origin`, instead of the best one."""
    return tuple(
        ExaminedEngine(
            candidate=each.candidate,
            verdict=each.verdict,
            chosen=each.candidate == candidate,
            reason=f"{origin} names {'it' if each.candidate == candidate else candidate.name}."
            if each.verdict.accepted
            else each.reason,
        )
        for each in examined
    )


def examine_engine(choice: str | None) -> ExaminedEngine:
    """Examine a build now, whatever is known of it: the chosen one, or the one of this name or
    directory. Raises EngineUnavailable when there is none."""
    file = paths.engine_verdicts_file()
    engine = _chosen() if choice is None else find_candidate(choice)
    verdict = asyncio.run(verdict_on(engine, file, again=True))
    return ExaminedEngine(candidate=engine, verdict=verdict, chosen=choice is None)


def use_engine(choice: str) -> ExaminedEngine:
    """Write a choice into the settings: a name, a directory, or auto. Returns the engine that this
    makes, whatever LOCALLLM_ENGINE says.

    Raises EngineUnavailable, and changes nothing, for a build that is not there or is refused;
    UsageError when the settings cannot be changed.
    """
    file = paths.engine_verdicts_file()
    if choice == AUTO:
        edit_settings.change("engine", None)
        examined = asyncio.run(chosen_of(list(installed_candidates()), file, again=True))
        for each in examined:
            if each.chosen:
                return each
        raise EngineUnavailable(
            " ".join(each.verdict.message for each in examined) or NONE_INSTALLED
        )
    candidate = find_candidate(choice)
    require_allowed(candidate)
    verdict = asyncio.run(verdict_on(candidate, file))
    if not verdict.accepted:
        raise EngineUnavailable(verdict.message)
    edit_settings.change("engine", candidate.name)
    reason = f"{SETTING} names it."
    return ExaminedEngine(candidate=candidate, verdict=verdict, chosen=True, reason=reason)


def overriding_variable() -> str | None:
    """Return what LOCALLLM_ENGINE says, which comes before the settings; None: it says nothing."""
    return os.environ.get(VARIABLE, "").strip() or None


def _chosen() -> Candidate:
    """Return the chosen build, also one that is refused. Raises EngineUnavailable."""
    if (choice := requested()) is not None:
        return choice.find()
    with suppress(EngineUnavailable):
        return asyncio.run(find_engine()).candidate
    if (first := next(installed_candidates(), None)) is not None:
        return first
    return asyncio.run(find_engine()).candidate  # raises: none is installed
