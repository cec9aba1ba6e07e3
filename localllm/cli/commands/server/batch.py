"""`localllm batch`: run the requests of a JSONL file, and go on with them after a kill."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from localllm.cli import options
from localllm.cli.output import info, print_json, print_line, stderr
from localllm.cli.pool_models import make_pool
from localllm.core.units import format_duration, format_rate
from localllm.errors import ExitCode, UsageError
from localllm.library.files import settings
from localllm.library.files.file_lock import LockHeld, locked
from localllm.library.files.server_file import RunningServer, find_server
from localllm.runtime.load_policy import LoadChoice
from localllm.server.local.place import server_file
from localllm.server.local.pool_models import PoolOptions

if TYPE_CHECKING:
    from localllm.server.batch.input_file import BatchInput
    from localllm.server.batch.journal import Journal
    from localllm.server.batch.runner import BatchProgress, Send

LINE_EVERY_S = 10.0


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--model",
    help="The model of lines that name none (default: the only one that is installed).",
)
@options.load_options(
    options.CONTEXT,
    click.option(
        "--parallel",
        metavar="N|auto",
        default="8",
        show_default=True,
        callback=lambda _context, _parameter, value: options.parse_parallel(value),
        help="Answers at the same time, in one batch. Each has the whole --ctx.",
    ),
    options.KV_TYPE,
    options.GPU_LAYERS,
    options.CPU_MOE,
    options.NO_KV_OFFLOAD,
    options.CACHE_RAM,
    options.TRUST_GPU,
    options.SPECULATE,
    options.THREADS,
    options.MMAP,
    base=LoadChoice(),
)
@click.option(
    "--as-completed",
    is_flag=True,
    help="Leave the results in the order in which they came, not in that of IN.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Run lines again whose result so far is an error."
)
@click.option(
    "--no-server", is_flag=True, help="Load the models here, also when a server of yours runs."
)
@options.FORCE
@options.JSON
@options.QUIET
def command(
    source: Path,
    out: Path,
    model: str | None,
    choice: LoadChoice,
    as_completed: bool,
    retry_failed: bool,
    no_server: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run every request of IN, a JSONL file in OpenAI's batch format, and write a result a line to
    OUT.

    A server of yours that runs answers them (`localllm serve`). Without one the models are loaded
    here; the options of loading are for that alone.

    A run that was stopped or killed goes on where it was when the same command is started again.
    Results come in the order of IN when all are there; until then they are in OUT.partial. A line
    that fails has its error as its result. Exit status 1 when there is such a line.
    """
    from localllm.server.batch.input_file import scan
    from localllm.server.batch.journal import Journal, partial_file

    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is not a directory.")
    batch = scan(source, model=model)
    with _alone(out):
        if out.exists() and not retry_failed and not partial_file(out).exists():
            raise UsageError(
                f"{out} exists already. Choose another name, or delete it; --retry-failed runs the "
                "lines again whose result in it is an error."
            )
        journal = Journal.open(out, batch, retry_failed=retry_failed)
        try:
            pooled = PoolOptions(choice=choice, force=force)
            server = None if no_server else find_server(server_file(None))
            if server is not None and not quiet:
                info(
                    f"The server at {server.where} answers. --no-server loads models here instead."
                )
            progress = asyncio.run(_run(batch, journal, pooled, server, quiet=quiet))
            journal.finish(batch, in_order=not as_completed)
        except (KeyboardInterrupt, asyncio.CancelledError):
            info(f"{len(journal.done)} of {batch.total} are done and kept. Start the same command "
                 "again to go on.")  # fmt: skip
            return ExitCode.INTERRUPTED
        finally:
            journal.close()
    _print_end(progress, out, as_json=as_json)
    return ExitCode.FAILED if progress.failed else ExitCode.OK


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Let no second run write the same results."""
    lock = out.with_name(out.name + ".lock")
    try:
        with locked(lock, wait_s=0.5):
            try:
                yield
            finally:
                # Whoever waits for it finds the results whole. While they are not, it stays: two
                # runs could hold locks on two files of this name.
                if out.exists():
                    lock.unlink(missing_ok=True)
    except LockHeld as held:
        raise UsageError(f"Another run writes {out} already: {held}.") from held


async def _run(
    batch: "BatchInput",
    journal: "Journal",
    pooled: PoolOptions,
    server: RunningServer | None,
    *,
    quiet: bool,
) -> "BatchProgress":
    from localllm.server.batch.runner import IN_FLIGHT, run_batch

    if server is None:
        answering, in_flight = _in_process(pooled), 2 * (pooled.choice.parallel or 8)
    else:
        from localllm.cli.local_server.batch_link import through_server  # and an HTTP client

        answering, in_flight = through_server(server, server_file(None)), IN_FLIGHT
    async with answering as send:
        with _progress(quiet=quiet) as on_progress:
            return await run_batch(
                batch, journal, send, on_progress=on_progress, in_flight=in_flight
            )


@contextlib.asynccontextmanager
async def _in_process(pooled: PoolOptions) -> "AsyncIterator[Send]":
    """Answer the lines with engines of this process."""
    from localllm.server.app import create_routes
    from localllm.server.batch.lines import BatchLine
    from localllm.server.batch.runner import HttpAnswer
    from localllm.server.batch.service import call_app
    from localllm.server.request_record import OWNER

    pool = make_pool((), replace(pooled, keep_alive_s=None), settings.load())
    call = call_app(create_routes(pool))

    async def send(line: BatchLine) -> HttpAnswer:
        return await call(line, OWNER)

    try:
        yield send
    finally:
        await pool.close()


@contextlib.contextmanager
def _progress(*, quiet: bool) -> "Iterator[Callable[[BatchProgress], None]]":
    """Show how far the batch is: a bar on a terminal, else a line now and then."""
    console = stderr()
    last = -LINE_EVERY_S

    def line(progress: "BatchProgress") -> None:
        nonlocal last
        if not quiet and progress.now_s - last >= LINE_EVERY_S:
            last = progress.now_s
            info(_sentence(progress))

    if quiet or not console.is_terminal:
        yield line
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def draw(progress: "BatchProgress") -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                description=_sentence(progress, counts=False),
            )

        yield draw


def _sentence(progress: "BatchProgress", *, counts: bool = True) -> str:
    parts = [f"{progress.done} of {progress.total} done"] if counts else []
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.tps is not None:
        parts.append(format_rate(progress.tps))
    if progress.left_s is not None:
        parts.append(f"about {format_duration(progress.left_s)} left")
    return ", ".join(parts)


def _print_end(progress: "BatchProgress", out: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "done": progress.done,
                "failed": progress.failed,
                "resumed": progress.resumed,
                "tokens": progress.tokens,
                "seconds": progress.seconds,
                "tps": progress.tps,
            }
        )
        return
    resumed = f" ({progress.resumed} of them earlier)" if progress.resumed else ""
    rate = f", {format_rate(progress.tps)}" if progress.tps is not None else ""
    print_line(
        f"{progress.done} done{resumed}, {progress.failed} failed: {progress.tokens} tokens in "
        f"{format_duration(progress.seconds)}{rate}. Results: {out}"
    )
