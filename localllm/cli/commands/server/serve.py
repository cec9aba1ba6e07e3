"""`localllm serve`: load models and answer over HTTP until a signal."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.listening import listen_options
from localllm.cli.local_server.detached import report_ready, short_log, start_detached, take_own_log
from localllm.cli.local_server.running import instance_option, server_log_file
from localllm.cli.output import error, info, print_json, print_line, warn, write_stderr
from localllm.cli.pool_models import make_pool, pool_options
from localllm.cli.progress import load_with_progress
from localllm.core.sizing.load import Pooling
from localllm.core.text import single_line, strip_controls
from localllm.core.units import format_duration
from localllm.errors import ExitCode, UsageError
from localllm.library.files import paths, settings
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import PoolModels
from localllm.runtime.runtime import ResidentModel
from localllm.server.local.listening import ListenChoice, Listening, access_to, listening
from localllm.server.local.model_aliases import names_without_effect
from localllm.server.local.place import Place, one_server
from localllm.server.local.pool_models import PoolOptions

if TYPE_CHECKING:  # the HTTP server is loaded when it is used
    from localllm.server.access.key_ring import KeyRing
    from localllm.server.app import Monitoring
    from localllm.server.listen import StopSignals

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The options that hold while models are loaded and served. `host` is the name to listen on,
    as it was given; `access_log` is a file, `-` for stderr; spans go to `otel_endpoint`;
    `allowed_hosts` are more names of this machine; pages of `cors_origins` may use
    the server; a request ends after `request_timeout_s`, None: never. `place` is where it says how
    it is reached; `log`: that of a server without a terminal."""

    host: str
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    request_timeout_s: int | None = None
    strict: bool = False
    access_log: str | None = None
    otel_endpoint: str | None = None
    place: Place = field(default_factory=Place)
    log: Path | None = None
    opens_page: bool = False
    as_json: bool = False
    quiet: bool = False


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=model_names)
@listen_options
@click.option(
    "--allowed-host",
    "--allowed-hosts",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Another name of this machine that clients use, such as host.docker.internal in a "
    "container; repeatable, beside those of the settings.",
)
@click.option(
    "--cors-origin",
    "--cors-origins",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="An origin whose web pages may use the server, with the key, such as "
    "http://localhost:3000; repeatable, beside those of the settings.",
)
@options.load_options(
    options.CONTEXT,
    click.option(
        "--parallel",
        metavar="N|auto",
        callback=lambda _context, _parameter, value: options.parse_parallel(value),
        help="Answers at the same time, in one batch (default auto: 4, or fewer when that does not "
        "fit). Each has the whole --ctx.",
    ),
    options.KV_TYPE,
    options.GPU_LAYERS,
    options.CPU_MOE,
    options.NO_KV_OFFLOAD,
    options.CACHE_RAM,
    options.TRUST_GPU,
    *options.ROPE,
    options.LORA,
    options.SPECULATE,
    options.DRAFT,
    options.THREADS,
    options.MMAP,
    options.CHAT_TEMPLATE,
    click.option(
        "--embeddings",
        is_flag=True,
        callback=options.true_or_none,
        help="Load models that answer for embeddings instead. Embedding models and rerankers are "
        "loaded so in any case.",
    ),
    click.option(
        "--pooling",
        type=options.one_of(Pooling, without=(Pooling.NONE,)),
        callback=options.member_of(Pooling),
        help="How a text's embedding is made of its tokens' (default: the model's own).",
    ),
    base=LoadChoice(),
)
@click.option(
    "--access-log",
    metavar="FILE|-",
    help="Write a line for each request, without its content; - is stderr.",
)
@click.option(
    "--otel-endpoint",
    metavar="URL",
    help="Send a trace of each request, without its content, to an OpenTelemetry collector "
    "(OTLP over HTTP); needs the extra `otel`.",
)
@pool_options
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse requests with fields that this server does not know, instead of ignoring them.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Go on without this terminal, once it is ready; `localllm stop` ends it.",
)
@instance_option
@click.option(
    "--open", "opens_page", is_flag=True, help="Open the chat page in the browser when ready."
)
@options.FORCE
@click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    help="Never use the network: serving does not in any case.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One line of JSON on stdout when ready: url, models, key_file.",
)
@options.QUIET
def command(
    models: tuple[str, ...],
    where: ListenChoice,
    allowed_hosts: tuple[str, ...],
    cors_origins: tuple[str, ...],
    choice: LoadChoice,
    access_log: str | None,
    otel_endpoint: str | None,
    pooled: PoolOptions,
    strict: bool,
    detach: bool,
    instance: str | None,
    opens_page: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Serve models over an OpenAI-compatible API on this machine.

    MODELs are loaded at the start; without any, the only installed one. Every other installed model
    is loaded when a request names it, if need be after an idle one is unloaded. Ctrl+C stops
    (status 130), SIGTERM too (status 0); answers that are being written get 5 seconds to end, a
    second signal ends them.
    """
    from localllm.server.security import cors_origin, host_name

    log = take_own_log()
    if detach and log is None:
        return detached(server_log_file(instance))
    user = settings.load()
    serving = Serving(
        host=user.host if where.host is None else where.host,
        allowed_hosts=tuple(map(host_name, (*user.allowed_hosts, *split_commas(allowed_hosts)))),
        cors_origins=tuple(map(cors_origin, (*user.cors_origins, *split_commas(cors_origins)))),
        request_timeout_s=user.request_timeout_s,
        strict=strict or user.strict,
        access_log=access_log or user.access_log,
        otel_endpoint=otel_endpoint,
        log=log,
        opens_page=opens_page,
        as_json=as_json,
        quiet=quiet,
    )
    with one_server(instance, warn=warn) as place:
        pool = make_pool(models, replace(pooled, choice=choice, force=force), user)
        if not quiet and not pooled.only:  # with --only a name of the settings may well be none
            for note in names_without_effect(pool.models, user):
                warn(note)
        with listening(where, user, inform=info, warn=warn) as open_:
            return asyncio.run(serve_models(pool, open_, replace(serving, place=place)))


def detached(log: Path) -> int:
    """Start the same server without this terminal, and print what it prints."""
    started = start_detached(sys.argv[1:], log)
    write_stderr(strip_controls(started.messages))
    if started.status is None:
        click.echo(started.ready, nl=False)
        return ExitCode.OK
    if not started.messages:
        error(f"The server has ended (status {started.status}) without a word.")
    return started.status if started.status > 0 else ExitCode.FAILED


def split_commas(values: tuple[str, ...]) -> list[str]:
    """Return the values of an option that may be repeated, or hold several."""
    return [each.strip() for value in values for each in value.split(",") if each.strip()]


async def serve_models(pool: ModelPool, at: Listening, serving: Serving) -> ExitCode:
    """Load, serve until a signal, free everything. Raises what loading raises."""
    from localllm.server.app import RequestRules, create_app
    from localllm.server.batch.service import BatchService
    from localllm.server.batch.store import BatchStore
    from localllm.server.listen import StopSignals, serve

    if serving.opens_page and at.url is None:
        raise UsageError("--open needs a port, since no browser opens a Unix socket: give --port.")
    access = access_to(
        at,
        names=(serving.host, *serving.allowed_hosts),
        cors_origins=serving.cors_origins,
        run_key=serving.place.key,
    )
    batches = BatchService(BatchStore(directory=paths.batch_dir()))
    stop = StopSignals()
    async with contextlib.AsyncExitStack() as stack:
        monitoring = stack.enter_context(monitored(serving))
        pool.observer = monitoring.metrics
        stack.callback(access.keys.write_used)
        stack.enter_context(stop.handled())
        stack.enter_context(loads_logged(serving))
        stack.push_async_callback(pool.close)
        resident = await _unless_stopped(_load_all(pool, serving), stop)
        if resident is not None:
            pool.keep_idle_times()
            for one in resident:  # they were loaded without the pool, with a bar
                monitoring.metrics.load_finished(one.model.name, one.loaded.load_s)
            app = create_app(
                pool,
                access=access,
                monitoring=monitoring,
                deadline_s=serving.request_timeout_s,
                rules=RequestRules(strict=serving.strict),
                batches=batches,
                stop=lambda: stop.receive(signal.SIGTERM),
            )
            batches.start()
            stack.push_async_callback(batches.close)
            if at.tls is not None:
                renewing = asyncio.create_task(at.tls.keep_fresh())
                stack.callback(renewing.cancel)
            stack.enter_context(published(at, serving))
            # The sockets take connections already.
            _print_ready(at, pool.models, serving)
            if serving.opens_page and at.url is not None:
                opening = asyncio.create_task(open_page(at.url, access.keys))
                stack.callback(opening.cancel)
                if serving.log is not None:  # its link goes to the terminal that waits
                    await opening
            if serving.log is not None:
                report_ready()
                stack.enter_context(short_log(serving.log))
            tls = None if at.tls is None else at.tls.server
            await serve(app, at.sockets, stop, abort_requests=pool.close, tls=tls)
    return ExitCode.INTERRUPTED if stop.signal is signal.SIGINT else ExitCode.OK


def published(at: Listening, serving: Serving) -> contextlib.AbstractContextManager[None]:
    """Say how the server is reached, for the other verbs, while it runs."""
    return serving.place.published(
        url=at.url,
        socket=at.path,
        key_file=None if at.key is None else at.key.file,
        certificate=None if at.tls is None else at.tls.certificate,
        log_file=serving.log,
    )


async def open_page(url: str, keys: "KeyRing") -> None:
    """Open the chat page with a new link; write that to stderr when no browser opens."""
    from localllm.server.page.browser import open_in_browser, page_link

    link = page_link(url, keys.pages.create_link() if keys.required else None)
    if await open_in_browser(link):
        info("The chat page opens in the browser.")
        return
    once = " (once, within a minute)" if keys.required else ""
    info(f"Open the chat page in a browser of yours{once}:")
    info(f"  {link}")


@contextlib.contextmanager
def monitored(serving: Serving) -> "Iterator[Monitoring]":
    """Open the access log and the export of traces, if there are any. Raises UsageError."""
    from localllm.server.app import Monitoring
    from localllm.server.monitoring.access_log import AccessLog
    from localllm.server.monitoring.tracing import Tracer

    with contextlib.ExitStack() as stack:
        log = tracer = None
        if serving.access_log is not None:
            to_stderr = serving.access_log == "-"
            log = AccessLog(None if to_stderr else paths.absolute(Path(serving.access_log)))
            stack.callback(log.close)
        if serving.otel_endpoint is not None:
            from localllm.library.http.export import open_exporter

            post = stack.enter_context(open_exporter(serving.otel_endpoint, settings.load()))
            tracer = Tracer(post)
            stack.callback(tracer.close)
        yield Monitoring(log=log, tracer=tracer)


@contextlib.contextmanager
def loads_logged(serving: Serving) -> "Iterator[None]":
    """Write on stderr what is loaded and unloaded, and why; nothing of a request is in it."""
    logger, handler = logging.getLogger("localllm.pool"), logging.StreamHandler()
    if serving.log is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.setLevel(logging.WARNING if serving.quiet else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


async def _unless_stopped(work: Coroutine[None, None, T], stop: "StopSignals") -> T | None:
    """Do `work`; None when a signal came first."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.should_exit.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    return None if task.cancelled() else task.result()


async def _load_all(pool: ModelPool, serving: Serving) -> tuple[ResidentModel, ...]:
    loaded, runtime = [], pool.runtime
    for given in pool.models.given:
        plan = await runtime.plan(given.model, given.choice)
        resident = await load_with_progress(runtime, plan, force=given.force, quiet=serving.quiet)
        if not serving.quiet:
            info(f"Loaded {_summary(resident)}")
            info(f"  {resident.comparison.sentence()}")
        for problem in resident.warnings:
            warn(problem)
        loaded.append(resident)
    return tuple(loaded)


def _summary(resident: ResidentModel) -> str:
    loaded = resident.loaded
    if resident.settings.embeddings:
        pooling = resident.settings.pooling
        kind = "rankings" if pooling is Pooling.RANK else f"embeddings ({pooling})"
        return (
            f"{single_line(resident.model.name)} in {format_duration(loaded.load_s)}: {kind} of "
            f"up to {loaded.context} tokens, {loaded.parallel} texts at once."
        )
    return (
        f"{single_line(resident.model.name)} in {format_duration(loaded.load_s)}: "
        f"{loaded.context} tokens of context, {loaded.parallel} answers at once"
        f"{', sees images' if loaded.vision else ''}."
    )


def _print_ready(at: Listening, models: PoolModels, serving: Serving) -> None:
    names = [model.name for model in models.given]
    key = at.key
    file = str(key.file.absolute()) if key is not None and key.file is not None else None
    path = None if at.path is None else str(at.path.absolute())
    if serving.as_json:
        document: dict[str, object] = {"url": at.url, "models": names, "key_file": file}
        if path is not None:
            document["socket"] = path
        if serving.log is not None:
            document |= {"pid": os.getpid(), "log_file": str(serving.log)}
        print_json(document, indent=None)
        return
    where = [place for place in (at.url and f"{at.url}/v1", path) if place]
    everything = models.all()
    others = [single_line(each.name) for each in everything if each.name not in names]
    print_line(f"Serving {', '.join(names or others)} at {' and '.join(where)}", wrap=False)
    if others:
        what = f"  on demand: {', '.join(others)}" if names else "  loaded when a request names one"
        print_line(what, wrap=False)
    for model in everything:
        for alias in models.aliases_of(model.name, everything):
            print_line(f"  also called {single_line(alias)}: {model.name}", wrap=False)
    if at.url is None:
        print_line(f"  curl --unix-socket {path} http://localhost/v1/models", wrap=False)
    elif file is not None:
        print_line(f"API key: in {file}", wrap=False)
        name = single_line(file).replace('"', '\\"')
        curl = f'curl -H "Authorization: Bearer $(cat "{name}")" {at.url}/v1/models'
        print_line(f"  {curl}", wrap=False)
    elif key is not None:
        print_line("API key: LOCALLLM_API_KEY")
    if serving.log is None:
        print_line("Ctrl+C stops.")
    else:
        print_line(f"`localllm stop` stops it. Its log: {serving.log}", wrap=False)
