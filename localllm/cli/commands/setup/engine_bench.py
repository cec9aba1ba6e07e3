"""`localllm engine bench`: builds of llama.cpp side by side on one model, in turns.

In turns, because a machine's speed drifts with its temperature and its other programs: what is
measured of one build is measured of the others at nearly the same time.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psutil

from localllm.cli.output import info
from localllm.cli.progress import load_with_progress
from localllm.core.sizing.load import Speculate
from localllm.core.speed.measured import MeasuredModel, Measurement
from localllm.engine.builds.candidates import Candidate, RequestedEngine
from localllm.engine.cpu_time import cpu_time, crowded
from localllm.runtime.benchmark.stopwatch import Stopwatch, context_for
from localllm.runtime.engine_rates import EngineRates, rates_of
from localllm.runtime.load_policy import CHAT
from localllm.runtime.local_machine import measured_machine
from localllm.runtime.runtime import Runtime

PROMPT_TOKENS, GEN_TOKENS = 512, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One round of a build: rates in tokens/s, and the measurement that the decoding is."""

    prompt_tps: float
    decode: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """What was measured: the rates of each build, and their decoding as `bench` stores it."""

    rates: dict[Candidate, EngineRates]
    measurements: tuple[Measurement, ...]


async def measure(
    candidates: Sequence[Candidate], model: str, *, rounds: int, quiet: bool
) -> EngineBench:
    """Load the model in each build once a round and time it. Raises as `Runtime.load` does."""
    name = Runtime.of_this_machine().resolve(model).name  # a path is too long for a table
    found: dict[Candidate, list[_Round]] = {each: [] for each in candidates}
    for number in range(rounds):
        for candidate in candidates:
            if not quiet:
                info(f"Round {number + 1} of {rounds}: {candidate.name}")
            found[candidate].append(await _once(candidate, model))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rates = {
        candidate: rates_of(
            name, [(each.prompt_tps, each.decode.tps_mean) for each in done], measured_at=now
        )
        for candidate, done in found.items()
    }
    together = (_together([each.decode for each in done]) for done in found.values())
    return EngineBench(rates=rates, measurements=tuple(together))


def _together(rounds: Sequence[Measurement]) -> Measurement:
    """Make one measurement of a build's rounds: estimates are corrected by it while this build is
    the engine (core/speed/measured.py)."""
    rates = [each.tps_mean for each in rounds]
    return replace(
        rounds[-1],
        repetitions=len(rates),
        tps_mean=statistics.fmean(rates),
        tps_stdev=statistics.stdev(rates) if len(rates) > 1 else None,
        crowded=any(each.crowded for each in rounds),
    )


async def _once(candidate: Candidate, model: str) -> _Round:
    requested = RequestedEngine(engine=str(candidate.directory), origin="engine bench")
    runtime = Runtime.of_this_machine(requested)
    context = context_for(prompt_tokens=PROMPT_TOKENS, gen_tokens=GEN_TOKENS)
    choice = replace(CHAT, context=context, parallel=1, speculate=Speculate.OFF)
    try:
        plan = await runtime.plan(runtime.resolve(model), choice)
        resident = await load_with_progress(runtime, plan, force=False, quiet=True)
        machine = measured_machine(await runtime.hardware())
        before = cpu_time()
        watch = Stopwatch(lambda request: runtime.generate(resident.model.name, request))
        prompt = await watch.prompt(PROMPT_TOKENS, repetitions=1)
        decode = await watch.decode(GEN_TOKENS, parallel=1, repetitions=1)
        contended = crowded(
            before, cpu_time(), threads=machine.threads, processors=psutil.cpu_count()
        )
    finally:
        await runtime.close()
    measurement = Measurement(
        machine=replace(
            machine,
            threads=resident.settings.threads or machine.threads,
            threads_measured=True,
        ),
        model=MeasuredModel(
            name=resident.model.name,
            quant=resident.model.quant or plan.spec.quant,
            architecture=plan.spec.architecture,
            size_bytes=resident.model.size_bytes,
        ),
        n_prompt=0,
        n_gen=decode.tokens,
        parallel=1,
        gpu_layers=resident.loaded.gpu_layers,
        cpu_moe=resident.settings.cpu_moe,
        repetitions=1,
        tps_mean=decode.mean,
        tps_stdev=None,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        crowded=contended,
    )
    return _Round(prompt_tps=prompt.mean, decode=measurement)
