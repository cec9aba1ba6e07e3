"""The automatic choice of the engine, by what is proved of each build, and its reason.

Nothing here starts a process: examinations are in `engine/client/examination.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.engine.builds.candidates import (
    NONE_INSTALLED,
    Candidate,
    RequestedEngine,
    installed_candidates,
)
from localllm.engine.builds.verdict import Verdict, VerdictFile, fingerprint
from localllm.errors import EngineUnavailable
from localllm.policy.active import active_policy
from localllm.translation import _


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedEngine:
    """A build and its verdict. `chosen`: it is the engine; `reason`: why it is, or is not, in one
    sentence."""

    candidate: Candidate
    verdict: Verdict
    chosen: bool = False
    reason: str = ""


def choose(examined: Sequence[tuple[Candidate, Verdict]]) -> tuple[ExaminedEngine, ...]:
    """Choose among builds, which are in their order of preference otherwise; the results are in the
    same order, and none of them is chosen when all are refused.

    One that uses a GPU of this machine comes before one that does not, then one that was built for
    this machine before a prebuilt one.
    """
    usable = [each for each in examined if each[1].accepted]
    best = max(usable, key=_rank, default=None)  # of equal ones the first
    return tuple(
        ExaminedEngine(
            candidate=candidate,
            verdict=verdict,
            chosen=best is not None and candidate == best[0],
            reason=_reason((candidate, verdict), best, examined),
        )
        for candidate, verdict in examined
    )


def likely_engine(kept: Path | None, requested: RequestedEngine | None) -> Candidate:
    """Return the build that will be chosen, as far as the file of verdicts `kept` tells: of a build
    that was not examined nothing is held against it.

    Raises EngineUnavailable when there is none.
    """
    if requested is not None:
        return requested.find()
    installed = list(installed_candidates())
    if not installed:
        raise EngineUnavailable(NONE_INSTALLED)
    if len(installed) == 1:
        return installed[0]
    verdicts = VerdictFile(kept)
    examined = choose([(each, _known(each, verdicts)) for each in installed])
    return next((each.candidate for each in examined if each.chosen), installed[0])


def policy_refusal(candidate: Candidate) -> str | None:
    """Return why the policy does not allow a build, without its end; None when it does."""
    refusal = active_policy().allows_engine(candidate.name, str(candidate.directory))
    return None if refusal is None else f"the policy does not allow it ({refusal.key})"


def _known(candidate: Candidate, verdicts: VerdictFile) -> Verdict:
    if (reason := policy_refusal(candidate)) is not None:
        return Verdict(engine=candidate.name, refused=reason)
    try:
        known = verdicts.get(fingerprint(candidate))
    except (EngineUnavailable, OSError) as error:
        return Verdict(engine=candidate.name, refused=str(error))
    return known or Verdict(engine=candidate.name)


def _rank(engine: tuple[Candidate, Verdict]) -> tuple[bool, bool]:
    candidate, verdict = engine
    return bool(verdict.gpus), candidate.built_here


def _reason(
    engine: tuple[Candidate, Verdict],
    best: tuple[Candidate, Verdict] | None,
    examined: Sequence[tuple[Candidate, Verdict]],
) -> str:
    candidate, verdict = engine
    if verdict.refused is not None:
        return f"It is refused: {verdict.refused}."
    assert best is not None
    if candidate != best[0]:
        return f"{best[0].name} {_advantage(best, engine)}."
    others = [each for each in examined if each[0] != candidate]
    if not others:
        return _("It is the only engine that is installed.")
    usable = [each for each in others if each[1].accepted]
    if not usable:
        return f"{_names(others)} {'is' if len(others) == 1 else 'are'} refused."
    second = max(usable, key=_rank)
    return f"It {_advantage(engine, second)}; {second[0].name} {_lack(engine, second)}."


def _advantage(better: tuple[Candidate, Verdict], other: tuple[Candidate, Verdict]) -> str:
    if better[1].gpus and not other[1].gpus:
        return f"uses a GPU of this machine ({', '.join(better[1].gpus)})"
    if better[0].built_here and not other[0].built_here:
        return "was built for this machine"
    return "comes first among equals"


def _lack(better: tuple[Candidate, Verdict], other: tuple[Candidate, Verdict]) -> str:
    if better[1].gpus and not other[1].gpus:
        return "uses none"
    if better[0].built_here and not other[0].built_here:
        return "is prebuilt"
    return "would do as well"


def _names(engines: Sequence[tuple[Candidate, Verdict]]) -> str:
    return " and ".join(candidate.name for candidate, _ in engines)
