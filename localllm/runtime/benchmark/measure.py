"""Measure a model: prompt and decode rates, alone and together.

Each number of conversations is a load of its own, as a server would make it: in one load for all of
them the cells of idle conversations would slow down the others.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import psutil

from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Speculate
from localllm.core.speed import DeviceSpeed, workload_of
from localllm.core.speed.decode_report import DecodeReport, decode_report
from localllm.core.speed.measured import MeasuredMachine, MeasuredModel, Measurement
from localllm.core.speed.threads import ThreadTrial
from localllm.engine.cpu_time import cpu_time, crowded
from localllm.errors import LocalLLMError, UsageError
from localllm.library.store.installed import InstalledModel
from localllm.runtime.benchmark.stopwatch import Stopwatch, Timed, context_for
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.local_machine import host_speed, measured_machine
from localllm.runtime.runtime import ResidentModel, Runtime, TooLarge

_DISTURBED = "Other programs used the processors: the figures of a quiet machine say more."


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """The tests to run. `parallel` is in rising order."""

    prompt_tokens: int
    gen_tokens: int
    parallel: tuple[int, ...]
    repetitions: int
    context: int | None = None
    gpu_layers: int | None = None
    trust_gpu: bool | None = None
    threads: int | None = None

    @property
    def loads(self) -> tuple[int, ...]:
        """Conversations of each load; prompts are always read by one alone."""
        return tuple(sorted({1, *self.parallel}))

    def choice(self, parallel: int) -> LoadChoice:
        """Choose how the model is loaded for so many conversations: without speculation, whose
        gain depends on the text. Raises UsageError."""
        needed = context_for(prompt_tokens=self.prompt_tokens, gen_tokens=self.gen_tokens)
        if self.context is not None and self.context < needed:
            raise UsageError(
                f"--ctx {self.context} is too small for {self.prompt_tokens} prompt tokens and "
                f"{self.gen_tokens} generated ones. Give at least {needed}, or fewer tokens."
            )
        return replace(
            CHAT,
            context=self.context or needed,
            parallel=parallel,
            gpu_layers=self.gpu_layers,
            trust_gpu=self.trust_gpu,
            threads=self.threads,
            speculate=Speculate.OFF,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What `bench` has found: `report` is of one conversation on the processor, None where a GPU
    takes part, none was measured, or nothing is known of the memory. `threads_measured`: they were
    found by a measurement (runtime/thread_counts.py)."""

    results: tuple[Measurement, ...]
    report: DecodeReport | None
    threads_measured: bool = False


class BenchWatch(Protocol):
    """Who watches a measurement: it loads, and hears of every run."""

    async def load(self, runtime: Runtime, plan: LoadPlan, *, force: bool) -> ResidentModel:
        """Load, and show how far it is."""

    def test(self, label: str, runs: int) -> AbstractContextManager[Callable[[], None]]:
        """Show a test of so many runs; what is yielded is called after each."""

    def warn(self, text: str) -> None:
        """Take a sentence about what is not as it should be."""


async def measure(
    runtime: Runtime, model: InstalledModel, plan: BenchPlan, *, force: bool, watch: BenchWatch
) -> Measured:
    """Load the model once for each number of conversations and time it.

    Raises DoesNotFit before anything is measured when the largest load does not fit, UsageError
    for a model that does not continue text.
    """
    largest = await runtime.fit(await runtime.plan(model, plan.choice(plan.loads[-1])))
    if not largest.fits and not force:
        raise TooLarge(model.name, largest)
    hardware = await runtime.hardware()
    host: DeviceSpeed | None = None
    with suppress(LocalLLMError):  # the figure that there is stays; `hardware` says what is wrong
        host = await asyncio.to_thread(host_speed, hardware, measure_again=True)
    machine = measured_machine(hardware)
    results: list[Measurement] = []
    alone: tuple[ModelSpec, ResidentModel] | None = None
    for parallel in plan.loads:
        load = await runtime.plan(model, plan.choice(parallel))
        resident = await watch.load(runtime, load, force=force)
        if resident.gpu_failure is not None:
            watch.warn(resident.gpu_failure.warning)
        tests = LoadTests(
            plan=plan,
            spec=load.spec,
            resident=resident,
            machine=replace(
                machine,
                threads=resident.settings.threads or machine.threads,
                threads_measured=plan.threads is None,
            ),
            watch=watch,
        )
        results += await tests.run(runtime)
        await runtime.unload(model.name)
        if parallel == 1:
            alone = load.spec, resident
    known = runtime.thread_choice(model, hardware)
    return Measured(
        results=tuple(results),
        report=_report(results, alone, host, () if known is None else known.trials),
        threads_measured=plan.threads is None and known is not None,
    )


def _report(
    results: Sequence[Measurement],
    alone: tuple[ModelSpec, ResidentModel] | None,
    host: DeviceSpeed | None,
    trials: Sequence[ThreadTrial],
) -> DecodeReport | None:
    """Compare one conversation's rate with the memory."""
    rates = {one.parallel: one for one in results if one.n_gen}
    one = rates.get(1)
    if one is None or alone is None or host is None or one.gpu_layers:
        return None
    spec, resident = alone
    report = decode_report(
        workload_of(spec, resident.settings),
        replace(host, cores=one.machine.threads),
        tps=one.tps_mean,
        depth=one.n_gen // 2,
        together={parallel: each.tps_mean for parallel, each in rates.items()},
        trials=trials,
    )
    return report if one.steady else replace(report, advice=(_DISTURBED,))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTests:
    """The tests of one load."""

    plan: BenchPlan
    spec: ModelSpec
    resident: ResidentModel
    machine: MeasuredMachine
    watch: BenchWatch

    async def run(self, runtime: Runtime) -> list[Measurement]:
        """Run one test after the other."""
        name, parallel = self.resident.model.name, self.resident.settings.parallel
        plan, results, before = self.plan, [], cpu_time()
        if parallel == 1:
            with self.watch.test(f"pp{plan.prompt_tokens}", 1 + plan.repetitions) as ran:
                clock = Stopwatch(lambda request: runtime.generate(name, request), ran=ran)
                timed = await clock.prompt(plan.prompt_tokens, repetitions=plan.repetitions)
            results.append(self._measurement(timed, n_prompt=timed.tokens, n_gen=0))
        if parallel in plan.parallel:
            with self.watch.test(f"tg{plan.gen_tokens} x {parallel}", 1 + plan.repetitions) as ran:
                clock = Stopwatch(lambda request: runtime.generate(name, request), ran=ran)
                timed = await clock.decode(
                    plan.gen_tokens, parallel=parallel, repetitions=plan.repetitions
                )
            results.append(self._measurement(timed, n_prompt=0, n_gen=timed.tokens))
        contended = crowded(
            before, cpu_time(), threads=self.machine.threads, processors=psutil.cpu_count()
        )
        return [replace(result, crowded=contended) for result in results]

    def _measurement(self, timed: Timed, *, n_prompt: int, n_gen: int) -> Measurement:
        resident = self.resident
        return Measurement(
            machine=self.machine,
            model=MeasuredModel(
                name=resident.model.name,
                quant=resident.model.quant or self.spec.quant,
                architecture=self.spec.architecture,
                size_bytes=resident.model.size_bytes,
            ),
            n_prompt=n_prompt,
            n_gen=n_gen,
            parallel=resident.settings.parallel,
            gpu_layers=resident.loaded.gpu_layers,
            cpu_moe=resident.settings.cpu_moe,
            repetitions=len(timed.tps),
            tps_mean=timed.mean,
            tps_stdev=timed.stdev,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
