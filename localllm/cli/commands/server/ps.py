"""`localllm ps`: the running server and the models in its memory."""

import asyncio
import time
from datetime import datetime

import click

from localllm.cli import options
from localllm.cli.local_server.running import instance_option, running_server
from localllm.cli.output import columns, info, print_json, print_line
from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.library.files.server_file import RunningServer
from localllm.server.local.client import ModelStatus, connected


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Models that are not in memory, too.")
@instance_option
@options.JSON
def command(show_all: bool, instance: str | None, as_json: bool) -> None:
    """The running server, the models in its memory and why they are there."""
    server = running_server(instance)
    models = asyncio.run(_models(server))
    shown = [each for each in models if show_all or each.state != "unloaded" or each.kept]
    if as_json:
        print_json({"server": _document(server), "models": [each.document for each in shown]})
        return
    _print_server(server)
    if not shown:
        print_line(f"No model is in memory; {len(models)} are loaded when a request names one.")
        return
    rows: list[tuple[str, ...]] = [
        ("MODEL", "QUANT", "STATE", "LAST USED", "KEPT", "MEMORY", "REQUESTS"),
        *(row(each) for each in shown),
    ]
    for i, line in enumerate(columns(rows, left=5)):
        print_line(line, bold=i == 0, wrap=False)
    for each in shown:
        if each.plan is not None:
            info(single_line(each.plan), wrap=True)


async def _models(server: RunningServer) -> tuple[ModelStatus, ...]:
    async with connected(server) as client:
        return await client.models()


def _document(server: RunningServer) -> dict[str, object]:
    return {
        "url": server.url,
        "socket": server.socket,
        "pid": server.pid,
        "version": server.version,
        "started_at": server.started_at,
        "key_file": server.key_file,
        "log_file": server.log_file,
    }


def _print_server(server: RunningServer) -> None:
    since = datetime.fromtimestamp(server.started_at).astimezone()
    up = format_duration(max(0.0, time.time() - server.started_at))
    info(f"{server.where}, process {server.pid}, since {since:%Y-%m-%d %H:%M} ({up})")


def row(model: ModelStatus) -> tuple[str, ...]:
    """Write a model's line of the table: what it was planned to take, and what it takes."""
    return (
        model.name,
        model.quant or "?",
        model.state if model.progress is None else f"{model.state} {model.progress:.0%}",
        _last_used(model),
        _kept(model),
        _memory(model),
        "" if model.slots is None and not model.requests else _requests(model),
    )


def _last_used(model: ModelStatus) -> str:
    if model.requests:
        return "now"
    return "" if model.last_used_s is None else f"{format_duration(model.last_used_s)} ago"


def _kept(model: ModelStatus) -> str:
    if model.state == "unloaded":
        return model.kept or ""
    if model.pinned:
        return "pinned"
    if model.keep_alive_s < 0:
        return "until its memory is needed"
    if model.expires_in_s is not None:
        return f"{format_duration(model.expires_in_s)} more"
    return f"{format_duration(model.keep_alive_s)} after use"


def _memory(model: ModelStatus) -> str:
    if model.state == "unloaded":
        return f"{format_bytes(model.size_bytes)} on disk"
    return "?" if model.estimated_bytes is None else format_bytes(model.estimated_bytes)


def _requests(model: ModelStatus) -> str:
    return str(model.requests) if model.slots is None else f"{model.requests} of {model.slots}"
