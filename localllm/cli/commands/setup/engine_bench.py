"""`localllm engine bench`: builds of llama.cpp side by side on one model, in turns.

In turns, because a machine's speed drifts with its temperature and its other programs: what is
measured of one build is measured of the others at nearly the same time.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from localllm.cli.output import info
from localllm.cli.progress import load_with_progress
from localllm.cli.stopwatch import Stopwatch, context_for
from localllm.core.sizing.load import Speculate
from localllm.engine.builds.candidates import Candidate, RequestedEngine
from localllm.runtime.engine_rates import EngineRates, rates_of
from localllm.runtime.load_policy import CHAT
from localllm.runtime.runtime import Runtime

PROMPT_TOKENS, GEN_TOKENS = 512, 128


async def measure(
    candidates: Sequence[Candidate], model: str, *, rounds: int, quiet: bool
) -> dict[Candidate, EngineRates]:
    """Load the model in each build once a round and time it. Raises as `Runtime.load` does."""
    name = Runtime.of_this_machine().resolve(model).name  # a path is too long for a table
    rates: dict[Candidate, list[tuple[float, float]]] = {each: [] for each in candidates}
    for number in range(rounds):
        for candidate in candidates:
            if not quiet:
                info(f"Round {number + 1} of {rounds}: {candidate.name}")
            rates[candidate].append(await _once(candidate, model))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {each: rates_of(name, found, measured_at=now) for each, found in rates.items()}


async def _once(candidate: Candidate, model: str) -> tuple[float, float]:
    requested = RequestedEngine(engine=str(candidate.directory), origin="engine bench")
    runtime = Runtime.of_this_machine(requested)
    context = context_for(prompt_tokens=PROMPT_TOKENS, gen_tokens=GEN_TOKENS)
    choice = replace(CHAT, context=context, parallel=1, speculate=Speculate.OFF)
    try:
        plan = await runtime.plan(runtime.resolve(model), choice)
        resident = await load_with_progress(runtime, plan, force=False, quiet=True)
        watch = Stopwatch(lambda request: runtime.generate(resident.model.name, request))
        prompt = await watch.prompt(PROMPT_TOKENS, repetitions=1)
        decode = await watch.decode(GEN_TOKENS, parallel=1, repetitions=1)
    finally:
        await runtime.close()
    return prompt.mean, decode.mean
