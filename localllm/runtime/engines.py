"""The builds of llama.cpp that could be the engine, each with its verdict."""

import asyncio
from dataclasses import dataclass

from localllm.engine.builds.candidates import (
    Candidate,
    chosen_candidate,
    find_candidate,
    installed_candidates,
)
from localllm.engine.builds.verdict import Verdict
from localllm.engine.client.examination import verdict_on
from localllm.library.files import paths


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedEngine:
    """A build and its verdict; `chosen`: it is the one that runs models."""

    candidate: Candidate
    verdict: Verdict
    chosen: bool


def examined_engines() -> tuple[ExaminedEngine, ...]:
    """Return the installed builds and the chosen one, examined where they were not.

    Raises EngineUnavailable for a choice that is none.
    """
    chosen = chosen_candidate()
    found = list(installed_candidates())
    return tuple(
        ExaminedEngine(candidate=each, verdict=_verdict(each), chosen=each == chosen)
        for each in (found if chosen in found else [*found, chosen])
    )


def examine_engine(choice: str | None) -> ExaminedEngine:
    """Examine a build now, whatever is known of it: the chosen one, or the one of this name or
    directory. Raises EngineUnavailable when there is none."""
    candidate = chosen_candidate() if choice is None else find_candidate(choice)
    verdict = _verdict(candidate, again=True)
    return ExaminedEngine(candidate=candidate, verdict=verdict, chosen=choice is None)


def _verdict(candidate: Candidate, *, again: bool = False) -> Verdict:
    return asyncio.run(verdict_on(candidate, paths.engine_verdicts_file(), again=again))
