"""`localllm bench`: prompt and decode rates, alone and together, stored for later estimates.

Each number of conversations is a load of its own, as `serve --parallel` would make it: in one
load for all of them the cells of idle conversations would slow down the others.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import click
import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.output import info, literal, print_json, stderr, stdout, warn
from localllm.cli.progress import load_with_progress
from localllm.cli.stopwatch import (
    MIN_PROMPT_TOKENS,
    Stopwatch,
    Timed,
    context_for,
)
from localllm.core.model.spec import ModelSpec
from localllm.core.sizing.load import Speculate
from localllm.core.speed import DeviceSpeed, workload_of
from localllm.core.speed.decode_report import DecodeReport, decode_report
from localllm.core.speed.measured import MeasuredMachine, MeasuredModel, Measurement
from localllm.core.speed.threads import ThreadTrial
from localllm.core.units import format_bandwidth, format_bytes, format_rate
from localllm.engine.cpu_time import cpu_time, crowded
from localllm.errors import ExitCode, LocalLLMError, UsageError
from localllm.library.files import measurements, paths
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import CHAT, LoadChoice
from localllm.runtime.local_machine import host_speed, measured_machine
from localllm.runtime.runtime import ResidentModel, Runtime, TooLarge

MAX_TOKENS = 2**20
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


def parse_parallel(value: str) -> tuple[int, ...]:
    """Read "1,2,4,8" as rising numbers, each once. Raises click.BadParameter."""
    counts = set()
    for part in value.split(","):
        text = part.strip()
        if not (text.isascii() and text.isdecimal() and len(text) <= 4):
            raise click.BadParameter(f"{value[:40]!r} is not a list of numbers such as 1,2,4,8.")
        counts.add(int(text))
    if not 1 <= min(counts) <= max(counts) <= options.MAX_PARALLEL:
        raise click.BadParameter(f"numbers of conversations go from 1 to {options.MAX_PARALLEL}.")
    return tuple(sorted(counts))


@click.command(name="bench")
@click.argument("model", shell_complete=model_names)
@click.option(
    "--prompt-tokens", type=click.IntRange(MIN_PROMPT_TOKENS, MAX_TOKENS), default=512,
    metavar="N", help="Length of the prompt that is read (default 512).",
)  # fmt: skip
@click.option(
    "--gen-tokens", type=click.IntRange(1, MAX_TOKENS), default=128, metavar="N",
    help="Tokens that are decoded (default 128).",
)  # fmt: skip
@click.option(
    "--parallel", default="1,2,4,8", metavar="P,P,...",
    callback=lambda _c, _p, value: parse_parallel(value),
    help="Conversations that decode at the same time (default 1,2,4,8).",
)  # fmt: skip
@click.option(
    "--repetitions", type=click.IntRange(1, 1000), default=3, metavar="R",
    help="Runs of each test, after one to warm up (default 3).",
)  # fmt: skip
@click.option(
    "--ctx", "context", type=click.IntRange(16, options.MAX_CONTEXT), metavar="N",
    help="Context of one conversation, in tokens (default: what the tests need).",
)  # fmt: skip
@options.GPU_LAYERS
@options.TRUST_GPU
@options.THREADS
@options.FORCE
@options.JSON
@options.QUIET
def command(
    model: str,
    prompt_tokens: int,
    gen_tokens: int,
    parallel: tuple[int, ...],
    repetitions: int,
    context: int | None,
    gpu_layers: int | None,
    trust_gpu: bool | None,
    threads: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Measure how fast MODEL reads prompts and decodes, alone and for several at once.

    The results are stored; Ctrl+C ends it and stores nothing.
    """
    plan = BenchPlan(
        prompt_tokens=prompt_tokens,
        gen_tokens=gen_tokens,
        parallel=parallel,
        repetitions=repetitions,
        context=context,
        gpu_layers=gpu_layers,
        trust_gpu=trust_gpu,
        threads=threads,
    )
    runtime = Runtime.of_this_machine()
    with asyncio.Runner() as runner:
        try:
            installed = runtime.resolve(model)
            measured = runner.run(measure(runtime, installed, plan, force=force, quiet=quiet))
        except KeyboardInterrupt:
            info("Interrupted: nothing is stored.")
            return ExitCode.INTERRUPTED
        finally:
            runner.run(runtime.close())
    results = measured.results
    if as_json:
        print_json(document(measured))
    else:
        _print(measured)
    warn_if_unsteady(results)
    store = paths.measurements_file(paths.data_dir())
    measurements.add(store, *results, warn=warn)
    if not quiet:
        info(f"Stored in {store}.")
    return ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What `bench` has found: `report` is of one conversation on the processor, None where a GPU
    takes part, none was measured, or nothing is known of the memory. `threads_measured`: they were
    found by a measurement (runtime/thread_counts.py)."""

    results: tuple[Measurement, ...]
    report: DecodeReport | None
    threads_measured: bool = False


async def measure(
    runtime: Runtime, model: InstalledModel, plan: BenchPlan, *, force: bool, quiet: bool
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
        resident = await load_with_progress(runtime, load, force=force, quiet=quiet)
        if resident.gpu_failure is not None:
            warn(resident.gpu_failure.warning)
        tests = LoadTests(
            plan=plan,
            spec=load.spec,
            resident=resident,
            machine=replace(
                machine,
                threads=resident.settings.threads or machine.threads,
                threads_measured=plan.threads is None,
            ),
            quiet=quiet,
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
    quiet: bool

    async def run(self, runtime: Runtime) -> list[Measurement]:
        """Run one test after the other, each with a bar on stderr."""
        name, parallel = self.resident.model.name, self.resident.settings.parallel
        plan, results, before = self.plan, [], cpu_time()
        if parallel == 1:
            with self._bar(f"pp{plan.prompt_tokens}") as ran:
                watch = Stopwatch(lambda request: runtime.generate(name, request), ran=ran)
                timed = await watch.prompt(plan.prompt_tokens, repetitions=plan.repetitions)
            results.append(self._measurement(timed, n_prompt=timed.tokens, n_gen=0))
        if parallel in plan.parallel:
            with self._bar(f"tg{plan.gen_tokens} x {parallel}") as ran:
                watch = Stopwatch(lambda request: runtime.generate(name, request), ran=ran)
                timed = await watch.decode(
                    plan.gen_tokens, parallel=parallel, repetitions=plan.repetitions
                )
            results.append(self._measurement(timed, n_prompt=0, n_gen=timed.tokens))
        contended = crowded(
            before, cpu_time(), threads=self.machine.threads, processors=psutil.cpu_count()
        )
        return [replace(result, crowded=contended) for result in results]

    @contextmanager
    def _bar(self, label: str) -> Iterator[Callable[[], None]]:
        """Draw a bar that one call moves on by a run; where there is no terminal, a line."""
        console = stderr()
        if not self.quiet and not console.is_terminal:
            info(f"{label} ...")
        progress = Progress(
            TextColumn(label, markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=self.quiet or not console.is_terminal,
        )
        with progress:
            task = progress.add_task(label, total=1 + self.plan.repetitions)
            yield lambda: progress.advance(task)

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


def document(measured: Measured) -> dict[str, object]:
    """Return what `bench --json` prints (docs/bench.md says what each key means)."""
    results, report = measured.results, measured.report
    first = results[0]
    return {
        "model": first.model.name,
        "quant": first.model.quant,
        "architecture": first.model.architecture,
        "size_bytes": first.model.size_bytes,
        "machine": first.machine,
        "measured_at": first.measured_at,
        "repetitions": first.repetitions,
        "results": [
            {
                "test": one.test,
                "n_prompt": one.n_prompt,
                "n_gen": one.n_gen,
                "parallel": one.parallel,
                "gpu_layers": one.gpu_layers,
                "cpu_moe": one.cpu_moe,
                "tps_mean": one.tps_mean,
                "tps_stdev": one.tps_stdev,
                "crowded": one.crowded,
            }
            for one in results
        ],
        "memory_read": None
        if report is None
        else {
            "bytes_per_token": report.bytes_per_token,
            "bytes_per_s": report.bytes_per_s,
            "measured_bytes_per_s": report.memory_bytes_per_s,
            "share": report.share,
        },
        "advice": [] if report is None else list(report.advice),
    }


def table(results: tuple[Measurement, ...]) -> Table:
    """Draw the rates, one test a row."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows.add_column("test")
    rows.add_column("parallel", justify="right")
    rows.add_column("rate", justify="right")
    rows.add_column("stdev", justify="right")
    for one in results:
        stdev = "-" if one.tps_stdev is None else format_rate(one.tps_stdev)
        rows.add_row(one.test, str(one.parallel), format_rate(one.tps_mean), stdev)
    return rows


def _print(measured: Measured) -> None:
    results, report = measured.results, measured.report
    model, machine = results[0].model, results[0].machine
    devices = ", ".join((machine.cpu, *machine.devices))
    console = stdout()
    console.print(
        literal(
            f"{model.name}: {model.architecture}, {model.quant or 'unknown quant'}, "
            f"{format_bytes(model.size_bytes)}"
        )
    )
    how = " (measured best for this size)" if measured.threads_measured else ""
    console.print(literal(f"{devices}; {machine.threads} threads{how}"))
    console.print(table(results))
    if report is not None:
        console.print(
            literal(
                f"One conversation reads {format_bandwidth(report.bytes_per_s)} of the "
                f"{format_bandwidth(report.memory_bytes_per_s)} that the memory was measured at "
                f"({report.share:.0%})."
            )
        )
        for sentence in report.advice:
            console.print(literal(f"  {sentence}"))


def warn_if_unsteady(results: tuple[Measurement, ...]) -> None:
    """Warn on stderr when other programs have spoilt the results."""
    worst = max(results, key=lambda one: (one.crowded, one.spread))
    if worst.steady:
        return
    test = f"{worst.test} with {worst.parallel} at a time"
    reason = (
        f"Other programs kept processors busy that {test} needed, so it is too slow."
        if worst.crowded
        else f"The runs of {test} differ by {worst.spread:.0%}: other programs use this machine."
    )
    warn(f"{reason} Measure again when it is quiet; the new results take the place of these.")
