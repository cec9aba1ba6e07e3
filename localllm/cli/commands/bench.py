"""`localllm bench`: prompt and decode rates, alone and together, stored for later estimates.

Each number of conversations is a load of its own, as `serve --parallel` would make it: in one
load for all of them the cells of idle conversations would slow down the others.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.output import info, literal, print_json, stderr, stdout, warn
from localllm.cli.progress import load_with_progress
from localllm.core.speed.measured import Measurement
from localllm.core.units import format_bandwidth, format_bytes, format_rate
from localllm.errors import ExitCode
from localllm.library.files import measurements, paths
from localllm.runtime.benchmark.measure import BenchPlan, Measured, measure
from localllm.runtime.benchmark.stopwatch import MIN_PROMPT_TOKENS
from localllm.runtime.load_plan import LoadPlan
from localllm.runtime.runtime import ResidentModel, Runtime

MAX_TOKENS = 2**20


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
            watch = TerminalWatch(quiet=quiet)
            measured = runner.run(measure(runtime, installed, plan, force=force, watch=watch))
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


class TerminalWatch:
    """Shows a measurement on stderr, unless it is `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    async def load(self, runtime: Runtime, plan: LoadPlan, *, force: bool) -> ResidentModel:
        """Load behind a bar."""
        return await load_with_progress(runtime, plan, force=force, quiet=self._quiet)

    def warn(self, text: str) -> None:
        """Write a warning."""
        warn(text)

    @contextmanager
    def test(self, label: str, runs: int) -> Iterator[Callable[[], None]]:
        """Draw a bar that one call moves on by a run; where there is no terminal, a line."""
        console = stderr()
        if not self._quiet and not console.is_terminal:
            info(f"{label} ...")
        progress = Progress(
            TextColumn(label, markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=self._quiet or not console.is_terminal,
        )
        with progress:
            task = progress.add_task(label, total=runs)
            yield lambda: progress.advance(task)


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
