"""`localllm serve`: load models and answer over HTTP until a signal."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from localllm.cli import options
from localllm.cli.completion import model_names
from localllm.cli.model_aliases import resolve_aliases
from localllm.cli.output import info, print_json, print_line, warn
from localllm.cli.progress import load_with_progress
from localllm.core.sizing.load import Pooling
from localllm.core.text import single_line
from localllm.core.units import format_duration
from localllm.errors import ExitCode, NotFound, UsageError
from localllm.library.files import paths, settings
from localllm.library.store.installed import InstalledModel
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.runtime import ResidentModel, Runtime

if TYPE_CHECKING:  # the HTTP server is loaded when it is used
    from localllm.server.key import ApiKey
    from localllm.server.listen import Address, StopSignals

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The options that hold while models are loaded and served. `host` is the name to listen on,
    as it was given, `allowed_hosts` are more names of this machine; pages of `cors_origins` may use
    the server; a request ends after `request_timeout_s`, None: never. `aliases` maps further names
    to those of models."""

    host: str
    choice: LoadChoice
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    request_timeout_s: int | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    force: bool = False
    as_json: bool = False
    quiet: bool = False


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=model_names)
@click.option(
    "--host",
    help="Address to listen on (default: that of the settings, else localhost: 127.0.0.1 and ::1).",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port; 0 takes any free one (default: that of the settings, else 11711).",
)
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
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the key from FILE (default: LOCALLLM_API_KEY, else a random key that is made at "
    "the first start).",
)
@click.option("--no-auth", is_flag=True, help="Ask for no key; loopback addresses only.")
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME[=MODEL]",
    help="Another name that requests can call MODEL by; without =MODEL, the only one that is "
    "served. Repeatable.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse requests with fields that this server does not know, instead of ignoring them.",
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
    host: str | None,
    port: int | None,
    allowed_hosts: tuple[str, ...],
    cors_origins: tuple[str, ...],
    choice: LoadChoice,
    api_key_file: Path | None,
    no_auth: bool,
    aliases: tuple[str, ...],
    strict: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Serve MODELs over an OpenAI-compatible API on this machine.

    Without MODEL: the only installed one, or `starter`. Ctrl+C stops (status 130), SIGTERM too
    (status 0); answers that are being written get 5 seconds to end, a second signal ends them.
    """
    from localllm.server.listen import bound_address, find_addresses, open_sockets
    from localllm.server.security import cors_origin, host_name

    if choice.draft is not None and len(models) > 1:
        raise UsageError("--draft belongs to one model: serve it alone.")
    if choice.chat_template is not None and len(models) > 1:
        raise UsageError(
            "--chat-template belongs to one model: serve it alone, or name a file for each in the "
            "settings (chat_templates)."
        )
    if choice.loras and len(models) > 1:
        raise UsageError("--lora belongs to one model: serve it alone.")
    user = settings.load()
    serving = Serving(
        host=user.host if host is None else host,
        choice=choice,
        allowed_hosts=tuple(map(host_name, (*user.allowed_hosts, *split_commas(allowed_hosts)))),
        cors_origins=tuple(map(cors_origin, (*user.cors_origins, *split_commas(cors_origins)))),
        request_timeout_s=user.request_timeout_s,
        strict=strict or user.strict,
        force=force,
        as_json=as_json,
        quiet=quiet,
    )
    addresses = find_addresses(serving.host, user.port if port is None else port)
    key = choose_key(addresses[0], api_key_file, no_auth=no_auth)
    runtime = Runtime.of_this_machine()
    chosen = choose_models(runtime, models)
    serving = replace(serving, aliases=resolve_aliases(runtime, chosen, aliases, user.aliases))
    with contextlib.ExitStack() as stack:
        sockets = tuple(stack.enter_context(sock) for sock in open_sockets(addresses))
        warn_unsafe(bound_address(sockets[0]), key)
        return asyncio.run(serve_models(runtime, chosen, sockets, key, serving))


def split_commas(values: tuple[str, ...]) -> list[str]:
    """Return the values of an option that may be repeated, or hold several."""
    return [each.strip() for value in values for each in value.split(",") if each.strip()]


def choose_key(address: "Address", file: Path | None, *, no_auth: bool) -> "ApiKey | None":
    """Find the key: the option, the environment, or the file made at the first start.

    Raises UsageError when other machines could come in without a key, or with a weak one.
    """
    from localllm.server import key as keys

    if no_auth:
        if file is not None:
            raise UsageError("--no-auth and --api-key-file exclude each other.")
        if not address.loopback:
            raise UsageError(
                f"--no-auth would let every machine that reaches {address.ip} use this one. "
                "Leave it out, or listen on 127.0.0.1."
            )
        return None
    environment = os.environ.get("LOCALLLM_API_KEY")
    if file is not None:
        key = keys.from_file(file)
    elif environment:
        key = keys.from_environment(environment)
    else:
        key = keys.read_or_create(paths.key_file())
    if not address.loopback and len(key.text) < keys.SHORTEST_KEY_BEYOND_LOOPBACK:
        raise UsageError(
            f"The API key has {len(key.text)} characters; to listen on {address.ip}, where other "
            f"machines can try keys, it needs {keys.SHORTEST_KEY_BEYOND_LOOPBACK}."
        )
    return key


def choose_models(runtime: Runtime, names: tuple[str, ...]) -> tuple[InstalledModel, ...]:
    """Resolve the names; without any, take the only model or `starter`.

    Raises UsageError when there is a choice to make or one name twice, NotFound.
    """
    if names:
        chosen = tuple(runtime.resolve(name) for name in names)
        twice = {model.name for model in chosen if sum(m.name == model.name for m in chosen) > 1}
        if twice:
            raise UsageError(f"Two of the models have the name {single_line(twice.pop())}.")
        return chosen
    installed = runtime.installed()
    if not installed:
        raise NotFound("No model is installed. Try: localllm import FILE.gguf")
    starters = tuple(model for model in installed if model.name == "starter")
    if len(installed) > 1 and not starters:
        listed = ", ".join(single_line(model.name) for model in installed)
        raise UsageError(f"Which model? Installed: {listed}. Try: localllm serve NAME")
    return installed if len(installed) == 1 else starters


def warn_unsafe(address: "Address", key: "ApiKey | None") -> None:
    """Name on stderr what is less safe than the defaults."""
    if key is None:
        info("WARNING: no API key: every program and user of this machine can use the API.")
    elif key.warning is not None:
        info(f"WARNING: {key.warning}")
    if not address.loopback:
        info(
            f"WARNING: listening on {address.ip}, not only on this machine: whoever reaches port "
            f"{address.port} and has the API key can use it, and what is sent is not encrypted."
        )


async def serve_models(
    runtime: Runtime,
    models: tuple[InstalledModel, ...],
    sockets: tuple[socket.socket, ...],
    key: "ApiKey | None",
    serving: Serving,
) -> ExitCode:
    """Load, serve until a signal, free everything. Raises what loading raises."""
    from localllm.server.access.key_ring import KeyRing
    from localllm.server.access.named_keys import KeyFile
    from localllm.server.app import Access, RequestRules, create_app
    from localllm.server.listen import StopSignals, bound_address, serve
    from localllm.server.security import HostPolicy, server_names

    address = bound_address(sockets[0])
    names = (serving.host, socket.gethostname(), *serving.allowed_hosts)
    access = Access(
        hosts=HostPolicy.bound_to(address.ip, server_names(names, has_key=key is not None)),
        keys=KeyRing(key.text if key else None, KeyFile(paths.keys_file(), paths.keys_used_file())),
        cors_origins=frozenset(serving.cors_origins),
    )
    stop = StopSignals()
    with stop.handled():
        try:
            resident = await _unless_stopped(_load_all(runtime, models, serving), stop)
            if resident is not None:
                app = create_app(
                    runtime,
                    tuple(one.model.name for one in resident),
                    access=access,
                    deadline_s=serving.request_timeout_s,
                    rules=RequestRules(aliases=serving.aliases, strict=serving.strict),
                )
                # The sockets take connections already.
                _print_ready(address, resident, key, serving)
                await serve(app, sockets, stop, abort_requests=runtime.close)
        finally:
            await runtime.close()
            access.keys.write_used()
    return ExitCode.INTERRUPTED if stop.signal is signal.SIGINT else ExitCode.OK


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


async def _load_all(
    runtime: Runtime, models: tuple[InstalledModel, ...], serving: Serving
) -> tuple[ResidentModel, ...]:
    loaded = []
    for model in models:
        plan = await runtime.plan(model, serving.choice)
        resident = await load_with_progress(runtime, plan, force=serving.force, quiet=serving.quiet)
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


def _print_ready(
    address: "Address", resident: tuple[ResidentModel, ...], key: "ApiKey | None", serving: Serving
) -> None:
    names = [one.model.name for one in resident]
    file = str(key.file.absolute()) if key is not None and key.file is not None else None
    if serving.as_json:
        print_json({"url": address.url, "models": names, "key_file": file}, indent=None)
        return
    print_line(f"Serving {', '.join(names)} at {address.url}/v1", wrap=False)
    for alias, name in serving.aliases.items():
        print_line(f"  also called {single_line(alias)}: {name}", wrap=False)
    if file is not None:
        print_line(f"API key: in {file}", wrap=False)
        name = single_line(file).replace('"', '\\"')
        curl = f'curl -H "Authorization: Bearer $(cat "{name}")" {address.url}/v1/models'
        print_line(f"  {curl}", wrap=False)
    elif key is not None:
        print_line("API key: LOCALLLM_API_KEY")
    print_line("Ctrl+C stops.")
